/** Pooled hosts in front of a real Postgres, used by real clients. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import pg from 'pg';
import postgresJs from 'postgres';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { BUNDLED_MAJOR } from '../../../test/support/installation.ts';
import { startPlainPostgres } from '../../../test/support/plain-postgres.ts';
import type { PlainPostgres } from '../../../test/support/plain-postgres.ts';
import { endpointNamed, startTestProxy } from '../../../test/support/proxy.ts';
import type { TestProxy } from '../../../test/support/proxy.ts';
import { waitFor } from '../../../test/support/wait.ts';
import { DEFAULT_POOL_LIMITS } from './pool.ts';

const run = promisify(execFile);
const found = (program: string) =>
  run(program, ['--version']).then(
    () => true,
    () => false,
  );
const [hasPsql, hasPgbench] = await Promise.all([found('psql'), found('pgbench')]);
const until = (what: string, ask: () => boolean | Promise<boolean>) =>
  waitFor(what, async () => ask(), { timeoutMs: 60_000, intervalMs: 10 });

let postgres: PlainPostgres;
let proxy: TestProxy;
const limits = { pool: { ...DEFAULT_POOL_LIMITS, goneClientGraceMs: 500 } };

beforeAll(async () => {
  postgres = await startPlainPostgres(BUNDLED_MAJOR, { max_connections: '60' });
  await postgres.query(`create role me login password 'right'`);
  await postgres.query(`create role other nologin`);
  await postgres.query(`grant other to me`);
  await postgres.query('create database mine owner me');
  const [row] = await postgres.query<{ rolpassword: string }>(`select rolpassword from pg_authid where rolname = 'me'`);
  proxy = await startTestProxy({ wake: postgres.socketPath, limits });
  proxy.verifiers.set('me', row!.rolpassword);
});
beforeEach(() => {
  proxy.endpoints.set('ep-test', endpointNamed('ep-test', { maxConnections: 50 }));
});
afterAll(async () => {
  await proxy?.close();
  await postgres?.stop();
});

/** An endpoint with a pool of its own and so many server connections. */
function endpointWith(servers: number): string {
  const id = `ep-small-${proxy.endpoints.size}`;
  proxy.endpoints.set(id, endpointNamed(id, { maxConnections: Math.ceil(servers / 0.9) }));
  return id;
}

const config = (endpoint = 'ep-test', change: pg.ClientConfig = {}): pg.ClientConfig => ({
  host: '127.0.0.1',
  port: proxy.proxy.port,
  user: 'me',
  password: 'right',
  database: 'mine',
  options: `endpoint=${endpoint}-pooler`,
  ssl: false,
  ...change,
});

async function connect(endpoint?: string, change?: pg.ClientConfig): Promise<pg.Client> {
  const client = new pg.Client(config(endpoint, change));
  client.on('error', () => undefined);
  await client.connect();
  return client;
}

const pid = async (client: pg.Client) => (await client.query('select pg_backend_pid() as pid')).rows[0].pid as number;
const failure = (work: Promise<unknown>) =>
  work.then(
    () => undefined,
    (error: Error & { code?: string }) => error,
  );

