/**
 * The catalog's connections: a bounded pool of sessions, rows in the shapes of types.ts, and transactions.
 *
 * Every session runs in UTC with schema `ballast` first in its search_path. Conversions are made here and nowhere else:
 * column names to camelCase, timestamptz to ISO 8601 with microseconds, bigint and numeric to numbers.
 * Errors: what the server refuses comes out as pg's DatabaseError (it has `code`); a catalog that cannot be reached
 * comes out as AppError 'unavailable'.
 */
import pg from 'pg';
import { AppError, isAppError } from '../lib/errors.ts';
import type { Logger } from '../lib/log.ts';
import type { Queryable } from './types.ts';

export interface CatalogConnection {
  /** Host name, address, or the directory of a Unix socket. */
  host: string;
  port: number;
  user: string;
  database: string;
  password: string | undefined;
  ssl: boolean | { rejectUnauthorized: boolean };
  /** Startup options (`-c name=value`, `endpoint=…`) that the server of somebody else may need. */
  options?: string | undefined;
}

export interface CatalogDatabaseOptions {
  connection: CatalogConnection;
  logger: Logger;
  /** Shown in pg_stat_activity. */
  name?: string;
  maxConnections?: number;
  /** How long a caller waits for a free session before it gets 'unavailable'. */
  acquireTimeoutMs?: number;
}

export interface TransactionOptions {
  /**
   * False where losing the transaction in a crash is as good as never having begun it: the commit does not wait for
   * the disk. The order of commits is kept all the same.
   */
  durable?: boolean;
}

const TRANSACTION_TRIES = 8;
const QUERY_TIMEOUT_MS = 30_000;
const SESSION_OPTIONS =
  '-c search_path=ballast,pg_catalog -c timezone=UTC -c datestyle=ISO -c statement_timeout=60s -c idle_in_transaction_session_timeout=60s';

export class CatalogDatabase implements Queryable {
  readonly #pool: pg.Pool;
  readonly #logger: Logger;
  readonly #clientConfig: pg.ClientConfig;

  constructor(options: CatalogDatabaseOptions) {
    this.#logger = options.logger;
    this.#clientConfig = {
      ...options.connection,
      options: [options.connection.options, SESSION_OPTIONS].filter(Boolean).join(' '),
      application_name: options.name ?? 'ballast',
      keepAlive: true,
      // A server that does not answer at all cannot end a statement by itself.
      query_timeout: QUERY_TIMEOUT_MS,
      types: { getTypeParser },
    };
    this.#pool = new pg.Pool({
      ...this.#clientConfig,
      max: options.maxConnections ?? 10,
      connectionTimeoutMillis: options.acquireTimeoutMs ?? 20_000,
      idleTimeoutMillis: 60_000,
    });
    // An idle session that the server ends is replaced by the pool; without a listener it would end the process.
    this.#pool.on('error', (error) => {
      if (!this.#pool.ending) this.#logger.warn({ err: error }, 'a catalog session ended');
    });
    // Between the moment a session is handed out and the moment its user listens, it may end as well.
    this.#pool.on('connect', (client) => client.on('error', () => undefined));
  }

  async query<Row>(text: string, values?: readonly unknown[], name?: string): Promise<Row[]> {
    try {
      return await run<Row>(this.#pool, text, values, name);
    } catch (error) {
      throw translate(error);
    }
  }

  /**
   * Runs `work` in one transaction (read committed). Deadlocks and serialization failures run it again, so it must not
   * do anything outside the transaction.
   */
  async transaction<T>(work: (tx: Queryable) => Promise<T>, options: TransactionOptions = {}): Promise<T> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.#attempt(work, options);
      } catch (error) {
        if (attempt >= TRANSACTION_TRIES || !isRetryable(error)) throw translate(error);
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 10 * 2 ** attempt));
      }
    }
  }

  async #attempt<T>(work: (tx: Queryable) => Promise<T>, options: TransactionOptions): Promise<T> {
    const client = await this.#pool.connect();
    let broken: Error | undefined;
    // Between two statements nobody awaits the session, so its end must be caught here.
    const onError = (error: Error): void => void (broken = error);
    client.on('error', onError);
    try {
      await client.query(options.durable === false ? 'begin; set local synchronous_commit to off' : 'begin');
      const result = await work({
        query: (text, values, name) => run(client, text, values, name),
      });
      await client.query('commit');
      return result;
    } catch (error) {
      if (isConnectionFailure(error)) broken ??= error as Error;
      else await client.query('rollback').catch((rollback: Error) => (broken ??= rollback));
      throw error;
    } finally {
      client.off('error', onError);
      client.release(broken);
    }
  }

  /**
   * Calls `onNotify` with the payload of each notification on `channel`, over a session of its own that is opened again
   * when it breaks. What was notified in between is lost: poll as well.
   */
  listen(channel: string, onNotify: (payload: string) => void): { close(): Promise<void> } {
    let closed = false;
    let client: pg.Client | undefined;
    let timer: NodeJS.Timeout | undefined;
    const open = async (): Promise<void> => {
      const next = new pg.Client(this.#clientConfig);
      client = next;
      const again = (): void => {
        if (closed || client !== next) return;
        client = undefined;
        timer = setTimeout(() => void open(), 1_000);
      };
      next.on('error', again);
      next.on('end', again);
      next.on('notification', (message) => onNotify(message.payload ?? ''));
      try {
        await next.connect();
        await next.query(`listen ${pg.escapeIdentifier(channel)}`);
      } catch (error) {
        this.#logger.debug({ err: error }, 'cannot listen to the catalog yet');
        again();
        await next.end().catch(() => {});
      }
    };
    const opening = open();
    return {
      close: async () => {
        closed = true;
        clearTimeout(timer);
        await opening;
        await client?.end().catch(() => {});
      },
    };
  }

  async close(): Promise<void> {
    await this.#pool.end();
  }
}

