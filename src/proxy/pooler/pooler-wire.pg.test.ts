/** Pooled hosts in front of a real Postgres, message by message: COPY, cancels, names, clients that vanish anywhere. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BUNDLED_MAJOR } from '../../../test/support/installation.ts';
import { startPlainPostgres } from '../../../test/support/plain-postgres.ts';
import type { PlainPostgres } from '../../../test/support/plain-postgres.ts';
import { endpointNamed, startTestProxy } from '../../../test/support/proxy.ts';
import type { TestProxy } from '../../../test/support/proxy.ts';
import { waitFor } from '../../../test/support/wait.ts';
import { WireClient, errorField, firstColumn, say, typesOf } from '../../../test/support/wire-client.ts';
import type { WireMessage } from '../../../test/support/wire-client.ts';
import { DEFAULT_POOL_LIMITS } from './pool.ts';

let postgres: PlainPostgres;
let proxy: TestProxy;

beforeAll(async () => {
  postgres = await startPlainPostgres(BUNDLED_MAJOR, { max_connections: '200' });
  await postgres.query(`create role me login password 'right'`);
  await postgres.query('create database mine owner me');
  const [row] = await postgres.query<{ rolpassword: string }>(`select rolpassword from pg_authid where rolname = 'me'`);
  proxy = await startTestProxy({
    wake: postgres.socketPath,
    limits: { pool: { ...DEFAULT_POOL_LIMITS, goneClientGraceMs: 300 } },
  });
  proxy.verifiers.set('me', row!.rolpassword);
  const owner = await connect();
  await owner.ask([say.query('create table copied (i int primary key)')]);
  await owner.end();
});
afterAll(async () => {
  await proxy?.close();
  await postgres?.stop();
});

/** An endpoint whose pool has a single server connection, so that whatever a client leaves meets the next one. */
function single(): string {
  const id = `ep-single-${proxy.endpoints.size}`;
  proxy.endpoints.set(id, endpointNamed(id, { maxConnections: 2 }));
  return id;
}

const connect = (endpoint = 'ep-test') =>
  WireClient.logIn({
    port: proxy.proxy.port,
    endpoint: `${endpoint}-pooler`,
    user: 'me',
    password: 'right',
    database: 'mine',
  });

const errorOf = (messages: readonly WireMessage[]) => {
  const found = messages.find(({ type }) => type === 'E');
  return found && { code: errorField(found, 'C'), message: errorField(found, 'M') };
};
const value = async (client: WireClient, sql: string) => firstColumn(await client.ask([say.query(sql)]))[0];
const runs = async (sql: string) =>
  (await postgres.query(`select 1 from pg_stat_activity where state = 'active' and query = '${sql}'`)).length > 0;
const untilRuns = (sql: string) => waitFor('the query to run', async () => runs(sql), { timeoutMs: 60_000 });

/** The one server connection serves another client as if nothing had been. */
async function expectClean(endpoint: string): Promise<void> {
  const next = await connect(endpoint);
  expect(typesOf(await next.ask([say.query('select 1')]))).toBe('TDCZ');
  expect(await value(next, `select count(*) from copied`)).toBe('0');
  expect(
    await value(next, `select count(*) from pg_prepared_statements where not from_sql and name !~ '^ballast_'`),
  ).toBe('0');
  await next.end();
}

