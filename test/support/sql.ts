/**
 * Short-lived Postgres sessions through the proxy with the unmodified `pg` driver.
 */
import pg from 'pg';
import type { Place } from './api.ts';

const CONNECT_TIMEOUT_MS = 120_000;

/** A connected client; the caller ends it. A connection that breaks while idle is not an uncaught error. */
export async function connect(uri: string, options: pg.ClientConfig = {}): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: uri, connectionTimeoutMillis: CONNECT_TIMEOUT_MS, ...options });
  client.on('error', () => {});
  try {
    await client.connect();
  } catch (error) {
    await client.end().catch(() => {});
    throw error;
  }
  return client;
}

export async function withClient<T>(uri: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = await connect(uri);
  try {
    return await work(client);
  } finally {
    await client.end().catch(() => {});
  }
}

/** Rows of one query on a session of its own. */
export async function query<Row extends pg.QueryResultRow = any>(
  uri: string,
  sql: string,
  values?: unknown[],
): Promise<Row[]> {
  return withClient(uri, async (client) => (await client.query<Row>(sql, values)).rows);
}

/** The first column of the first row. */
export async function scalar(uri: string, sql: string, values?: unknown[]): Promise<any> {
  const [row] = await query(uri, sql, values);
  return row === undefined ? undefined : Object.values(row)[0];
}

/** SQLSTATE and message of the failure, or undefined when it worked. */
export async function failureOf(work: () => Promise<unknown>): Promise<{ code: string; message: string } | undefined> {
  try {
    await work();
    return undefined;
  } catch (error) {
    const { code = '', message } = error as { code?: string; message: string };
    return { code, message };
  }
}

/** The place's URI with another role, password or database. */
export function uriWith(place: Place, change: { role?: string; password?: string; database?: string }): string {
  const uri = new URL(place.uri);
  if (change.role !== undefined) uri.username = encodeURIComponent(change.role);
  if (change.password !== undefined) uri.password = encodeURIComponent(change.password);
  if (change.database !== undefined) uri.pathname = `/${encodeURIComponent(change.database)}`;
  return uri.toString();
}
