import { afterAll, beforeAll, expect, test } from 'vitest';
import { openTestCatalog, type TestCatalog } from '../../test/support/catalog.ts';
import { isAppError } from '../lib/errors.ts';
import { silentLogger } from '../lib/log.ts';
import { CatalogDatabase, isoTimestamp, parseCatalogUrl } from './database.ts';
import { migrate, readMigrations } from './migrate.ts';

let db: TestCatalog;
beforeAll(async () => {
  db = await openTestCatalog();
});
afterAll(() => db.close());

test('rows have camelCase keys and values of the documented types', async () => {
  const [row] = await db.catalog.query<Record<string, unknown>>(
    `select 12::bigint as whole_number, 1.25::numeric as a_numeric, '2026-01-16 21:02:04.2148+01'::timestamptz as created_at,
       '{"a":1}'::jsonb as settings, '\\x01ff'::bytea as key_hash, null::text as nothing, $1::jsonb as echoed, true as yes`,
    [{ deep: ['x'] }],
    'types',
  );
  expect(row).toEqual({
    wholeNumber: 12,
    aNumeric: 1.25,
    createdAt: '2026-01-16T20:02:04.214800Z',
    settings: { a: 1 },
    keyHash: Buffer.from([1, 255]),
    nothing: null,
    echoed: { deep: ['x'] },
    yes: true,
  });
});

test('a timestamp keeps its microseconds on the way in and out', async () => {
  const time = '2026-11-23T09:23:04.321987Z';
  const [row] = await db.catalog.query<{ time: string }>('select $1::timestamptz as time', [time]);
  expect(row!.time).toBe(time);
  expect(isoTimestamp('2026-11-23 09:23:04+00')).toBe('2026-11-23T09:23:04.000000Z');
  expect(isoTimestamp('infinity')).toBe('infinity');
});

test('a transaction that throws leaves nothing behind', async () => {
  await db.catalog.query('create table if not exists scratch (n integer primary key)');
  const failure = db.catalog.transaction(async (tx) => {
    await tx.query('insert into scratch values (1)');
    throw new Error('no');
  });
  await expect(failure).rejects.toThrow('no');
  expect(await db.catalog.query('select * from scratch')).toEqual([]);
});

test('transactions that deadlock are run again until all succeed', async () => {
  await db.catalog.query('create table if not exists pairs (id integer primary key, n integer not null)');
  await db.catalog.query('insert into pairs values (1, 0), (2, 0)');
  await db.catalog.query(`alter database ${db.connection.database} set deadlock_timeout = '20ms'`);
  const other = new CatalogDatabase({ connection: db.connection, logger: silentLogger() });
  let attempts = 0;
  let bothHoldOne!: () => void;
  const held = new Promise<void>((resolve) => (bothHoldOne = resolve));
  const touch = (first: number, second: number) =>
    other.transaction(async (tx) => {
      attempts += 1;
      await tx.query('update pairs set n = n + 1 where id = $1', [first]);
      if (attempts >= 2) bothHoldOne();
      await held;
      await tx.query('update pairs set n = n + 1 where id = $1', [second]);
    });
  await Promise.all([touch(1, 2), touch(2, 1)]);
  expect(attempts).toBeGreaterThan(2);
  expect(await other.query('select n from pairs order by id')).toEqual([{ n: 2 }, { n: 2 }]);
  await other.close();
});

test('a session that the server ends does not spoil the next query', async () => {
  const [row] = await db.catalog.query<{ pid: number }>('select pg_backend_pid() as pid');
  const killer = new CatalogDatabase({ connection: db.connection, logger: silentLogger() });
  await killer.query(
    'select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1 and datname = current_database() and pid <> pg_backend_pid()',
    ['test'],
  );
  await killer.close();
  await expect
    .poll(async () => (await db.catalog.query<{ pid: number }>('select pg_backend_pid() as pid'))[0]!.pid)
    .not.toBe(row!.pid);
});

