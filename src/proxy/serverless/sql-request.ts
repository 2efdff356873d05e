/**
 * What a request of `POST /sql` asks for: its headers and its body, checked.
 */
import type { IncomingHttpHeaders } from 'node:http';
import { Refusal } from '../refusal.ts';
import { elementsOf, exactValue, mayBeInexact, membersOf, skipSpace } from './exact-json.ts';
import { toPostgresText } from './parameters.ts';

export interface Query {
  text: string;
  /** Postgres text; null: NULL. */
  parameters: (string | null)[];
  arrayMode: boolean;
}

export interface BatchMode {
  isolation: string | undefined;
  readOnly: boolean;
  deferrable: boolean;
}

export interface SqlHeaders {
  connectionString: string | undefined;
  /** Of `Authorization: Bearer …`. */
  token: string | undefined;
  rawText: boolean;
  arrayMode: boolean;
  batch: BatchMode;
  /** What a batch's answer repeats. */
  echo: Record<string, string>;
}

const ISOLATION = new Map([
  ['ReadUncommitted', 'READ UNCOMMITTED'],
  ['ReadCommitted', 'READ COMMITTED'],
  ['RepeatableRead', 'REPEATABLE READ'],
  ['Serializable', 'SERIALIZABLE'],
]);
const MAX_PARAMETERS = 65_535;

/** Throws Refusal. */
export function readSqlHeaders(headers: IncomingHttpHeaders): SqlHeaders {
  const text = (name: string) => headers[name] as string | undefined;
  const isTrue = (name: string) => text(name) === 'true';
  const isolationName = text('neon-batch-isolation-level');
  const isolation = isolationName === undefined ? undefined : ISOLATION.get(isolationName);
  if (isolationName !== undefined && isolation === undefined) throw new Refusal('invalid isolation level');
  const readOnly = isTrue('neon-batch-read-only');
  const deferrable = isTrue('neon-batch-deferrable');
  return {
    connectionString: text('neon-connection-string'),
    token: bearerToken(headers.authorization),
    rawText: isTrue('neon-raw-text-output'),
    arrayMode: isTrue('neon-array-mode'),
    batch: { isolation, readOnly, deferrable },
    echo: {
      ...(isolationName !== undefined && { 'neon-batch-isolation-level': isolationName }),
      ...(readOnly && { 'neon-batch-read-only': 'true' }),
      ...(deferrable && { 'neon-batch-deferrable': 'true' }),
    },
  };
}

/** Throws Refusal for any other kind of authorization. */
function bearerToken(authorization: string | undefined): string | undefined {
  if (authorization === undefined) return undefined;
  const token = /^Bearer +(\S+)$/i.exec(authorization)?.[1];
  if (token !== undefined) return token;
  throw new Refusal(
    'invalid connection string: missing authentication credentials: required authorization bearer token in JWT format',
  );
}

/** The text of BEGIN. */
export function beginText({ isolation, readOnly, deferrable }: BatchMode): string {
  const modes = [
    isolation === undefined ? '' : ` ISOLATION LEVEL ${isolation}`,
    readOnly ? ' READ ONLY' : '',
    deferrable ? ' DEFERRABLE' : '',
  ];
  return `BEGIN${modes.join('')}`;
}

export interface SqlBody {
  batch: boolean;
  queries: Query[];
}

/** Throws Refusal. */
export function parseSqlBody(body: Buffer, arrayMode: boolean): SqlBody {
  const json = body.toString('utf8');
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    throw new Refusal('invalid request body: it is not JSON');
  }
  if (!isObject(value)) throw new Refusal('invalid request body: expected an object');
  const { queries } = value;
  const start = skipSpace(json, 0);
  if (queries === undefined) return { batch: false, queries: [parseQuery(value, arrayMode, json, () => start)] };
  if (!Array.isArray(queries)) throw new Refusal('invalid request body: `queries` must be an array');
  // Only looked for when a parameter needs it.
  let starts: number[] | undefined;
  const startOf = (index: number) => (starts ??= elementsOf(json, membersOf(json, start).get('queries')!))[index]!;
  return {
    batch: true,
    queries: queries.map((query: unknown, index) => parseQuery(query, arrayMode, json, () => startOf(index))),
  };
}

function parseQuery(value: unknown, arrayMode: boolean, json: string, start: () => number): Query {
  if (!isObject(value)) throw new Refusal('invalid request body: a query must be an object');
  const { query, params = [], arrayMode: own } = value;
  if (typeof query !== 'string') throw new Refusal('invalid request body: missing field `query`');
  if (!Array.isArray(params)) throw new Refusal('invalid request body: `params` must be an array');
  if (params.length > MAX_PARAMETERS) throw new Refusal(`invalid request body: more than ${MAX_PARAMETERS} parameters`);
  const exact = params.some(mayBeInexact) ? exactValue(json, membersOf(json, start()).get('params')!) : params;
  const parameters = (exact as unknown[]).map((parameter) => toPostgresText(parameter));
  // Inside a message it would end the text, and the rest would be read as something else.
  if (query.includes('\0')) {
    throw new Refusal('invalid byte sequence for encoding "UTF8": 0x00', { code: '22021' });
  }
  return { text: query, parameters, arrayMode: typeof own === 'boolean' ? own : arrayMode };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