describe('clients', () => {
  test('share server connections and see their own transactions', async () => {
    const endpoint = endpointWith(1);
    const [a, b] = await Promise.all([connect(endpoint), connect(endpoint)]);
    expect(await pid(a)).toBe(await pid(b));
    await a.query('begin');
    await a.query('create table seen (i int)');
    const waiting = b.query('select to_regclass($1) as t', ['seen']);
    await a.query('rollback');
    expect((await waiting).rows).toEqual([{ t: null }]);
    await Promise.all([a.end(), b.end()]);
  });

  test('wait in order', async () => {
    const endpoint = endpointWith(1);
    const [holder, ...others] = await Promise.all(Array.from({ length: 4 }, () => connect(endpoint)));
    await holder!.query('begin');
    const order: number[] = [];
    const waiting: Promise<unknown>[] = [];
    for (const [n, client] of others.entries()) {
      waiting.push(client.query('select 1').then(() => order.push(n)));
      await until('it to wait', () => proxy.proxy.stats().pooler.waiting === n + 1);
    }
    await holder!.query('commit');
    await Promise.all(waiting);
    expect(order).toEqual([0, 1, 2]);
    await Promise.all([holder!, ...others].map((client) => client.end()));
  });

  test('wait no longer than they may', async () => {
    const impatient = await startTestProxy({
      wake: postgres.socketPath,
      limits: { pool: { ...DEFAULT_POOL_LIMITS, queryWaitTimeoutMs: 200 } },
    });
    impatient.verifiers.set('me', proxy.verifiers.get('me')!);
    impatient.endpoints.set('ep-test', endpointNamed('ep-test', { maxConnections: 2 }));
    const join = () => connect('ep-test', { port: impatient.proxy.port });
    const holder = await join();
    await holder.query('begin');
    expect(await failure((await join()).query('select 1'))).toMatchObject({
      code: '08P01',
      message: 'query_wait_timeout',
    });
    await holder.query('commit');
    const other = await join();
    expect((await other.query('select 7 as x')).rows).toEqual([{ x: 7 }]);
    await Promise.all([holder.end(), other.end()]);
    await impatient.close();
  });

  test('use named statements wherever they are served', async () => {
    const endpoint = endpointWith(2);
    const clients = await Promise.all(Array.from({ length: 6 }, () => connect(endpoint)));
    const answers = await Promise.all(
      Array.from({ length: 120 }, (_, n) =>
        clients[n % 6]!.query({ name: `s${n % 4}`, text: `select $1::int + ${n % 4} as x`, values: [n] }),
      ),
    );
    expect(answers.map((answer) => answer.rows[0].x)).toEqual(Array.from({ length: 120 }, (_, n) => n + (n % 4)));
    await Promise.all(clients.map((client) => client.end()));
  });

  test('call different statements by the same name', async () => {
    const endpoint = endpointWith(1);
    const [a, b] = await Promise.all([connect(endpoint), connect(endpoint)]);
    const ask = (client: pg.Client, text: string) => client.query({ name: 'same', text });
    for (let round = 0; round < 3; round += 1) {
      expect((await ask(a, 'select 1 as x')).rows).toEqual([{ x: 1 }]);
      expect((await ask(b, `select 'two' as y`)).rows).toEqual([{ y: 'two' }]);
    }
    await Promise.all([a.end(), b.end()]);
  });

  test('may try a statement again that could not be prepared', async () => {
    const client = await connect();
    const ask = () => client.query({ name: 'later', text: 'select i from made_later' });
    expect(await failure(ask())).toMatchObject({ code: '42P01' });
    await client.query('create table made_later as select 5 as i');
    expect((await ask()).rows).toEqual([{ i: 5 }]);
    await client.query('drop table made_later');
    await client.end();
  });

  test('keep their statements true when they discard all', async () => {
    const endpoint = endpointWith(1);
    const [a, b] = await Promise.all([connect(endpoint), connect(endpoint)]);
    const ask = (client: pg.Client) => client.query({ name: 'kept', text: 'select 3 as x' });
    for (const command of ['deallocate all', 'discard all']) {
      await ask(b);
      await a.query(command);
      expect((await ask(b)).rows).toEqual([{ x: 3 }]);
    }
    await Promise.all([a.end(), b.end()]);
  });

  test('get the plan of now after the table has changed', async () => {
    const endpoint = endpointWith(1);
    const [a, b] = await Promise.all([connect(endpoint), connect(endpoint)]);
    await a.query('create table changing (i int)');
    await a.query({ name: 'all', text: 'select * from changing' });
    await a.query('alter table changing add j int');
    const { fields } = await b.query({ name: 'all', text: 'select * from changing' });
    expect(fields.map((field) => field.name)).toEqual(['i', 'j']);
    await a.query('drop table changing');
    await Promise.all([a.end(), b.end()]);
  });
});

describe('what a session keeps', () => {
  test.each([
    ['settings', `set search_path = pg_catalog`, 'show search_path', '"$user", public'],
    [
      'settings by function',
      `select set_config('my.tenant', 'a', false)`,
      `select coalesce(current_setting('my.tenant', true), '') as x`,
      '',
    ],
    ['a role', `set role other`, 'select current_user::text as x', 'me'],
    ['temporary tables', 'create temp table private as select 1', `select to_regclass('private')::text as x`, null],
    [
      'advisory locks',
      'select pg_advisory_lock(7)',
      `select count(*)::text as x from pg_locks where locktype = 'advisory'`,
      '0',
    ],
    ['listening', 'listen news', 'select count(*)::text as x from pg_listening_channels()', '0'],
    [
      'statements by SQL',
      'prepare mine as select 1',
      `select count(*)::text as x from pg_prepared_statements where name = 'mine'`,
      '0',
    ],
    [
      'cursors',
      'declare held cursor with hold for select 1',
      "select count(*)::text as x from pg_cursors where name = 'held'",
      '0',
    ],
    ['settings in a block', `do $$ begin set work_mem = '7MB'; end $$`, 'show work_mem', '4MB'],
  ])('%s do not reach the next client', async (_what, leave, ask, expected) => {
    const endpoint = endpointWith(1);
    const [a, b] = await Promise.all([connect(endpoint), connect(endpoint)]);
    await a.query(leave);
    const { rows } = await b.query({ text: ask, rowMode: 'array' });
    expect(rows[0]).toEqual([expected]);
    await Promise.all([a.end(), b.end()]);
  });

  test('what Postgres reports follows the client', async () => {
    const endpoint = endpointWith(1);
    const a = await connect(endpoint, { application_name: "it's a \\ test" });
    const b = await connect(endpoint);
    await a.query(`set timezone = 'Asia/Tokyo'`);
    const zone = async (client: pg.Client) => (await client.query('show timezone')).rows[0].TimeZone as string;
    const name = async (client: pg.Client) =>
      (await client.query('show application_name')).rows[0].application_name as string;
    const own = await zone(b);
    expect(own).not.toBe('Asia/Tokyo');
    expect([await zone(a), await zone(b), await zone(a)]).toEqual(['Asia/Tokyo', own, 'Asia/Tokyo']);
    expect([await name(a), await name(b)]).toEqual(["it's a \\ test", '']);
    await Promise.all([a.end(), b.end()]);
  });
});