test('a catalog that is not there is unavailable, without naming where it is', async () => {
  const nowhere = new CatalogDatabase({
    connection: { ...db.connection, host: '/tmp/ballast-nowhere' },
    logger: silentLogger(),
  });
  const error: unknown = await nowhere.query('select 1').catch((thrown: unknown) => thrown);
  expect(isAppError(error, 'unavailable')).toBe(true);
  expect((error as Error).message).not.toContain('nowhere');
  await expect(nowhere.transaction(async () => 1)).rejects.toSatisfy((thrown) => isAppError(thrown, 'unavailable'));
  await nowhere.close();
});

test('what the server refuses comes out with its SQLSTATE', async () => {
  await expect(db.catalog.query('select * from nothing_here')).rejects.toMatchObject({ code: '42P01' });
});

test('listen hears other sessions and survives the loss of its own', async () => {
  const heard: string[] = [];
  const listener = db.catalog.listen('a_channel', (payload) => heard.push(payload));
  await expect
    .poll(
      async () =>
        (
          await db.catalog.query(
            `select 1 from pg_stat_activity where datname = current_database() and query = 'listen "a_channel"'`,
          )
        ).length,
    )
    .toBe(1);
  await db.catalog.query(`select pg_notify('a_channel', 'one')`);
  await expect.poll(() => heard).toEqual(['one']);
  await db.catalog.query(
    `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query = 'listen "a_channel"'`,
  );
  await expect
    .poll(async () => {
      await db.catalog.query(`select pg_notify('a_channel', 'two')`);
      return heard.includes('two');
    })
    .toBe(true);
  await listener.close();
});

test('migrations run once, are repeatable, and refuse an edited or newer history', async () => {
  const empty = await openTestCatalog({ migrated: false });
  const shipped = await readMigrations();
  const [first, second] = await Promise.all([migrate(empty.catalog, shipped), migrate(empty.catalog, shipped)]);
  expect([...first, ...second].toSorted()).toEqual(shipped.map((migration) => migration.name));
  expect(await migrate(empty.catalog, shipped)).toEqual([]);
  const extra = { number: shipped.length + 1, name: '9999_extra', sql: 'create table extra ()', checksum: 'x' };
  expect(await migrate(empty.catalog, [...shipped, extra])).toEqual(['9999_extra']);
  await expect(migrate(empty.catalog, shipped)).rejects.toThrow('made by a newer Ballast');
  await expect(migrate(empty.catalog, [...shipped, { ...extra, checksum: 'y' }])).rejects.toThrow(
    'was changed after it ran',
  );
  const broken = {
    number: shipped.length + 2,
    name: '9999_broken',
    sql: 'create table half (); select 1/0',
    checksum: 'z',
  };
  await expect(migrate(empty.catalog, [...shipped, extra, broken])).rejects.toThrow('division by zero');
  expect(await empty.catalog.query(`select to_regclass('half') as half`)).toEqual([{ half: null }]);
  await empty.close();
});

test('parses catalog URLs as libpq does, and never repeats one in an error', () => {
  expect(parseCatalogUrl('postgres://me:p%40ss@db.example.com:6000/cat?sslmode=require')).toEqual({
    host: 'db.example.com',
    port: 6000,
    user: 'me',
    password: 'p@ss',
    database: 'cat',
    ssl: { rejectUnauthorized: false },
  });
  expect(parseCatalogUrl('postgresql://me@/cat?host=/run/pg')).toMatchObject({
    host: '/run/pg',
    port: 5432,
    ssl: false,
    password: undefined,
  });
  expect(parseCatalogUrl('postgres://me@h/cat?sslmode=verify-full')).toMatchObject({ ssl: true });
  expect(() => parseCatalogUrl('mysql://u:sesame@h/x')).toThrow(/must begin with postgres/);
  expect(() => parseCatalogUrl('not sesame')).toThrow(/^--catalog-url is not a URL like \S+$/);
});
