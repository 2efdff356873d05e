/** The proxy in front of a real Postgres, used by real clients: psql, pg and postgres.js. */
import { execFile, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import postgresJs from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BUNDLED_MAJOR } from '../../test/support/installation.ts';
import { startPlainPostgres } from '../../test/support/plain-postgres.ts';
import type { PlainPostgres } from '../../test/support/plain-postgres.ts';
import { endpointNamed, startTestProxy } from '../../test/support/proxy.ts';
import type { TestProxy } from '../../test/support/proxy.ts';
import { waitFor } from '../../test/support/wait.ts';

const run = promisify(execFile);
const hasPsql = await run('psql', ['--version']).then(
  () => true,
  () => false,
);
const MIB = 1024 * 1024;
const until = (what: string, ask: () => boolean | Promise<boolean>) =>
  waitFor(what, async () => ask(), { intervalMs: 20 });

let postgres: PlainPostgres;
let proxy: TestProxy;

beforeAll(async () => {
  postgres = await startPlainPostgres(BUNDLED_MAJOR, { max_connections: '110' });
  await postgres.query(`create role me login createrole password 'right'`);
  await postgres.query('create database mine owner me');
  proxy = await startTestProxy({ wake: postgres.socketPath });
  proxy.endpoints.set('ep-pooled', endpointNamed('ep-pooled'));
  await readVerifiers();
});
afterAll(async () => {
  await proxy?.close();
  await postgres?.stop();
});

/** What the control plane does: Postgres is the truth. */
async function readVerifiers(): Promise<void> {
  const rows = await postgres.query<{ rolname: string; rolpassword: string }>(
    `select rolname, rolpassword from pg_authid where rolcanlogin and rolname <> 'postgres'`,
  );
  proxy.verifiers.clear();
  for (const { rolname, rolpassword } of rows) proxy.verifiers.set(rolname, rolpassword);
}

const config = (change: pg.ClientConfig = {}): pg.ClientConfig => ({
  host: '127.0.0.1',
  port: proxy.proxy.port,
  user: 'me',
  password: 'right',
  database: 'mine',
  options: 'endpoint=ep-test',
  ssl: false,
  ...change,
});

async function connect(change: pg.ClientConfig = {}): Promise<pg.Client> {
  const client = new pg.Client(config(change));
  client.on('error', () => undefined);
  await client.connect();
  return client;
}

function psql(conninfo: string, sql: string, password = 'right') {
  const base = `host=127.0.0.1 port=${proxy.proxy.port} user=me dbname=mine connect_timeout=10`;
  return run('psql', ['-AtXc', sql, `${base} ${conninfo}`], { env: { ...process.env, PGPASSWORD: password } });
}

describe.skipIf(!hasPsql)('psql (needs it installed)', () => {
  test.each([
    ['in the clear', 'sslmode=disable options=endpoint=ep-test'],
    ['over TLS, endpoint by options', 'sslmode=require options=endpoint=ep-test'],
    ['over TLS, endpoint by SNI', 'sslmode=require host=ep-test.localhost hostaddr=127.0.0.1'],
    ['with the pooled host name', 'sslmode=require host=ep-pooled-pooler.localhost hostaddr=127.0.0.1'],
    ['with channel binding', 'sslmode=require channel_binding=require host=ep-test.localhost hostaddr=127.0.0.1'],
    ['with GSSAPI preferred', 'gssencmode=prefer sslmode=require options=endpoint=ep-test'],
  ])('connects %s', async (_title, conninfo) => {
    const { stdout } = await psql(conninfo, 'select current_user');
    expect(stdout.trim()).toBe('me');
  });

  test('verifies the certificate and binds to it', async () => {
    const conninfo = `sslmode=verify-full sslrootcert=${proxy.tls.caFile} channel_binding=require`;
    const { stdout } = await psql(`${conninfo} host=ep-test.localhost hostaddr=127.0.0.1`, 'select 1');
    expect(stdout.trim()).toBe('1');
    await expect(psql(`${conninfo} host=ep-test.example.com hostaddr=127.0.0.1`, 'select 1')).rejects.toThrow(
      'does not match host name',
    );
  });

  test('names the endpoint with the password', async () => {
    for (const conninfo of ['sslmode=disable', 'sslmode=require']) {
      expect((await psql(conninfo, 'select 1', 'endpoint=ep-test;right')).stdout.trim()).toBe('1');
      expect((await psql(conninfo, 'select 1', 'project=ep-test$right')).stdout.trim()).toBe('1');
    }
  });

  test('gets the errors of Postgres as they are', async () => {
    await expect(psql('dbname=nowhere options=endpoint=ep-test', 'select 1')).rejects.toThrow(
      'FATAL:  database "nowhere" does not exist',
    );
  });

  test('copies in both directions', async () => {
    const rows = Array.from({ length: 50_000 }, (_, i) => `${i}\t${randomUUID()}`).join('\n');
    const child = spawn(
      'psql',
      [
        '-AtXq',
        '-c',
        'create table if not exists copied (i int, u uuid)',
        '-c',
        'truncate copied',
        '-c',
        'copy copied from stdin',
        '-c',
        'copy (table copied order by i) to stdout',
        `host=127.0.0.1 port=${proxy.proxy.port} user=me dbname=mine sslmode=require options=endpoint=ep-test`,
      ],
      { env: { ...process.env, PGPASSWORD: 'right' } },
    );
    const chunks: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
    child.stdin.end(`${rows}\n`);
    await new Promise((resolve) => child.on('close', resolve));
    expect(Buffer.concat(chunks).toString() === `${rows}\n`).toBe(true);
  });
});

