/**
 * @neondatabase/serverless: neon(), SQL over HTTP. Plain Postgres does not speak HTTP: what is expected there is what
 * `pg`, whose types and errors the driver has, says of the same statements.
 */
import { neon, neonConfig, type FullQueryResults } from '@neondatabase/serverless';
import { configOf, plain } from './pg.ts';
import pg from 'pg';
import type { Target } from '../paths.ts';
import type { Driver, OpenOptions, Session, Statement, TransactionOptions } from '../session.ts';

export const httpDriver: Driver = {
  name: 'serverless over HTTP',
  paths: ['http'],
  can: () => ['transaction'],
  open: (target, options) => (target.path === 'plain' ? openPlain(target, options) : openHttp(target, options)),
};

const LEVELS = {
  'read uncommitted': 'ReadUncommitted',
  'read committed': 'ReadCommitted',
  'repeatable read': 'RepeatableRead',
  serializable: 'Serializable',
} as const;

export function httpUri(target: Target, options: OpenOptions = {}): string {
  const password = encodeURIComponent(options.password ?? target.password);
  return `postgresql://${target.user}:${password}@${target.host}/${options.database ?? target.database}`;
}

async function openHttp(target: Target, options: OpenOptions = {}): Promise<Session> {
  neonConfig.fetchEndpoint = () => target.fetchEndpoint!;
  const sql = neon(httpUri(target, options), { fullResults: true });
  return {
    query: (text, values) => alike(sql.query(text, values && [...values]).then(answer)),
    close: async () => {},
    transaction: (statements, { isolation, readOnly }: TransactionOptions = {}) =>
      alike(
        sql
          .transaction(
            statements.map(({ text, values = [] }) => sql.query(text, [...values])),
            { ...(isolation && { isolationLevel: LEVELS[isolation] }), ...(readOnly && { readOnly }) },
          )
          .then((results) => results.map(answer)),
      ),
  };
}

async function openPlain(target: Target, options: OpenOptions = {}): Promise<Session> {
  const client = new pg.Client(configOf(target, options));
  client.on('error', () => {});
  await alike(client.connect());
  return {
    query: (text, values) => alike(client.query(text, values && [...values]).then(withoutKind)),
    close: () => client.end(),
    transaction: (statements, options_) => alike(inTransaction(client, statements, options_)),
  };
}

async function inTransaction(client: pg.Client, statements: readonly Statement[], options: TransactionOptions = {}) {
  const { isolation, readOnly } = options;
  await client.query(`begin ${isolation ? `isolation level ${isolation}` : ''} ${readOnly ? 'read only' : ''}`);
  try {
    const answers: unknown[] = [];
    for (const { text, values = [] } of statements) answers.push(withoutKind(await client.query(text, [...values])));
    await client.query('commit');
    return answers;
  } catch (error) {
    await client.query('rollback');
    throw error;
  }
}

function answer({ command, rowCount, fields, rows }: FullQueryResults<false>) {
  return { command, rowCount, fields, rows };
}

function withoutKind(result: pg.QueryResult) {
  const { fields, ...rest } = plain(result);
  return { ...rest, fields: fields.map((field) => ({ ...field })) };
}

const FIELDS = [
  ...['severity', 'code', 'detail', 'hint', 'position', 'internalPosition', 'internalQuery', 'where', 'schema'],
  ...['table', 'column', 'dataType', 'constraint', 'file', 'line', 'routine'],
];

/** Errors of the two are of different classes; the fields of Postgres are what must be the same. */
export async function alike<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    const outer = error as Error;
    const given = (outer.cause instanceof Error ? outer.cause : outer) as Error & Record<string, unknown>;
    const same: Record<string, unknown> & Error = new Error(given.message) as never;
    for (const field of FIELDS) same[field] = given[field] ?? null;
    throw same;
  }
}
