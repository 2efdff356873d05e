/** How sessions end: whoever closes first, no half of a connection stays behind. */
import net from 'node:net';
import type { Socket } from 'node:net';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { startPlainPostgres } from '../../test/support/plain-postgres.ts';
import type { PlainPostgres } from '../../test/support/plain-postgres.ts';
import { endpointNamed, startTestProxy } from '../../test/support/proxy.ts';
import type { TestProxy } from '../../test/support/proxy.ts';
import { waitFor } from '../../test/support/wait.ts';

const TERMINATE = Buffer.from([0x58, 0, 0, 0, 4]);
let postgres: PlainPostgres;
let proxy: TestProxy;
const streams: Socket[] = [];

beforeAll(async () => {
  postgres = await startPlainPostgres();
  await postgres.query(`create role me login password 'right'`);
  proxy = await startTestProxy({ wake: postgres.socketPath });
  proxy.endpoints.set('ep-pooled', endpointNamed('ep-pooled'));
  const [role] = await postgres.query<{ rolpassword: string }>(
    `select rolpassword from pg_authid where rolname = 'me'`,
  );
  proxy.verifiers.set('me', role!.rolpassword);
});
afterEach(() => {
  for (const stream of streams.splice(0)) stream.destroy();
});
afterAll(async () => {
  await proxy?.close();
  await postgres?.stop();
});

/** A session on a socket that never closes its own side by itself. */
async function session(ssl = false): Promise<{ client: pg.Client; stream: Socket; pid: number }> {
  const stream = new net.Socket({ allowHalfOpen: true });
  streams.push(stream);
  const client = new pg.Client({
    host: '127.0.0.1',
    port: proxy.proxy.port,
    user: 'me',
    password: 'right',
    database: 'postgres',
    options: 'endpoint=ep-test',
    ssl: ssl && { rejectUnauthorized: false },
    stream: () => stream,
  });
  client.on('error', () => undefined);
  await client.connect();
  const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() pid');
  const onTop = (client as unknown as { connection: { stream: Socket } }).connection.stream;
  onTop.on('error', () => undefined);
  return { client, stream: onTop, pid: rows[0]!.pid };
}

const backendGone = (pid: number) =>
  waitFor(
    `backend ${pid} to end`,
    async () => (await postgres.query(`select from pg_stat_activity where pid = ${pid}`)).length === 0,
    {
      timeoutMs: 60_000,
    },
  );
const sessionsGone = () => waitFor('every session to end', async () => proxy.proxy.stats().sessions === 0);

describe.each([false, true])('TLS: %s', (ssl) => {
  test('a goodbye ends both sides, also of a client that does not hang up', async () => {
    const { stream, pid } = await session(ssl);
    stream.write(TERMINATE);
    await backendGone(pid);
    await sessionsGone();
  });

  test('a client that hangs up without a word takes its backend along', async () => {
    const { stream, pid } = await session(ssl);
    stream.end();
    await backendGone(pid);
    await sessionsGone();
  });

  test('a client that breaks off takes its backend along, in the middle of an answer as well', async () => {
    const { client, stream, pid } = await session(ssl);
    client.query('select generate_series(1, 100000000)').catch(() => undefined);
    await new Promise((resolve) => stream.once('data', resolve));
    stream.destroy();
    await backendGone(pid);
    await sessionsGone();
  });

  test('when Postgres ends first the client is told and let go, whatever it still sends', async () => {
    const { client, stream, pid } = await session(ssl);
    const ended = new Promise<void>((resolve) => stream.once('end', resolve));
    const told = new Promise<Error>((resolve) => client.once('error', resolve));
    await postgres.query(`select pg_terminate_backend(${pid})`);
    expect((await told).message).toMatch(/terminating connection/);
    await ended;
    const chatter = setInterval(() => stream.writable && stream.write('x'), 100);
    await sessionsGone().finally(() => clearInterval(chatter));
  });
});

test('what was asked before a goodbye is still done', async () => {
  await postgres.query('create table said (what text)');
  await postgres.query('grant all on said to me');
  const { stream, pid } = await session();
  const query = Buffer.from(`select pg_sleep(0.3); insert into said values ('last')\0`);
  const header = Buffer.from([0x51, 0, 0, 0, 0]);
  header.writeUInt32BE(query.length + 4, 1);
  stream.end(Buffer.concat([header, query, TERMINATE]));
  await backendGone(pid);
  expect(await postgres.query('select what from said')).toEqual([{ what: 'last' }]);
  await sessionsGone();
});