describe('startup parameters', () => {
  const settings = async (change: pg.ClientConfig) => {
    const client = await connect(change);
    const names = ['application_name', 'search_path', 'client_encoding', 'statement_timeout'];
    const { rows } = await client.query('select name, setting from pg_settings where name = any($1)', [names]);
    await client.end();
    return Object.fromEntries(rows.map(({ name, setting }: { name: string; setting: string }) => [name, setting]));
  };

  test('that Neon passes on arrive, others do not', async () => {
    const given = { application_name: 'told', options: 'endpoint=ep-test -c search_path=elsewhere' };
    expect(await settings(given)).toMatchObject({
      application_name: 'told',
      search_path: 'elsewhere',
      client_encoding: 'UTF8',
    });
    expect(await settings({ statement_timeout: 4321 })).toMatchObject({ statement_timeout: '0' });
  });

  test('all arrive when the client asks for compatibility', async () => {
    const options = 'endpoint=ep-test neon_proxy_params_compat:true';
    expect(await settings({ options, statement_timeout: 4321 })).toMatchObject({ statement_timeout: '4321' });
  });

  test('the database defaults to the user name', async () => {
    await expect(connect({ database: '' })).rejects.toThrow('database "me" does not exist');
  });
});

describe('a session', () => {
  test('reports what Postgres reported, with a cancel key of the proxy', async () => {
    const client = new pg.Client(config());
    const statuses = new Map<string, string>();
    let processId: number | undefined;
    const { connection } = client as unknown as { connection: NodeJS.EventEmitter };
    connection.on('parameterStatus', (status: { parameterName: string; parameterValue: string }) =>
      statuses.set(status.parameterName, status.parameterValue),
    );
    connection.on('backendKeyData', (key: { processID: number }) => (processId = key.processID));
    await client.connect();
    const { rows } = await client.query('select pg_backend_pid() as pid');
    await client.end();
    expect(statuses.get('server_version')).toBeDefined();
    expect(statuses.get('is_superuser')).toBe('off');
    expect(processId).not.toBe(rows[0].pid);
  });

  test('of postgres.js works over TLS with prepared statements, cursors and parallel queries', async () => {
    const sql = postgresJs({
      host: '127.0.0.1',
      port: proxy.proxy.port,
      user: 'me',
      password: 'right',
      database: 'mine',
      max: 4,
      ssl: { rejectUnauthorized: false, servername: 'ep-test.localhost' },
    });
    const answers = await Promise.all(Array.from({ length: 40 }, (_, i) => sql`select ${i}::int as i`));
    expect(answers.map(([row]) => row!['i'])).toEqual(Array.from({ length: 40 }, (_, i) => i));
    let seen = 0;
    await sql`select generate_series(1, 1000)`.cursor(100, (rows) => void (seen += rows.length));
    expect(seen).toBe(1000);
    await sql.end();
  });

  test('hears notifications', async () => {
    const [listener, speaker] = await Promise.all([connect(), connect()]);
    const heard: (string | undefined)[] = [];
    listener.on('notification', ({ payload }) => heard.push(payload));
    await listener.query('listen news');
    await speaker.query(`notify news, 'hello'`);
    await until('the notification', () => heard.length > 0);
    expect(heard).toEqual(['hello']);
    await Promise.all([listener.end(), speaker.end()]);
  });

  test('carries a value of 64 MB both ways, in the clear and over TLS', async () => {
    const ssl = { rejectUnauthorized: false, servername: 'ep-test.localhost' };
    for (const change of [{}, { ssl }]) {
      const client = await connect(change);
      const value = 'x'.repeat(64 * MIB);
      const { rows } = await client.query('select $1::text as value', [value]);
      expect(rows[0].value === value).toBe(true);
      await client.end();
    }
  });

  test('that Postgres terminates ends with what Postgres said', async () => {
    const client = await connect();
    const { rows } = await client.query('select pg_backend_pid() as pid');
    const pending = client.query('select pg_sleep(30)').catch((error: Error & { code: string }) => error);
    await postgres.query(`select pg_terminate_backend(${rows[0].pid})`);
    expect(await pending).toMatchObject({ code: '57P01' });
    await until('the session to be forgotten', () => proxy.proxy.stats().sessions === 0);
  });

  test('whose client vanishes ends in Postgres too', async () => {
    const client = await connect({ application_name: 'vanishing' });
    (client as unknown as { connection: { stream: { resetAndDestroy(): void } } }).connection.stream.resetAndDestroy();
    await until('the backend to end', async () => {
      const rows = await postgres.query(`select 1 from pg_stat_activity where application_name = 'vanishing'`);
      return rows.length === 0 && proxy.proxy.stats().sessions === 0;
    });
    expect(proxy.proxy.stats().cancelKeys).toBe(0);
  });

  test('whose client has said its last word still gets the answer', async () => {
    const client = await connect();
    const { stream } = (client as unknown as { connection: { stream: Socket } }).connection;
    const pending = client.query('select 42 as answer');
    await new Promise((resolve) => setImmediate(resolve));
    stream.end();
    expect((await pending).rows).toEqual([{ answer: 42 }]);
  });
});