describe('a client that goes away', () => {
  test.each([
    ['in a transaction', ['begin', 'create table lost (i int)']],
    ['in a failed transaction', ['begin', 'select nonsense']],
  ])('%s leaves a clean server connection', async (_what, commands) => {
    const endpoint = endpointWith(1);
    const a = await connect(endpoint);
    for (const command of commands) await failure(a.query(command));
    const stream = (a as unknown as { connection: { stream: { destroy(): void } } }).connection.stream;
    stream.destroy();
    const b = await connect(endpoint);
    expect((await b.query(`select to_regclass('lost') as t`)).rows).toEqual([{ t: null }]);
    await b.end();
  });

  test('in the middle of a query stops it', async () => {
    const endpoint = endpointWith(1);
    const a = await connect(endpoint);
    void failure(a.query('select pg_sleep(60)'));
    const running = async () => {
      const rows = await postgres.query<{ n: string }>(
        `select count(*) as n from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'`,
      );
      return rows[0]!.n;
    };
    await until('the query to run', async () => (await running()) === '1');
    (a as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
    const b = await connect(endpoint);
    expect((await b.query('select 1 as x')).rows).toEqual([{ x: 1 }]);
    await until('the query to end', async () => (await running()) === '0');
    await b.end();
  });
});

describe('a cancel request', () => {
  test('stops the query of its client and of nobody else', async () => {
    const endpoint = endpointWith(1);
    const [a, b] = await Promise.all([connect(endpoint), connect(endpoint)]);
    const cancel = (client: pg.Client) =>
      new Promise<void>((resolve) => {
        const { processID, secretKey } = client as unknown as { processID: number; secretKey: number };
        const canceller = new pg.Client(config(endpoint)) as unknown as {
          connection: NodeJS.EventEmitter & Record<string, (...args: unknown[]) => void>;
        };
        const { connection } = canceller;
        connection.on('connect', () => connection['cancel']!(processID, secretKey));
        connection.on('end', () => resolve());
        connection.on('error', () => resolve());
        connection['connect']!(proxy.proxy.port, '127.0.0.1');
      });
    const slow = failure(a.query('select pg_sleep(30)'));
    await until('the query to run', async () => {
      const text = `select 1 from pg_stat_activity where query = 'select pg_sleep(30)' and state = 'active'`;
      return (await postgres.query(text)).length > 0;
    });
    await cancel(a);
    expect(await slow).toMatchObject({ code: '57014' });
    for (let round = 0; round < 30; round += 1) {
      const [, answer] = await Promise.all([cancel(a), b.query('select pg_sleep(0.002), 1 as x')]);
      expect(answer.rows[0].x).toBe(1);
    }
    await Promise.all([a.end(), b.end()]);
  });
});

describe('other clients', () => {
  test('postgres.js: pipelines, transactions, cursors, COPY', async () => {
    const sql = postgresJs({
      host: '127.0.0.1',
      port: proxy.proxy.port,
      user: 'me',
      password: 'right',
      database: 'mine',
      max: 4,
      ssl: { rejectUnauthorized: false, servername: 'ep-test-pooler.localhost' },
    });
    const answers = await Promise.all(Array.from({ length: 200 }, (_, i) => sql`select ${i}::int as i`));
    expect(answers.map(([row]) => row!['i'])).toEqual(Array.from({ length: 200 }, (_, i) => i));
    await sql.begin(async (tx) => {
      await tx`create table copied (i int)`;
      const stream = await tx`copy copied from stdin`.writable();
      await new Promise<void>((resolve, reject) => {
        stream.on('error', reject).on('finish', () => resolve());
        stream.end(Array.from({ length: 20_000 }, (_, i) => `${i}\n`).join(''));
      });
    });
    let seen = 0;
    await sql`select i from copied`.cursor(1000, (rows) => void (seen += rows.length));
    expect(seen).toBe(20_000);
    await sql`drop table copied`;
    await sql.end();
  });

  test.skipIf(!hasPsql)('psql with \\bind and a big answer (needs it installed)', async () => {
    const conninfo = `host=ep-test-pooler.localhost hostaddr=127.0.0.1 port=${proxy.proxy.port} user=me dbname=mine sslmode=require channel_binding=require`;
    const { stdout } = await run(
      'psql',
      ['-AtX', conninfo, '-c', 'select repeat($$x$$, 1000) from generate_series(1, 20000)'],
      {
        env: { ...process.env, PGPASSWORD: 'right' },
        maxBuffer: 1e9,
      },
    );
    expect(stdout.length).toBe(20_000 * 1001);
  });

  test.skipIf(!hasPgbench).each(['simple', 'extended', 'prepared'])(
    'pgbench -M %s (needs it installed)',
    async (mode) => {
      const env = {
        ...process.env,
        PGHOST: '127.0.0.1',
        PGPORT: String(proxy.proxy.port),
        PGUSER: 'me',
        PGPASSWORD: 'right',
        PGDATABASE: 'mine',
        PGSSLMODE: 'disable',
        PGOPTIONS: 'endpoint=ep-test-pooler',
      };
      await run('pgbench', ['-i', '-q', '-s', '1'], { env });
      const { stdout } = await run('pgbench', ['-n', '-M', mode, '-c', '8', '-t', '50'], { env });
      expect(stdout).toContain('number of transactions actually processed: 400/400');
    },
  );
});

describe('startup', () => {
  test.each([
    [
      { options: 'endpoint=ep-test-pooler -c search_path=x' },
      'unsupported startup parameter in options: search_path. Please use unpooled',
    ],
    [{ statement_timeout: 100 }, 'unsupported startup parameter: statement_timeout. Please use unpooled'],
    [{ replication: 'database' }, 'unsupported startup parameter: replication. Please use unpooled'],
  ])('refuses %j', async (change, text) => {
    expect((await failure(connect('ep-test', change as pg.ClientConfig)))!.message).toContain(text);
  });

  test('refuses more clients than the limit', async () => {
    const small = await startTestProxy({
      wake: postgres.socketPath,
      limits: { ...limits, maxPooledClientsPerEndpoint: 1 },
    });
    small.verifiers.set('me', proxy.verifiers.get('me')!);
    const only = await connect('ep-test', { port: small.proxy.port });
    expect((await failure(connect('ep-test', { port: small.proxy.port })))!.message).toBe(
      'no more connections allowed (max_client_conn)',
    );
    await only.end();
    await small.close();
  });

  test('says what Postgres says of a database that is not there', async () => {
    expect((await failure(connect('ep-test', { database: 'nowhere' })))!.message).toBe(
      'database "nowhere" does not exist',
    );
  });
});

describe('a compute that goes away', () => {
  const killAll = () =>
    // Again and again: a login that is under way at the first time is not on the list yet. And until all have ended,
    // because one that is asked in the very moment in which it is stopped may have read what it never does.
    until('sessions to end', async () => {
      const rows = await postgres.query(`select pg_terminate_backend(pid) from pg_stat_activity where usename = 'me'`);
      return rows.length === 0;
    });

  test('under idle clients is not noticed', async () => {
    const endpoint = endpointWith(3);
    const clients = await Promise.all(Array.from({ length: 5 }, () => connect(endpoint)));
    for (let round = 0; round < 10; round += 1) {
      await Promise.all(clients.map((client) => client.query({ name: 'again', text: 'select 1 as x' })));
      await killAll();
      const answers = await Promise.all(
        clients.map((client) => client.query({ name: 'again', text: 'select 1 as x' })),
      );
      expect(answers.map((answer) => answer.rows[0].x)).toEqual([1, 1, 1, 1, 1]);
    }
    await Promise.all(clients.map((client) => client.end()));
  });

  test('in a transaction is an error', async () => {
    const client = await connect();
    const told = new Promise<Error>((resolve) => client.on('error', resolve));
    await client.query('begin');
    await killAll();
    expect(await told).toMatchObject({ code: '57P01', message: 'terminating connection due to administrator command' });
  });
});
