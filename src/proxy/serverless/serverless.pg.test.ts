/** SQL over HTTP and WebSockets on the Postgres port, in front of a real Postgres; expectations from `pg` on its socket. */
import https from 'node:https';
import { readFile } from 'node:fs/promises';
import { neon, neonConfig, Client } from '@neondatabase/serverless';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BUNDLED_MAJOR } from '../../../test/support/installation.ts';
import { startPlainPostgres } from '../../../test/support/plain-postgres.ts';
import type { PlainPostgres } from '../../../test/support/plain-postgres.ts';
import { rawClient, startTestProxy } from '../../../test/support/proxy.ts';
import type { TestProxy } from '../../../test/support/proxy.ts';
import { waitFor } from '../../../test/support/wait.ts';
import { buildVerifier } from '../../postgres/wire/scram.ts';
import { encoderOf } from './types.ts';

let postgres: PlainPostgres;
let proxy: TestProxy;
let direct: pg.Client;
const URI = 'postgresql://me:right@ep-test.localhost/mine';

beforeAll(async () => {
  postgres = await startPlainPostgres(BUNDLED_MAJOR);
  await postgres.query(`create role me login createrole password 'right'`);
  await postgres.query('create database mine owner me');
  proxy = await startTestProxy({
    wake: async () => ({ path: postgres.socketPath }),
    limits: {
      maxSqlRequestBytes: 1_000_000,
      maxSqlResponseBytes: 1_000_000,
      maxSqlHeldBytes: 2_000_000,
      sqlPoolSize: 2,
      httpHeadTimeoutMs: 300,
    },
  });
  const [row] = await postgres.query<{ rolpassword: string }>(`select rolpassword from pg_authid where rolname = 'me'`);
  proxy.verifiers.set('me', row!.rolpassword);
  direct = new pg.Client({
    host: postgres.socketDirectory,
    port: 5432,
    user: 'me',
    password: 'right',
    database: 'mine',
    ssl: false,
  });
  await direct.connect();
  const address = `127.0.0.1:${proxy.proxy.port}`;
  neonConfig.fetchEndpoint = `http://${address}/sql`;
  neonConfig.wsProxy = (host) => `${address}/v2?address=${host}:5432`;
  neonConfig.useSecureWebSocket = false;
  neonConfig.webSocketConstructor = (await import('ws')).WebSocket;
});
afterAll(async () => {
  await direct?.end();
  await proxy?.close();
  await postgres?.stop();
});