describe('a cancel request', () => {
  const canceller = (client: pg.Client) => {
    const { processID, secretKey } = client as unknown as { processID: number; secretKey: number };
    return { processID, secretKey };
  };
  const cancel = async (target: pg.Client, by: pg.Client = new pg.Client(config())) => {
    (by as unknown as { cancel(client: unknown, query: unknown): void }).cancel(
      { ...canceller(target), activeQuery: 'x', _getActiveQuery: () => 'x' },
      'x',
    );
  };

  test('reaches the query that it is for, and no other', async () => {
    const [one, other] = await Promise.all([connect(), connect()]);
    const slow = one.query('select pg_sleep(100)').catch((error: Error & { code: string }) => error);
    const unharmed = other.query('select pg_sleep(3), 1 as one');
    await until('both to run', async () => {
      const rows = await postgres.query(
        `select 1 from pg_stat_activity where query like 'select pg_sleep(%' and state = 'active'`,
      );
      return rows.length === 2;
    });
    await cancel(one);
    expect(await slow).toMatchObject({ code: '57014' });
    expect((await unharmed).rows[0].one).toBe(1);
    expect((await one.query('select 2 as two')).rows).toEqual([{ two: 2 }]);
    await Promise.all([one.end(), other.end()]);
  });

  test.skipIf(!hasPsql)('of psql, sent by Ctrl-C, works over TLS (needs psql)', async () => {
    const conninfo = `host=ep-test.localhost hostaddr=127.0.0.1 port=${proxy.proxy.port} user=me dbname=mine sslmode=require`;
    const child = spawn('psql', ['-AtXc', 'select pg_sleep(20)', conninfo], {
      env: { ...process.env, PGPASSWORD: 'right' },
    });
    let output = '';
    child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
    const exited = new Promise((resolve) => child.on('close', resolve));
    await until('the query to run', async () => {
      const rows = await postgres.query(
        `select 1 from pg_stat_activity where query like 'select pg_sleep(20)' and state = 'active'`,
      );
      return rows.length === 1;
    });
    child.kill('SIGINT');
    await exited;
    expect(output).toContain('canceling statement due to user request');
  });
});

