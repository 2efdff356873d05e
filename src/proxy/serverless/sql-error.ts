/**
 * Errors of SQL over HTTP: status and body, all fields that Postgres knows, null where there is none.
 */
import { isAppError } from '../../lib/errors.ts';
import { PostgresRefusal, Refusal } from '../refusal.ts';
import { QueryFailed, ResponseTooLarge } from './sql-answer.ts';
import { parseErrorMessage } from './sql-messages.ts';

export class RequestTooLarge extends Error {
  constructor(maxBytes: number) {
    super(`request is too large (max is ${maxBytes} bytes)`);
  }
}

/** The compute's connection ended in the middle of a query. */
export class QueryInterrupted extends Error {
  constructor() {
    super('Query cancelled, connection was terminated');
  }
}

/** Property by field letter of the protocol, in the order of the body. */
const FIELDS = [
  ['code', 'C'],
  ['detail', 'D'],
  ['hint', 'H'],
  ['position', 'P'],
  ['internalPosition', 'p'],
  ['internalQuery', 'q'],
  ['severity', 'S'],
  ['where', 'W'],
  ['table', 't'],
  ['column', 'c'],
  ['schema', 's'],
  ['dataType', 'd'],
  ['constraint', 'n'],
  ['file', 'F'],
  ['line', 'L'],
  ['routine', 'R'],
] as const;

export interface ErrorAnswer {
  status: number;
  body: Record<string, string | null>;
}

export function errorAnswer(error: unknown): ErrorAnswer {
  if (error instanceof QueryInterrupted) return { status: 400, body: { message: error.message, code: '08P01' } };
  if (error instanceof QueryFailed) return { status: 400, body: fromPostgres(error.fields) };
  if (error instanceof PostgresRefusal) return { status: 400, body: fromPostgres(parseErrorMessage(error.raw)) };
  if (error instanceof RequestTooLarge) return { status: 413, body: own(error.message) };
  if (error instanceof ResponseTooLarge) return { status: 507, body: own(error.message) };
  if (error instanceof Refusal) {
    const body = own(error.message);
    // XX000 is what proxies say to Postgres clients when there is nothing to say.
    if (error.code !== 'XX000') body['code'] = error.code;
    return { status: error.serverSide ? 500 : 400, body };
  }
  if (isAppError(error)) return { status: 500, body: own(error.message) };
  return { status: 500, body: own('Internal error') };
}

function fromPostgres(fields: ReadonlyMap<string, string>): Record<string, string | null> {
  const body: Record<string, string | null> = { message: fields.get('M') ?? '' };
  for (const [name, letter] of FIELDS) body[name] = fields.get(letter) ?? null;
  return body;
}

function own(message: string): Record<string, string | null> {
  return { ...fromPostgres(new Map([['M', message]])), code: '', severity: '' };
}