const post = (body: unknown, headers: Record<string, string> = {}) =>
  fetch(`http://127.0.0.1:${proxy.proxy.port}/sql`, {
    method: 'POST',
    headers: { 'neon-connection-string': URI, ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
// oxlint-disable-next-line typescript/no-explicit-any -- answers of any shape, which the tests look into
const json = async (response: Response) => (await response.json()) as any;
const answer = async (body: unknown, headers?: Record<string, string>) => json(await post(body, headers));

const TYPES = `select 1::int2 a, 2::int4 b, 9007199254740993::int8 c, 1.5::float8 d, 'NaN'::float4 e, 1.10::numeric f,
  true g, null::text h, '{"x":[1,null]}'::jsonb i, '[0:1]={1,2}'::int4[] j, array['a"b','c\\d',null] k,
  array[[1.5,2],[3,4]]::float8[] l, now()::date::text = current_date::text m, '\\x00ff'::bytea n, 'ä€😀' o`;

describe('one query', () => {
  test('by the driver gives what pg gives', async () => {
    const expected = (await direct.query(TYPES)).rows;
    const sql = neon(URI);
    expect(await sql.query(TYPES)).toEqual(expected);
    const whole = await neon(URI, { fullResults: true, arrayMode: true }).query('select $1::int + 1 as n', [41]);
    expect(whole).toMatchObject({ rows: [[42]], rowCount: 1, command: 'SELECT', rowAsArray: true });
    expect(whole.fields[0]).toMatchObject({ name: 'n', dataTypeID: 23 });
  });

  test('raw over fetch is parsed where JSON has such values', async () => {
    const { rows, fields } = await answer({ query: TYPES });
    expect(rows[0]).toMatchObject({ a: 1, b: 2, c: '9007199254740993', d: 1.5, e: 'NaN', f: '1.10', g: true, h: null });
    expect(rows[0]).toMatchObject({ i: { x: [1, null] }, j: [1, 2], k: ['a"b', 'c\\d', null], o: 'ä€😀' });
    expect(rows[0].l).toEqual([
      [1.5, 2],
      [3, 4],
    ]);
    expect(fields[0]).toEqual({
      name: 'a',
      dataTypeID: 21,
      tableID: 0,
      columnID: 0,
      dataTypeSize: 2,
      dataTypeModifier: -1,
      format: 'text',
    });
  });

  test('maps parameters to Postgres text', async () => {
    const query = 'select $1::text a, $2::bool b, $3::jsonb c, $4::text[] d, $5::int e';
    const { rows } = await answer({ query, params: ['x', true, { y: 'z' }, ['p"q\\', null, 'r,s'], null] });
    expect(rows).toEqual([{ a: 'x', b: true, c: { y: 'z' }, d: ['p"q\\', null, 'r,s'], e: null }]);
  });

  test('numbers of parameters keep all their digits', async () => {
    const body =
      '{"query":"select $1::numeric a, $2::numeric b, $3::text c","params":[12345678901234567890,1.10,{"n":2.50}]}';
    expect((await answer(body)).rows).toEqual([{ a: '12345678901234567890', b: '1.10', c: '{"n":2.50}' }]);
    const [sent] = await neon(URI).query('select $1::numeric as n', ['12345678901234567890.10']);
    expect(sent).toEqual({ n: '12345678901234567890.10' });
  });

  test('counts rows from the tag', async () => {
    expect(await answer({ query: 'create table counted (n int)' })).toMatchObject({
      command: 'CREATE',
      rowCount: null,
    });
    const inserted = await answer({ query: 'insert into counted select generate_series(1, 5)' });
    expect(inserted).toMatchObject({ command: 'INSERT', rowCount: 5, rows: [] });
    expect(await answer({ query: 'update counted set n = 0 where n < 3' })).toMatchObject({ rowCount: 2 });
    expect(await answer({ query: '' })).toMatchObject({ command: '', rowCount: null });
  });

  test('leaves no session state behind', async () => {
    await answer({ query: `select set_config('application_name', 'left behind', false), pg_advisory_lock(7)` });
    await answer({ query: 'begin' });
    await answer({ query: 'create temp table left_behind (n serial)' });
    await answer({ query: 'insert into left_behind default values' });
    await answer({ query: 'prepare left_behind as select 1' });
    await answer({ query: 'declare left_behind cursor with hold for select 1' });
    await answer({ query: 'listen left_behind' });
    for (let i = 0; i < 4; i += 1) {
      const { rows } = await answer({ query: `select current_setting('application_name') name, pg_backend_pid() pid` });
      expect(rows[0].name).toBe('');
      expect(await answer({ query: 'select lastval()' })).toMatchObject({ code: '55000' });
      expect(await answer({ query: 'select * from left_behind' })).toMatchObject({ code: '42P01' });
      const { rows: kept } = await answer({
        query: `select (select count(*)::int from pg_prepared_statements where name <> '') + (select count(*)::int from
          pg_cursors where name <> '') + (select count(*)::int from pg_listening_channels()) as n, current_user as me`,
      });
      expect(kept).toEqual([{ n: 0, me: 'me' }]);
    }
    await waitFor('the lock to be gone', async () => {
      const { rows } = await direct.query(`select count(*)::int n from pg_locks where locktype = 'advisory'`);
      return rows[0].n === 0;
    });
    expect(proxy.proxy.http.stats().pooled).toBeLessThanOrEqual(2);
  });
});

describe('an error', () => {
  test('has all fields of Postgres', async () => {
    await direct.query('create table strict (n int constraint positive check (n > 0), m int not null)');
    for (const query of ['insert into strict values (-1, 1)', 'insert into strict values (1, null)', 'select nope']) {
      const expected = await direct.query(query).catch((error: unknown) => error as Record<string, unknown>);
      const failed = await neon(URI)
        .query(query)
        .catch((error: unknown) => error as Record<string, unknown>);
      for (const field of [
        'message',
        'code',
        'detail',
        'position',
        'severity',
        'table',
        'column',
        'constraint',
        'line',
      ]) {
        expect((failed as Record<string, unknown>)[field] ?? undefined, `${query} ${field}`).toBe(
          (expected as Record<string, unknown>)[field],
        );
      }
    }
  });

  test.each([
    ['wrong password', { 'neon-connection-string': URI.replace('right', 'wrong') }, /^password authentication failed/],
    ['unknown role', { 'neon-connection-string': URI.replace('me:', 'you:') }, /^password authentication failed/],
    ['unknown endpoint', { 'neon-connection-string': URI.replace('ep-test', 'ep-none') }, /could not be found/],
    ['no database', { 'neon-connection-string': 'postgres://me:right@ep-test.localhost/' }, /missing database name$/],
    ['no user', { 'neon-connection-string': 'postgres://ep-test.localhost/mine' }, /missing username$/],
    ['no password', { 'neon-connection-string': 'postgres://me@ep-test.localhost/mine' }, /required password$/],
    ['a scheme of others', { 'neon-connection-string': 'http://me:right@ep-test.localhost/mine' }, /incorrect scheme$/],
    ['an isolation level of others', { 'neon-batch-isolation-level': 'Loose' }, /^invalid isolation level$/],
  ])('%s is 400', async (_title, headers, message) => {
    const response = await post({ query: 'select 1' }, headers);
    expect(response.status).toBe(400);
    const body = await json(response);
    expect(body.message).toMatch(message);
    expect(body).toMatchObject({ code: '', severity: '', detail: null });
  });

  test('of size is 413 or 507', async () => {
    const large = await post({ query: 'select 1', params: ['x'.repeat(1_000_000)] });
    expect([large.status, (await json(large)).message]).toEqual([413, 'request is too large (max is 1000000 bytes)']);
    const query = `select repeat('x', 100000) from generate_series(1, 20)`;
    const answered = await post({ query });
    expect(answered.status).toBe(507);
    expect((await json(answered)).message).toBe('response is too large (max is 1000000 bytes)');
    expect(await answer({ query: 'select 1 as one' })).toMatchObject({ rows: [{ one: 1 }] });
  });

  test('is none where many are large at once: they take turns', async () => {
    const large = 'x'.repeat(900_000);
    const lengths = await Promise.all(
      Array.from({ length: 12 }, () => answer({ query: 'select length($1) as n, $1 as large', params: [large] })),
    );
    for (const { rows } of lengths) expect([rows[0].n, rows[0].large === large]).toEqual([900_000, true]);
    const chunked = await fetch(`http://127.0.0.1:${proxy.proxy.port}/sql`, {
      method: 'POST',
      headers: { 'neon-connection-string': URI },
      body: new Blob([JSON.stringify({ query: 'select length($1) as n', params: [large] })]).stream(),
      duplex: 'half',
    } as RequestInit);
    expect((await json(chunked)).rows).toEqual([{ n: 900_000 }]);
  });

  test('of COPY does not spoil the pool', async () => {
    expect((await post({ query: 'copy counted from stdin' })).status).toBe(400);
    expect(await answer({ query: 'select 1 as one' })).toMatchObject({ rows: [{ one: 1 }] });
  });

  test('of a NUL in the query stays inside the message', async () => {
    expect(await answer({ query: 'select 1\0select 2' })).toMatchObject({ code: '22021' });
  });
});

describe('who has entered before', () => {
  test('is asked again once the password, the addresses or the endpoint are others', async () => {
    const verifier = proxy.verifiers.get('me')!;
    const others = await buildVerifier('another password');
    const endpoint = proxy.endpoints.get('ep-test')!;
    const changes: [() => void, RegExp][] = [
      [() => proxy.verifiers.set('me', others), /password authentication failed/],
      [() => proxy.verifiers.delete('me'), /password authentication failed/],
      [() => proxy.endpoints.set('ep-test', { ...endpoint, allowedIps: ['192.0.2.1'] }), /not allowed to connect/],
      [() => proxy.endpoints.set('ep-test', { ...endpoint, disabled: true }), /has been disabled/],
      [() => proxy.endpoints.delete('ep-test'), /could not be found/],
    ];
    for (const [change, message] of changes) {
      expect(await answer({ query: 'select 1 as one' })).toMatchObject({ rows: [{ one: 1 }] });
      change();
      try {
        expect((await answer({ query: 'select 1' })).message).toMatch(message);
      } finally {
        proxy.verifiers.set('me', verifier);
        proxy.endpoints.set('ep-test', endpoint);
      }
    }
    expect(await answer({ query: 'select 1 as one' })).toMatchObject({ rows: [{ one: 1 }] });
  });
});

describe('a batch', () => {
  test('is one transaction, with its modes', async () => {
    const sql = neon(URI);
    const [first, second] = await sql.transaction(
      [
        sql.query(`select current_setting('transaction_isolation') i, txid_current_if_assigned() t`),
        sql.query(`select current_setting('transaction_read_only') r, current_setting('transaction_deferrable') d`),
      ],
      { isolationLevel: 'Serializable', readOnly: true, deferrable: true },
    );
    expect(first![0]).toMatchObject({ i: 'serializable' });
    expect(second![0]).toEqual({ r: 'on', d: 'on' });
    const response = await post({ queries: [{ query: 'select 1 as a' }] }, { 'neon-batch-read-only': 'true' });
    expect(response.headers.get('neon-batch-read-only')).toBe('true');
    expect((await json(response)).results).toHaveLength(1);
  });

  test('is rolled back at its first error', async () => {
    await direct.query('create table batch (n int primary key)');
    const queries = [1, 2, 1].map((n) => ({ query: 'insert into batch values ($1)', params: [n] }));
    expect(await answer({ queries })).toMatchObject({ code: '23505', constraint: 'batch_pkey' });
    expect((await direct.query('select * from batch')).rows).toEqual([]);
    expect(await answer({ queries: queries.slice(0, 2) })).toHaveProperty('results.1.rowCount', 1);
    expect((await direct.query('select * from batch')).rows).toHaveLength(2);
  });
});

describe('the pool', () => {
  test('survives that its idle sessions are ended', async () => {
    for (let i = 0; i < 3; i += 1) {
      await answer({ query: 'select 1' });
      await postgres.query(`select pg_terminate_backend(pid) from pg_stat_activity where usename = 'me' and state = 'idle'
        and pid <> ${(direct as unknown as { processID: number }).processID}`);
      expect(await answer({ query: 'select 2 as two' })).toMatchObject({ rows: [{ two: 2 }] });
    }
  });

  test('serves more requests than it has sessions, and counts nobody afterwards', async () => {
    const answers = await Promise.all(
      Array.from({ length: 12 }, (_, n) => answer({ query: 'select $1::int n', params: [n] })),
    );
    expect(answers.map(({ rows }) => rows[0].n)).toEqual(Array.from({ length: 12 }, (_, n) => n));
    expect(proxy.open.get('ep-test')).toBe(0);
  });

  test('cancels the query of a client that goes away', async () => {
    const controller = new AbortController();
    const asleep = `select count(*)::int n from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'`;
    const counted = async (n: number) => (await direct.query(asleep)).rows[0].n === n;
    const request = fetch(`http://127.0.0.1:${proxy.proxy.port}/sql`, {
      method: 'POST',
      headers: { 'neon-connection-string': URI },
      body: JSON.stringify({ query: 'select pg_sleep(60)' }),
      signal: controller.signal,
    }).catch(() => undefined);
    await waitFor('the query', () => counted(1));
    controller.abort();
    await request;
    await waitFor('its end', () => counted(0));
  });
});

describe('HTTP', () => {
  test('answers OPTIONS for browsers, and says what it does not do', async () => {
    const url = `http://127.0.0.1:${proxy.proxy.port}`;
    const options = await fetch(`${url}/sql`, { method: 'OPTIONS' });
    expect([options.status, options.headers.get('allow')]).toEqual([200, 'OPTIONS, POST']);
    expect(options.headers.get('access-control-allow-headers')).toContain('Neon-Connection-String');
    const other = await fetch(`${url}/other`);
    expect([other.status, await other.json()]).toEqual([400, 'query is not supported']);
    const response = await post({ query: 'select 1' });
    expect(response.headers.get('neon-request-id')).toMatch(/^[0-9a-f-]{36}$/);
    expect(response.headers.get('access-control-allow-origin')).toBe('*');
    await response.text();
  });

  test('works over TLS under api.localhost, with a certificate that Node verifies', async () => {
    const ca = await readFile(proxy.tls.caFile!);
    const text = await new Promise<string>((resolve, reject) => {
      const request = https.request(
        {
          host: '127.0.0.1',
          port: proxy.proxy.port,
          servername: 'api.localhost',
          ca,
          path: '/sql',
          method: 'POST',
          headers: { 'neon-connection-string': URI },
          agent: false,
        },
        (response) => {
          let body = '';
          response.on('data', (chunk) => (body += chunk));
          response.on('end', () => resolve(body));
        },
      );
      request.on('error', reject);
      request.end(JSON.stringify({ query: 'select 7 as seven' }));
    });
    expect(JSON.parse(text)).toMatchObject({ rows: [{ seven: 7 }] });
  });

  test('ends requests that never end', async () => {
    const client = await rawClient(proxy.proxy.port);
    client.socket.write('POST /sql HTTP/1.1\r\nhost: x\r\n');
    await client.closed;
    expect(client.received().toString()).toMatch(/^HTTP\/1\.1 408/);
  });
});

describe('a WebSocket of the driver', () => {
  test('runs transactions, gets errors with their fields, notifications and large values', async () => {
    const client = new Client(URI);
    await client.connect();
    try {
      await client.query('begin');
      await client.query('create temp table t (n int primary key)');
      await client.query('insert into t values (1)');
      await expect(client.query('insert into t values (1)')).rejects.toMatchObject({ code: '23505', table: 't' });
      await client.query('rollback');
      const heard = new Promise((resolve) => client.on('notification', ({ payload }) => resolve(payload)));
      await client.query('listen news');
      await direct.query(`notify news, 'hello'`);
      expect(await heard).toBe('hello');
      const large = 'ä'.repeat(3_000_000);
      const { rows } = await client.query('select $1::text as large', [large]);
      expect(rows[0].large === large).toBe(true);
    } finally {
      await client.end();
    }
    await waitFor('the session to end', async () => proxy.open.get('ep-test') === 0);
  });

  test('is told of a wrong password', async () => {
    const client = new Client(URI.replace('right', 'wrong'));
    client.on('error', () => undefined);
    // The driver does not wait for the answer to its password.
    await client.connect();
    await expect(client.query('select 1')).rejects.toThrow("password authentication failed for user 'me'");
  });

  test('may ask with more than is read before it has authenticated', async () => {
    const client = new Client(URI);
    const connected = client.connect();
    const asked = client.query('select length($1::text) as n', ['x'.repeat(5_000_000)]);
    await connected;
    expect((await asked).rows).toEqual([{ n: 5_000_000 }]);
    await client.end();
  });
});

test('every array type of this Postgres that has commas is read as an array', async () => {
  const types = await postgres.query<{ oid: number; name: string }>(
    `select a.oid::int as oid, a.typname as name from pg_type a join pg_type e on e.oid = a.typelem
     where a.typname like '\\_%' and e.typarray = a.oid and e.typtype in ('b', 'r', 'm') and a.typdelim = ','
       and a.oid < 10000`,
  );
  const missed = types.filter(({ oid }) => encoderOf(oid)('{}') !== '[]').map(({ oid, name }) => `${oid} ${name}`);
  expect(missed).toEqual([]);
});