describe('pressure', () => {
  test('a client that does not read makes the proxy hold little, and gets everything when it reads', async () => {
    const client = await connect();
    const { stream } = (client as unknown as { connection: { stream: Socket } }).connection;
    const before = await settledMemory();
    const pending = client.query({
      text: `select repeat('x', 1000) from generate_series(1, 150000)`,
      rowMode: 'array',
    });
    await new Promise((resolve) => setImmediate(resolve));
    stream.pause();
    await sleep(1_000);
    const held = (await settledMemory()) - before;
    expect(held).toBeLessThan(16 * MIB);
    stream.resume();
    expect((await pending).rows).toHaveLength(150_000);
    await client.end();
  });

  test('a compute that does not read stops its client', async () => {
    const client = await connect();
    const before = await settledMemory();
    const { stream } = (client as unknown as { connection: { stream: Socket } }).connection;
    // While it sleeps, Postgres reads nothing of what comes behind.
    const slept = client.query('select pg_sleep(60)').catch(() => undefined);
    await new Promise((resolve) => setImmediate(resolve));
    const total = 64 * MIB;
    stream.write(Buffer.alloc(total));
    await sleep(500);
    expect(stream.writableLength).toBeGreaterThan(total / 2);
    expect((await settledMemory()) - before - total).toBeLessThan(8 * MIB);
    stream.destroy();
    // While nothing is taken from it, a client's end goes unnoticed.
    await postgres.query(`select pg_terminate_backend(pid) from pg_stat_activity where query = 'select pg_sleep(60)'`);
    await slept;
    await until('the session to end', () => proxy.proxy.stats().sessions === 0);
  });

  async function settledMemory(): Promise<number> {
    (globalThis as { gc?: () => void }).gc?.();
    await sleep(50);
    const { heapUsed, external } = process.memoryUsage();
    return heapUsed + external;
  }
});

describe('crowds', () => {
  test('a hundred clients at once all get in, and the compute is asked for by each', async () => {
    const clients = await Promise.all(Array.from({ length: 100 }, () => connect()));
    const answers = await Promise.all(clients.map((client, i) => client.query('select $1::int as i', [i])));
    expect(answers.map(({ rows }) => rows[0].i)).toEqual(Array.from({ length: 100 }, (_, i) => i));
    expect(proxy.open.get('ep-test')).toBe(100);
    await Promise.all(clients.map((client) => client.end()));
    await until('all of them to be gone', () => proxy.open.get('ep-test') === 0);
  });

  test.each([
    ['Postgres, where that is less than its size says', 120, /too many clients|remaining connection slots/],
    ['the proxy, beyond its size', 40, /^Too many connections to this endpoint\. Please try again later\.$/],
  ])('more than a compute takes are told so by %s', async (_title, maxConnections, words) => {
    proxy.endpoints.set('ep-crowded', endpointNamed('ep-crowded', { maxConnections }));
    const options = 'endpoint=ep-crowded';
    const results = await Promise.allSettled(Array.from({ length: 130 }, () => connect({ options })));
    const refused = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as Error] : []));
    expect(results.length - refused.length).toBeGreaterThanOrEqual(40);
    expect(refused.length).toBeGreaterThan(0);
    // All that it refuses itself is what its own limit says.
    const own = refused.filter(({ message }) => words.test(message));
    if (maxConnections < 110) expect(own).toHaveLength(130 - maxConnections);
    else expect(own.length).toBeGreaterThan(0);
    await Promise.all(results.flatMap((result) => (result.status === 'fulfilled' ? [result.value.end()] : [])));
    await until('all of them to be gone', () => proxy.proxy.stats().sessions === 0);
  });
});

describe('roles changed by SQL', () => {
  test('are read back before the next login, also when the session that changed them is gone', async () => {
    const changes: (boolean | undefined)[] = [];
    const watched = await startTestProxy({
      wake: postgres.socketPath,
      refreshVerifiers: async (_endpoint, options) => {
        changes.push(options?.fresh);
        const before = JSON.stringify([...watched.verifiers]);
        await readVerifiers();
        for (const [role, verifier] of proxy.verifiers) watched.verifiers.set(role, verifier);
        return JSON.stringify([...watched.verifiers]) !== before;
      },
    });
    for (const [role, verifier] of proxy.verifiers) watched.verifiers.set(role, verifier);
    const { port } = watched.proxy;
    const one = await connect({ port });
    await one.query(`alter role me password 'second'`);
    await one.end();
    const two = await connect({ port, password: 'second' });
    expect(changes).toContain(true);
    await expect(connect({ port, password: 'right' })).rejects.toThrow("password authentication failed for user 'me'");
    await two.query(`do $$ begin alter role me password 'right'; end $$`);
    await (await connect({ port, password: 'right' })).end();
    await two.end();
    await watched.close();
  });

  test('a key that Postgres no longer accepts is a wrong password', async () => {
    await postgres.query(`alter role me password 'elsewhere'`);
    await expect(connect()).rejects.toThrow("password authentication failed for user 'me'");
    await postgres.query(`alter role me password 'right'`);
    await readVerifiers();
    await (await connect()).end();
  });
});