async function run<Row>(
  target: pg.Pool | pg.PoolClient,
  text: string,
  values: readonly unknown[] | undefined,
  name: string | undefined,
): Promise<Row[]> {
  const result = await target.query<unknown[]>({
    text,
    rowMode: 'array',
    ...(values === undefined ? {} : { values: values as unknown[] }),
    ...(name === undefined ? {} : { name }),
  });
  // A text of several statements (a migration) answers with one result each; the last one counts.
  return toRows<Row>(Array.isArray(result) ? (result as pg.QueryArrayResult<unknown[]>[]).at(-1)! : result);
}

function toRows<Row>(result: pg.QueryArrayResult<unknown[]>): Row[] {
  const keys = result.fields.map((field) => camelCase(field.name));
  return result.rows.map((values) => {
    const row: Record<string, unknown> = {};
    for (let index = 0; index < keys.length; index += 1) row[keys[index]!] = values[index];
    return row as Row;
  });
}

// Column names are ours and few: the cache is bounded by the schema.
const camelNames = new Map<string, string>();

function camelCase(name: string): string {
  let camel = camelNames.get(name);
  if (camel === undefined) {
    camel = name.replace(/_([a-z0-9])/g, (_match, letter: string) => letter.toUpperCase());
    camelNames.set(name, camel);
  }
  return camel;
}

const BIGINT = 20;
const NUMERIC = 1700;
const TIMESTAMPTZ = 1184;
const TIMESTAMPTZ_ARRAY = 1185;
const BIGINT_ARRAY = 1016;

function getTypeParser(oid: number, format?: string): (value: string) => unknown {
  if (oid === BIGINT || oid === NUMERIC) return toNumber;
  if (oid === TIMESTAMPTZ) return isoTimestamp;
  if (oid === TIMESTAMPTZ_ARRAY || oid === BIGINT_ARRAY) {
    throw new Error('arrays of bigint or timestamptz are not converted; return them as JSON or as text');
  }
  return pg.types.getTypeParser(oid, format as 'text');
}

function toNumber(text: string): number | string {
  const number = Number(text);
  return Number.isInteger(number) && !Number.isSafeInteger(number) ? text : number;
}

/** `2026-01-16 21:02:04.2148+00` to `2026-01-16T21:02:04.214800Z`. */
export function isoTimestamp(text: string): string {
  const match = /^(\d{4,}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d+))?\+00$/.exec(text);
  if (!match) return text;
  return `${match[1]}T${match[2]}.${(match[3] ?? '').padEnd(6, '0')}Z`;
}

/** The SQLSTATE of an error that the server reported. */
export function sqlState(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.code : undefined;
}

function isRetryable(error: unknown): boolean {
  const state = sqlState(error);
  return state === '40001' || state === '40P01';
}

/** Class 08 and 57P01-57P03: the server goes away, comes up, or ended the session; 53300: no session is left. */
function isConnectionState(state: string): boolean {
  return state.startsWith('08') || state.startsWith('57P') || state === '53300';
}

function translate(error: unknown): unknown {
  if (isAppError(error)) return error;
  const state = sqlState(error);
  if (state !== undefined && !isConnectionState(state)) return error;
  if (state === undefined && !isConnectionFailure(error)) return error;
  return new AppError('unavailable', 'the control plane database cannot be reached, try again', { cause: error });
}

function isConnectionFailure(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const code = (error as NodeJS.ErrnoException).code ?? '';
  if (/^(ECONN|ENOENT|EPIPE|ETIMEDOUT|EHOST|ENET|ENOTFOUND|EAI_|EACCES)/.test(code)) return true;
  return /connection terminated|timeout exceeded when trying to connect|connection timeout|client has encountered a connection error|not queryable|query read timeout/i.test(
    error.message,
  );
}

/**
 * Connection of a `postgres://` or `postgresql://` URL. `sslmode` follows libpq: disable, prefer and allow mean plain,
 * require encrypts without checking the certificate, verify-ca and verify-full check it.
 * Throws AppError 'invalid' that never repeats the URL, which may hold a password.
 */
export function parseCatalogUrl(text: string): CatalogConnection {
  let url: URL;
  try {
    // libpq allows a URL without a host, whose directory of sockets is in `host`; URL does not.
    url = new URL(text.replace(/^(postgres(?:ql)?:\/\/(?:[^/@]*@)?)\//, '$1localhost/'));
  } catch {
    throw new AppError('invalid', '--catalog-url is not a URL like postgres://user:password@host:5432/database');
  }
  if (url.protocol !== 'postgres:' && url.protocol !== 'postgresql:') {
    throw new AppError('invalid', '--catalog-url must begin with postgres://');
  }
  const sslmode = url.searchParams.get('sslmode') ?? 'prefer';
  const user = decodeURIComponent(url.username) || 'postgres';
  return {
    host: url.searchParams.get('host') ?? (decodeURIComponent(url.hostname) || '127.0.0.1'),
    port: Number(url.port || url.searchParams.get('port') || 5432),
    user,
    database: decodeURIComponent(url.pathname.slice(1)) || user,
    password: url.password === '' ? undefined : decodeURIComponent(url.password),
    ssl: sslmode === 'require' ? { rejectUnauthorized: false } : sslmode.startsWith('verify'),
    options: url.searchParams.get('options') ?? undefined,
  };
}