describe('COPY', () => {
  const rows = (from: number, count: number) => Array.from({ length: count }, (_, i) => `${from + i}\n`).join('');

  test('comes in and goes out', async () => {
    const client = await connect(single());
    const into = say.query('copy copied from stdin');
    client.send(into);
    await client.until(({ type }) => type === 'G');
    client.send(say.copyData(rows(0, 1000)), say.copyData(rows(1000, 1000)));
    expect(typesOf(await client.ask([say.copyDone()]))).toBe('CZ');
    // In one piece with the command, and in the extended protocol.
    expect(typesOf(await client.ask([into, say.copyData(rows(2000, 10)), say.copyDone()]))).toBe('GCZ');
    const parts = [say.parse('', 'copy copied from stdin'), say.bind(''), say.execute(), say.sync()];
    client.send(...parts);
    await client.until(({ type }) => type === 'G');
    expect(typesOf(await client.ask([say.copyData(rows(3000, 10)), say.copyDone(), say.sync()]))).toBe('CZ');
    const out = await client.ask([say.query('copy (select i from copied order by i) to stdout')]);
    expect(typesOf(out)).toBe(`H${'d'.repeat(2020)}cCZ`);
    expect(await value(client, 'select count(*) from copied')).toBe('2020');
    await client.ask([say.query('truncate copied')]);
    await client.end();
  });

  test.each([
    ['the client fails it', say.copyFail('enough'), '57014'],
    ['a row is wrong', say.copyData('nonsense\n'), '22P02'],
    ['a row is there twice', say.copyData('1\n1\n'), '23505'],
  ])('%s', async (_what, message, code) => {
    const endpoint = single();
    const client = await connect(endpoint);
    for (const inTransaction of [false, true]) {
      if (inTransaction) await client.ask([say.query('begin')]);
      client.send(say.query('copy copied from stdin'));
      await client.until(({ type }) => type === 'G');
      // The rest of the data is under way when Postgres gives up.
      const end = code === '57014' ? [] : [say.copyData(rows(10, 10)), say.copyDone()];
      const failed = await client.ask([say.copyData(rows(100, 10)), message, ...end]);
      expect(errorOf(failed)?.code).toBe(code);
      expect(failed.at(-1)!.body).toBe(inTransaction ? 'E' : 'I');
      if (inTransaction) await client.ask([say.query('rollback')]);
    }
    await expectClean(endpoint);
    await client.end();
  });

  test.each([
    ['the client fails it', [say.copyFail('enough')], '57014'],
    ['a row is wrong', [say.copyData('nonsense\n'), say.copyDone()], '22P02'],
  ])('in the extended protocol: %s', async (_what, messages, code) => {
    const endpoint = single();
    const client = await connect(endpoint);
    client.send(say.parse('in', 'copy copied from stdin'), say.bind('in'), say.execute(), say.sync());
    await client.until(({ type }) => type === 'G');
    const failed = await client.ask([say.copyData(rows(0, 10)), ...messages, say.sync()]);
    expect(errorOf(failed)?.code).toBe(code);
    await expectClean(endpoint);
    expect(await value(client, 'select 3')).toBe('3');
    await client.end();
  });

  test('that could not begin lets the next client in although its data are still coming', async () => {
    const endpoint = single();
    const client = await connect(endpoint);
    const data = [say.copyData(rows(0, 10)), say.copyDone()];
    const failed = await client.ask([say.query('copy nowhere from stdin'), ...data]);
    expect(errorOf(failed)?.code).toBe('42P01');
    await expectClean(endpoint);
    // In a transaction the data come when the error has been answered.
    await client.ask([say.query('begin')]);
    await client.ask([say.query('copy nowhere from stdin')]);
    client.send(...data);
    expect(typesOf(await client.ask([say.query('rollback')]))).toBe('CZ');
    await expectClean(endpoint);
    await client.end();
  });

  test.each([
    ['in', 'copy copied from stdin', 'G'],
    ['out', 'copy (select i from generate_series(1, 10000000) as i) to stdout', 'd'],
  ])('%s leaves nothing behind when the client vanishes', async (_way, sql, seen) => {
    for (const begin of ['', 'begin; ']) {
      const endpoint = single();
      const client = await connect(endpoint);
      client.send(say.query(begin + sql));
      await client.until(({ type }) => type === seen);
      if (seen === 'G') client.send(say.copyData(rows(0, 5000)).subarray(0, 20_000));
      client.socket.destroy();
      await expectClean(endpoint);
    }
  });
});

