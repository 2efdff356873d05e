import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { TestEngine } from '../../test/support/computes.ts';
import { connectAs, openTestEngine, testMajors, testVerifier } from '../../test/support/computes.ts';
import {
  createDatabaseStatement,
  databaseStatements,
  readClusterFacts,
  roleStatements,
  settingStatement,
} from './cluster-facts.ts';
import { dumpSchema } from './dump.ts';
import { withInternalSession, type InternalLogin } from './internal-session.ts';
import { loadSchema, readSchemaOwners } from './load-schema.ts';

const majors = await testMajors();
let engine: TestEngine;
beforeAll(async () => {
  engine = await openTestEngine();
});
afterAll(() => engine.close());

let counter = 0;

/** With the role `owner` and the database `shop` where `isSource` says so. */
async function running(major: number, isSource: boolean): Promise<InternalLogin> {
  const spec = engine.spec(`ep-load-${(counter += 1)}`, major, { preloadLibraries: ['pg_stat_statements'] });
  await engine.storage.create(spec.timeline, major);
  const verifier = await testVerifier();
  const address = await engine.supervisor.start(
    spec,
    isSource
      ? [
          { kind: 'create_role', name: 'owner', verifier, noLogin: false },
          { kind: 'create_database', name: 'shop', owner: 'owner' },
        ]
      : [],
  );
  return { ...address, database: 'shop', secret: engine.secret, major };
}

async function as(login: InternalLogin, role: string, ...statements: string[]): Promise<Record<string, unknown>[]> {
  const client = await connectAs(login, role, login.database);
  try {
    let rows: Record<string, unknown>[] = [];
    for (const statement of statements) ({ rows } = await client.query(statement));
    return rows;
  } finally {
    await client.end();
  }
}

const admin = (login: InternalLogin, ...statements: string[]) =>
  withInternalSession(login, async (session) => {
    let rows: (string | null)[][] = [];
    for (const statement of statements) rows = await session.query(statement);
    return rows;
  });

async function copy(source: InternalLogin, target: InternalLogin, databases = ['shop']): Promise<void> {
  const { major } = source;
  const inPostgres = (login: InternalLogin) => ({ ...login, database: 'postgres' });
  const facts = await withInternalSession(inPostgres(source), (session) => readClusterFacts(session, major, databases));
  await admin(inPostgres(target), ...roleStatements(facts, major));
  for (const database of facts.databases) {
    const make = createDatabaseStatement(database) ?? `CREATE DATABASE "${database.name}"`;
    await admin(inPostgres(target), make, ...databaseStatements(database));
    const [from, to] = [source, target].map((login) => ({ ...login, database: database.name }));
    await loadSchema(to!, { sql: await dumpSchema(from!), ...(await readSchemaOwners(from!)) });
  }
  await admin(inPostgres(target), ...facts.settings.map(settingStatement));
}

const leftovers = (login: InternalLogin) =>
  admin(login, `SELECT rolname::text FROM pg_catalog.pg_authid WHERE rolname LIKE 'ballast%'`);

async function clusterText(login: InternalLogin, databases: string[]): Promise<unknown> {
  return withInternalSession({ ...login, database: 'postgres' }, (session) =>
    readClusterFacts(session, login.major, databases),
  );
}

const RICH = [
  'create role app login',
  'create role reader nologin',
  'grant reader to app with admin option',
  'grant app, reader to owner',
  'alter role app set search_path = app, "$user", \'odd, name\'',
  "alter role app in database shop set statement_timeout = '5s'",
  "alter database shop set timezone = 'Europe/Vienna'",
  'revoke connect on database shop from public',
  'grant connect, temporary on database shop to reader with grant option',
  'create extension citext',
  'create extension postgres_fdw',
  'create extension amcheck',
  'create schema app authorization app',
  'create schema shared',
  'grant create, usage on schema shared to app',
  'create extension pg_trgm schema shared',
  `create type app.mood as enum ('sad', 'it''s ok')`,
  'create domain app.positive as int check (value > 0)',
  `create table app.items (id int generated always as identity primary key, name citext not null unique, mood app.mood default 'sad',
     size app.positive, twice int generated always as (id * 2) stored, made timestamptz default now(), check (name <> ';'))`,
  'insert into app.items (name) values ($$secret row$$)',
  'create table app.parts (id bigserial, item int references app.items on delete cascade, at date not null) partition by range (at)',
  `create table app.parts_2024 partition of app.parts for values from ('2024-01-01') to ('2025-01-01')`,
  'create index on app.items using gin (lower(name::text) shared.gin_trgm_ops) where id > 3',
  'create view app.names with (security_barrier) as select name from app.items',
  'create materialized view app.counts as select count(*) from app.items',
  `create function app.add(a int, b int default 1) returns int language sql immutable begin atomic select a; select a + b; end`,
  `create function app.note() returns trigger language plpgsql security definer set search_path = app as $$ begin raise notice 'x;y'; return new; end $$`,
  'create trigger noted before insert on app.items for each row execute function app.note()',
  'create rule nothing as on delete to app.names do instead nothing',
  'alter table app.items enable row level security',
  'create policy own on app.items for select to reader using (name = current_user)',
  `create server far foreign data wrapper postgres_fdw options (host 'example.org')`,
  `create user mapping for owner server far options (user 'u', password 'not to be seen')`,
  'create publication news for table app.items',
  'create statistics app.s on id, mood from app.items',
  `comment on table app.items is 'a "comment"; --'`,
  `comment on database shop is 'the shop''s'`,
  'grant select on app.items to reader with grant option',
  'grant update (name) on app.items to reader',
  'revoke all on function app.add from public',
  'alter default privileges for role app in schema app grant select on tables to reader',
  'create table shared.late (x int)',
  'alter table shared.late owner to app',
  'revoke create on schema shared from app',
  'alter table app.items owner to app',
  'grant usage on schema app to reader, app',
  'set role app',
  'create table app.mine (x int)',
  'set role reader',
  'grant select on app.items to owner',
];

