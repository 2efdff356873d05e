/**
 * Sessions of `cloud_admin`, Ballast's own superuser, over a server's Unix socket.
 *
 * A database's or role's settings apply to whoever connects, so a tenant could plant a search_path full of functions
 * or a library that does not exist. Startup options outrank both, so every internal session pins what could be used
 * against it. SQL here must still schema-qualify what it calls.
 */
import pg from 'pg';
import { AppError } from '../lib/errors.ts';

export interface InternalLogin {
  socketDirectory: string;
  port: number;
  database: string;
  /** cloud_admin's secret. */
  secret: string;
  /** Which options can be pinned depends on it. */
  major: number;
  connectTimeoutMs?: number;
}

/** Rows as arrays of text or null, as Postgres sent them. */
export type InternalRows = (string | null)[][];

export interface InternalSession {
  query(sql: string, values?: readonly (string | null)[]): Promise<InternalRows>;
  close(): Promise<void>;
}

/** Anybody may set these for a session of their own. */
const PINNED_OPTIONS = [
  'search_path=pg_catalog,pg_temp',
  'local_preload_libraries=',
  'role=none',
  'statement_timeout=0',
  'lock_timeout=0',
  'idle_in_transaction_session_timeout=0',
  'idle_session_timeout=0',
  'default_transaction_read_only=off',
  'default_transaction_isolation=read\\ committed',
  'default_transaction_deferrable=off',
  'synchronous_commit=on',
  'standard_conforming_strings=on',
  'check_function_bodies=on',
  'DateStyle=ISO',
  'TimeZone=UTC',
  'bytea_output=hex',
] as const;

/** Only superusers set these, so no tenant has changed them for others. */
const SUPERUSER_OPTIONS = [
  'session_preload_libraries=',
  'log_statement=none',
  'log_min_duration_statement=-1',
] as const;

/** As the startup parameter `options` takes them. */
export function pinnedOptions(major: number, login: 'superuser' | 'other' = 'superuser'): string {
  const pinned: string[] = [...PINNED_OPTIONS];
  if (login === 'superuser') pinned.push(...SUPERUSER_OPTIONS);
  // Unknown to earlier majors.
  if (major >= 17) pinned.push('transaction_timeout=0');
  if (major >= 17 && login === 'superuser') pinned.push('event_triggers=off');
  return pinned.map((option) => `-c ${option}`).join(' ');
}

const asText = { getTypeParser: () => (value: unknown) => value };

/** Throws AppError 'unavailable' when the server cannot be reached or refuses the login. */
export async function openInternalSession(login: InternalLogin): Promise<InternalSession> {
  const client = new pg.Client({
    host: login.socketDirectory,
    port: login.port,
    database: login.database,
    user: 'cloud_admin',
    password: login.secret,
    application_name: 'ballast',
    options: pinnedOptions(login.major),
    connectionTimeoutMillis: login.connectTimeoutMs ?? 10_000,
  });
  // Without a listener, a server that goes away would take the whole process down.
  client.on('error', () => undefined);
  try {
    await client.connect();
  } catch (cause) {
    throw new AppError('unavailable', 'the compute does not accept internal sessions', { cause });
  }
  return {
    query: async (sql, values) => {
      const result = await client.query({
        text: sql,
        ...(values && { values: [...values] }),
        rowMode: 'array',
        types: asText as unknown as pg.CustomTypesConfig,
      });
      // Several statements in one string answer with one result each; the last is the one that was asked for.
      const last = Array.isArray(result) ? (result as pg.QueryArrayResult[]).at(-1)! : result;
      return last.rows as InternalRows;
    },
    close: () => client.end(),
  };
}

/** Opens a session, works, closes it whatever happens. */
export async function withInternalSession<T>(
  login: InternalLogin,
  work: (session: InternalSession) => Promise<T>,
): Promise<T> {
  const session = await openInternalSession(login);
  try {
    return await work(session);
  } finally {
    await session.close().catch(() => undefined);
  }
}

/** Quotes a name as an SQL identifier. */
export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** Quotes text as an SQL literal; relies on standard_conforming_strings, which is pinned. */
export function quoteLiteral(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}