describe('a cancel request', () => {
  test('of a client that waits for its turn takes its request back', async () => {
    const endpoint = single();
    const [holder, waiting] = await Promise.all([connect(endpoint), connect(endpoint)]);
    await holder.ask([say.query('begin')]);
    for (const request of [
      [say.query('select 1')],
      [say.parse('a', 'select 1'), say.bind('a'), say.execute(), say.sync()],
    ]) {
      const answer = waiting.ask(request);
      const { pooler } = proxy.proxy.stats();
      await waitFor('the client to wait', async () => proxy.proxy.stats().pooler.waiting > 0, { timeoutMs: 60_000 });
      expect(pooler.servers).toBeGreaterThan(0);
      await waiting.cancel();
      const messages = await answer;
      expect(errorOf(messages)).toEqual({ code: '57014', message: 'canceling statement due to user request' });
      expect(typesOf(messages)).toBe('EZ');
    }
    await holder.ask([say.query('rollback')]);
    // It had never been prepared.
    expect(typesOf(await waiting.ask([say.parse('a', 'select 2'), say.bind('a'), say.execute(), say.sync()]))).toBe(
      '12DCZ',
    );
    await Promise.all([holder.end(), waiting.end()]);
  });

  test('that comes late hits nobody', async () => {
    const endpoint = single();
    const [a, b] = await Promise.all([connect(endpoint), connect(endpoint)]);
    for (let round = 0; round < 40; round += 1) {
      const [cancelled, , other] = await Promise.all([
        a.ask([say.query('select pg_sleep(0.001)')]),
        a.cancel(),
        b.ask([say.query(`select 'of b' from pg_sleep(0.003)`)]),
      ]);
      expect(['TDCZ', 'TEZ', 'EZ']).toContain(typesOf(cancelled));
      expect(firstColumn(other)).toEqual(['of b']);
    }
    await Promise.all([a.end(), b.end()]);
  });

  test('and the end of its client at once', async () => {
    const endpoint = single();
    for (let round = 0; round < 10; round += 1) {
      const client = await connect(endpoint);
      client.send(say.query('select pg_sleep(3601)'));
      await untilRuns('select pg_sleep(3601)');
      const cancelled = client.cancel();
      if (round % 2 === 0) client.socket.destroy();
      await cancelled;
      client.socket.destroy();
      await expectClean(endpoint);
    }
  });
});

describe('errors call statements as the client does', () => {
  const mistakes: [string, Buffer[], string][] = [
    ['one that is not there', [say.bind('x')], 'prepared statement "x" does not exist'],
    ['one that is not there, described', [say.describe('x')], 'prepared statement "x" does not exist'],
    ['a name of the pooler', [say.bind('ballast_1')], 'prepared statement "ballast_1" does not exist'],
    [
      'one that is there already',
      [say.parse('x', 'select 1'), say.parse('x', 'select 1')],
      'prepared statement "x" already exists',
    ],
    [
      'too few parameters',
      [say.parse('needs two', 'select $1::int + $2::int'), say.bind('needs two', ['1'])],
      'bind message supplies 1 parameters, but prepared statement "needs two" requires 2',
    ],
    [
      'one that was closed',
      [say.parse('x', 'select 1'), say.close('x'), say.bind('x')],
      'prepared statement "x" does not exist',
    ],
  ];
  test.each(mistakes)('%s', async (_what, messages, text) => {
    const endpoint = single();
    const [client, other] = await Promise.all([connect(endpoint), connect(endpoint)]);
    await other.ask([say.parse('x', 'select 7'), say.parse('needs two', 'select 8'), say.sync()]);
    expect(errorOf(await client.ask([...messages, say.sync()]))?.message).toBe(text);
    await Promise.all([client.end(), other.end()]);
  });
});

describe('statements', () => {
  test.each(['deallocate all', 'discard all'])(
    '%s forgets those of the client, and of nobody else',
    async (command) => {
      const endpoint = single();
      const [a, b] = await Promise.all([connect(endpoint), connect(endpoint)]);
      for (const client of [a, b]) await client.ask([say.parse('x', 'select 7'), say.sync()]);
      await a.ask([say.query(command)]);
      expect(errorOf(await a.ask([say.bind('x'), say.sync()]))?.code).toBe('26000');
      expect(firstColumn(await b.ask([say.bind('x'), say.execute(), say.sync()]))).toEqual(['7']);
      await Promise.all([a.end(), b.end()]);
    },
  );

  test('made by SQL last as long as the transaction', async () => {
    const endpoint = single();
    const [a, b] = await Promise.all([connect(endpoint), connect(endpoint)]);
    const inOne = await a.ask(
      [say.query('begin'), say.query('prepare s as select 5'), say.query('execute s'), say.query('commit')],
      4,
    );
    expect(firstColumn(inOne)).toEqual(['5']);
    expect(errorOf(await b.ask([say.query('execute s')]))?.code).toBe('26000');
    expect(errorOf(await a.ask([say.query('deallocate s')]))?.message).toBe('prepared statement "s" does not exist');
    await Promise.all([a.end(), b.end()]);
  });

  test('are described and closed', async () => {
    const client = await connect();
    const asked = [
      say.parse('d', 'select $1::int as n'),
      say.describe('d'),
      say.close('d'),
      say.close('never'),
      say.sync(),
    ];
    expect(typesOf(await client.ask(asked))).toBe('1tT33Z');
    await client.end();
  });
});