describe.each(majors)('Postgres %i', (major) => {
  let source: InternalLogin;
  beforeAll(async () => {
    source = await running(major, true);
  });

  test('everything but data and secrets comes along', async () => {
    await as(source, 'owner', ...RICH);
    const target = await running(major, false);
    await copy(source, target);
    const sql = await dumpSchema(target);
    expect(sql).toBe(await dumpSchema(source));
    expect(sql).toContain('ALTER TABLE app.mine OWNER TO app;');
    expect(sql).not.toContain('not to be seen');
    expect(await clusterText(target, ['shop'])).toEqual(await clusterText(source, ['shop']));
    expect(await readSchemaOwners(target)).toEqual(await readSchemaOwners(source));
    expect(await leftovers(target)).toEqual([]);
    expect(await admin(target, 'SELECT pg_catalog.count(*)::text FROM app.items')).toEqual([['0']]);
    expect(await as(target, 'owner', `insert into app.items (name) values ('new') returning id`)).toEqual([{ id: 1 }]);
  });

  test('a second database, without public, with a locale and an owner without rights', async () => {
    const lone = { ...source, database: 'lone' };
    await as(
      source,
      'owner',
      'create role plain login',
      'grant plain to owner',
      `create database lone template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' ${major >= 15 ? 'locale_provider libc' : ''} owner plain`,
    );
    await admin(lone, 'DROP SCHEMA public');
    await as(lone, 'owner', 'set role plain', 'create schema s', 'create table s.t (note text check (note <> $$ü$$))');
    const target = { ...(await running(major, false)), database: 'lone' };
    await copy(source, target, ['lone']);
    expect(await dumpSchema(target)).toBe(await dumpSchema(lone));
    expect(await clusterText(target, ['lone'])).toMatchObject({ databases: [{ name: 'lone', owner: 'plain' }] });
  });
});

/** Whatever runs it, it first tries to be more than that, and notes what it is. Only in the copy. */
const hostile = (sourceName: string) => [
  'create role mallory login',
  'grant mallory to owner',
  'create schema evil authorization mallory',
  'set role mallory',
  'create table evil.seen (super text, login text, role text)',
  `create function evil.act() returns int language plpgsql volatile as $$
   begin
     if current_setting('cluster_name') = '${sourceName}' then return 1; end if;
     begin execute 'reset session authorization'; exception when others then null; end;
     begin execute 'reset role'; exception when others then null; end;
     begin execute 'set role cloud_admin'; exception when others then null; end;
     begin execute 'alter role mallory superuser'; exception when others then null; end;
     insert into evil.seen values (current_setting('is_superuser'), session_user, current_user);
     return 1;
   end $$`,
  'create function evil.f(int) returns int language plpgsql immutable as $$ begin perform evil.act(); return $1; end $$',
  'create domain evil.d as int check (evil.f(value) > 0)',
  `create type evil.c as (x int)`,
  'create function evil.to_int(evil.c) returns int language plpgsql immutable as $$ begin perform evil.act(); return 1; end $$',
  'create cast (evil.c as int) with function evil.to_int(evil.c) as implicit',
  'create function evil.minus(int, int) returns int language plpgsql immutable as $$ begin perform evil.act(); return $1; end $$',
  'create operator evil.- (leftarg = int, rightarg = int, function = evil.minus)',
  `create table evil.t (x int default evil.f(1), y evil.d default 1, z int generated always as (evil.f(1)) stored,
     constraint folded check (evil.f(1) > 0))`,
  'create index ia on evil.t (x) where evil.f(1) = 1',
  'create index ib on evil.t ((evil.f(1) + x))',
  'create index ic on evil.t (x) where x > (5)::evil.d',
  `create index id on evil.t (x) where x > cast(row(1)::evil.c as int)`,
  'create index ie on evil.t (x) where 1 operator(evil.-) 2 = 1',
  'create table evil.parts (x int, constraint folded check (evil.f(1) > 0)) partition by list (x)',
  'create table evil.rest partition of evil.parts default',
  'create table evil.one partition of evil.parts for values in (1)',
  'create view evil.v as select evil.f(1) as x',
  'create rule r as on update to evil.t do also select evil.f(1)',
  'create materialized view evil.m as select evil.f(1) as x with no data',
  'create index if on evil.m (x) where evil.f(1) = 1',
  `create function evil.g() returns trigger language plpgsql as $$ begin perform evil.act(); return new; end $$`,
  'create trigger g before insert on evil.t for each row when (evil.f(1) = 1) execute function evil.g()',
  'alter table evil.t enable row level security',
  'create policy p on evil.t using (evil.f(1) = 1)',
];

test.each(majors)("Postgres %i: the tenant's code never runs with more rights than the loader has", async (major) => {
  const source = await running(major, true);
  await as(source, 'owner', ...hostile(`ep-load-${counter}`));
  const target = await running(major, false);
  await copy(source, target);
  const seen = await admin(target, "SELECT DISTINCT super, login ~ '^ballast_loader_' AS loader FROM evil.seen");
  // Some of it did run, or this would show nothing.
  expect(seen).toEqual([['off', 't']]);
  const runs = await admin(target, 'SELECT pg_catalog.count(*)::text FROM evil.seen');
  expect(Number(runs[0]![0])).toBeGreaterThanOrEqual(5);
  const superusers = await admin(target, 'SELECT rolname::text FROM pg_catalog.pg_authid WHERE rolsuper');
  expect(superusers).toEqual([['cloud_admin']]);
  expect(await leftovers(target)).toEqual([]);
  expect(await dumpSchema(target)).toContain('CREATE INDEX id ON evil.t');
});

test('a schema that Postgres refuses leaves nothing behind, and neither does a crash', async () => {
  const major = majors.at(-1)!;
  const source = await running(major, true);
  await as(
    source,
    'owner',
    `create function f(int) returns int language plpgsql immutable as $$ begin
       if current_setting('cluster_name') <> 'ep-load-${counter}' then raise exception 'not here'; end if; return 1; end $$`,
    'create table t (x int)',
    'create index on t (x) where f(1) = 1',
  );
  const target = await running(major, false);
  await expect(copy(source, target)).rejects.toMatchObject({
    kind: 'unprocessable',
    message: expect.stringMatching(/^the schema could not be loaded: not here \(in: CREATE INDEX /),
  });
  expect(await leftovers(target)).toEqual([]);
  expect(await admin(target, `SELECT 1 FROM pg_catalog.pg_class WHERE relname = 't'`)).toEqual([]);

  await admin(
    target,
    'CREATE ROLE ballast_owners_0123456789abcdef',
    'CREATE ROLE ballast_loader_0123456789abcdef LOGIN',
    'GRANT owner TO ballast_loader_0123456789abcdef',
    'GRANT ballast_owners_0123456789abcdef TO owner',
    'GRANT CREATE ON SCHEMA public TO ballast_owners_0123456789abcdef',
    'GRANT CREATE ON DATABASE shop TO ballast_owners_0123456789abcdef',
  );
  await as(source, 'owner', 'drop table t');
  await loadSchema(target, { sql: await dumpSchema(source), ...(await readSchemaOwners(source)) });
  expect(await leftovers(target)).toEqual([]);
  expect(await dumpSchema(target)).toBe(await dumpSchema(source));
});

test('more tables than one transaction could lock', async () => {
  const source = await running(majors.at(-1)!, true);
  const tables = `begin for n in 1..3000 loop execute format('create table t%s (id int primary key, note text)', n);
    if n % 100 = 0 then commit; end if; end loop; end`;
  await as(source, 'owner', `do $$ ${tables} $$`);
  const target = await running(source.major, false);
  await copy(source, target);
  const count = `SELECT pg_catalog.count(*)::text FROM pg_catalog.pg_tables WHERE schemaname = 'public' AND tableowner = 'owner'`;
  expect(await admin(target, count)).toEqual([['3000']]);
  expect(await leftovers(target)).toEqual([]);
});