test('function calls', async () => {
  const endpoint = single();
  const client = await connect(endpoint);
  const oid = Number(await value(client, `select 'int4pl'::regproc::oid::int`));
  const [result, ready] = await client.ask([say.functionCall(oid, [20, 22])]);
  expect([result!.type, Buffer.from(result!.body, 'latin1').readInt32BE(4), ready!.type]).toEqual(['V', 42, 'Z']);
  expect(typesOf(await client.ask([say.functionCall(0, [])]))).toBe('EZ');
  await expectClean(endpoint);
  await client.end();
});

test('pipelines of many Syncs are answered in order, while others have their turns', async () => {
  const endpoint = single();
  const [client, other] = await Promise.all([connect(endpoint), connect(endpoint)]);
  const count = 5000;
  const pieces = Array.from({ length: count }, (_, i) =>
    Buffer.concat([say.parse('', i % 10 === 9 ? 'nonsense' : `select ${i}`), say.bind(''), say.execute(), say.sync()]),
  );
  const [answers, turn] = await Promise.all([client.ask(pieces, count), other.ask([say.query(`select 'mine'`)])]);
  expect(firstColumn(turn)).toEqual(['mine']);
  const expected = Array.from({ length: count }, (_, i) => (i % 10 === 9 ? 'E' : String(i)));
  const seen = answers.flatMap((each) => (each.type === 'E' ? ['E'] : firstColumn([each])));
  expect(seen).toEqual(expected);
  await Promise.all([client.end(), other.end()]);
});

describe('a client that vanishes', () => {
  const half = say.query(`select '${'x'.repeat(200_000)}'`);
  const states: [string, Buffer[]][] = [
    ['in a transaction', [say.query('begin; insert into copied values (1)')]],
    ['in a failed transaction', [say.query('begin; insert into copied values (1)'), say.query('nonsense')]],
    [
      'in a pipeline without its Sync',
      [say.parse('', 'insert into copied values (1)'), say.bind(''), say.execute(), say.flush()],
    ],
    ['behind an error in a pipeline', [say.parse('', 'nonsense'), say.flush()]],
    ['in the middle of a message', [half.subarray(0, 100_000)]],
    [
      'in the middle of a message of a transaction',
      [say.query('begin; insert into copied values (1)'), half.subarray(0, 70_000)],
    ],
    [
      'in the middle of data that belong to nothing',
      [say.query('begin'), say.copyData('x'.repeat(1000)).subarray(0, 500)],
    ],
    ['in the middle of a header', [say.query('begin'), half.subarray(0, 3)]],
    ['in the middle of a query', [say.query('insert into copied values (1); select pg_sleep(3602)')]],
  ];
  test.each(states)('%s', async (_where, messages) => {
    for (const how of ['broken', 'closed', 'goodbye']) {
      const endpoint = single();
      const client = await connect(endpoint);
      for (const message of messages) {
        client.send(message);
        // Whatever this is, it has an answer or none within that time; both are what is wanted.
        await Promise.race([
          client.until(({ type }) => 'Z1E'.includes(type)),
          new Promise((resolve) => setTimeout(resolve, 50)),
        ]);
      }
      const { socket } = client;
      if (how === 'broken') socket.resetAndDestroy();
      else if (how === 'closed') socket.end();
      else socket.end(Buffer.from([0x58, 0, 0, 0, 4]));
      await expectClean(endpoint);
      socket.destroy();
    }
  });
});

describe('a client that goes while it waits for its turn', () => {
  test.each([
    ['asked and said goodbye', true],
    ['broke off', false],
  ])('%s', async (_how, isPolite) => {
    const endpoint = single();
    const waiting = () => proxy.proxy.stats().pooler.waiting;
    const until = (count: number) => waitFor('those who wait', async () => waiting() === count, { timeoutMs: 60_000 });
    const [holder, client] = await Promise.all([connect(endpoint), connect(endpoint)]);
    await holder.ask([say.query('begin')]);
    client.send(say.query('insert into copied values (77)'));
    await until(1);
    if (isPolite) client.socket.end(Buffer.from([0x58, 0, 0, 0, 4]));
    else {
      client.socket.resetAndDestroy();
      await until(0);
    }
    await holder.ask([say.query('rollback')]);
    await client.closed;
    await until(0);
    expect(await value(holder, 'select count(*) from copied')).toBe(isPolite ? '1' : '0');
    await holder.ask([say.query('truncate copied')]);
    await expectClean(endpoint);
    await holder.end();
  });
});
