import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { TestEngine } from '../../test/support/computes.ts';
import { connectAs, openTestEngine, testMajors, testVerifier } from '../../test/support/computes.ts';
import { isAppError } from '../lib/errors.ts';
import { dumpSchema } from './dump.ts';
import type { InternalLogin } from './internal-session.ts';
import { listSchema } from './schema-listing.ts';

const majors = await testMajors();
let engine: TestEngine;
beforeAll(async () => {
  engine = await openTestEngine();
});
afterAll(() => engine.close());

interface Running {
  address: { socketDirectory: string; port: number };
  login: InternalLogin;
}

async function running(major: number): Promise<Running> {
  const spec = engine.spec(`ep-dump-${major}-${Date.now()}`, major);
  await engine.storage.create(spec.timeline, major);
  const verifier = await testVerifier();
  const address = await engine.supervisor.start(spec, [
    { kind: 'create_role', name: 'owner', verifier, noLogin: false },
    { kind: 'create_database', name: `it's a "shop"\\`, owner: 'owner' },
  ]);
  return { address, login: { ...address, database: `it's a "shop"\\`, secret: engine.secret, major } };
}

async function asOwner({ address, login }: Running, ...statements: string[]): Promise<void> {
  const client = await connectAs(address, 'owner', login.database);
  for (const statement of statements) await client.query(statement);
  await client.end();
}

describe.each(majors)('Postgres %i', (major) => {
  let compute: Running;
  beforeAll(async () => {
    compute = await running(major);
  });

  test('a schema is dumped, and dumped alike every time', async () => {
    await asOwner(
      compute,
      `create table "Größe" (id int generated always as identity primary key, note text default 'a;b' check (note <> ''))`,
      `insert into "Größe" (note) values ('a row of data')`,
      `create view v as select note from "Größe"`,
    );
    const sql = await dumpSchema(compute.login);
    expect(sql).toMatch(/^--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version \d+/);
    expect(sql).toMatch(/\n-- PostgreSQL database dump complete\n--\n\n$/);
    expect(sql).toContain('CREATE TABLE public."Größe"');
    expect(sql).toContain('ALTER VIEW public.v OWNER TO owner;');
    expect(sql).not.toContain('a row of data');
    expect(sql).not.toMatch(/^\\/m);
    expect(sql.includes('transaction_timeout')).toBe(major >= 17);
    expect(await dumpSchema(compute.login)).toBe(sql);
  });

  test('settings of the database and tables of other owners do not disturb it', async () => {
    await asOwner(
      compute,
      `create schema evil`,
      `create function evil.format_type(oid, int) returns text language sql as $$ select 'hijacked' $$`,
      `alter database "it's a ""shop""\\" set search_path = evil, pg_catalog`,
      `alter database "it's a ""shop""\\" set default_transaction_read_only = on`,
      `alter database "it's a ""shop""\\" set statement_timeout = 1`,
      `create role plain`,
      `grant plain to owner`,
      `create schema theirs authorization plain`,
      `set role plain`,
      `create table theirs.private (secret int)`,
    );
    const sql = await dumpSchema(compute.login);
    expect(sql).not.toContain('hijacked text');
    expect(sql).toContain('CREATE TABLE public."Größe"');
    expect(sql).toContain('ALTER TABLE theirs.private OWNER TO plain;');
  });
});

test('tables as a listing', async () => {
  const compute = await running(majors[0]!);
  await asOwner(
    compute,
    "create schema app; create extension pg_trgm; create type app.mood as enum ('ok')",
    'create table app.parents (a int, b text, primary key (b, a), unique (a))',
    `create table app.children (id bigint, gone int, a int not null, b text, mood app.mood[], twice numeric(10,2) generated always as (id * 2) stored,
       foreign key (b, a) references app.parents, check (a > 0))`,
    'alter table app.children drop column gone',
    'create view app.v as select 1',
  );
  const listing = await listSchema(compute.login);
  expect(listing).toEqual({
    tables: [
      {
        schema: 'app',
        name: 'children',
        columns: [
          { name: 'id', type: 'bigint', nullable: true, generated: false },
          { name: 'a', type: 'integer', nullable: false, generated: false },
          { name: 'b', type: 'text', nullable: true, generated: false },
          { name: 'mood', type: 'app.mood[]', nullable: true, generated: false },
          { name: 'twice', type: 'numeric(10,2)', nullable: true, generated: true },
        ],
        constraints: [
          {
            name: 'children_b_a_fkey',
            type: 'foreign_key',
            columns: ['b', 'a'],
            referenced_table: { schema: 'app', table: 'parents', columns: ['b', 'a'] },
          },
        ],
      },
      {
        schema: 'app',
        name: 'parents',
        columns: [
          { name: 'a', type: 'integer', nullable: false, generated: false },
          { name: 'b', type: 'text', nullable: false, generated: false },
        ],
        constraints: [
          { name: 'parents_pkey', type: 'primary_key', columns: ['b', 'a'] },
          { name: 'parents_a_key', type: 'unique', columns: ['a'] },
        ],
      },
    ],
  });
});

describe('what must not last for ever', () => {
  let compute: Running;
  beforeAll(async () => {
    compute = await running(majors.at(-1)!);
    await asOwner(compute, 'create table t (x int)');
  });

  test('a limit of size, of time, and a signal', async () => {
    await expect(dumpSchema(compute.login, { limitBytes: 2000 })).rejects.toMatchObject({ kind: 'too_large' });
    await expect(dumpSchema(compute.login, { timeoutMs: 1 })).rejects.toMatchObject({ kind: 'unavailable' });
    const controller = new AbortController();
    const dumping = dumpSchema(compute.login, { signal: controller.signal });
    controller.abort();
    await expect(dumping).rejects.toMatchObject({ kind: 'unavailable' });
  });

  test('a locked table lets the timeout end it', async () => {
    const client = await connectAs(compute.address, 'owner', compute.login.database);
    await client.query('begin; lock table t');
    const error: unknown = await dumpSchema(compute.login, { timeoutMs: 3000 }).catch((failure: unknown) => failure);
    expect(isAppError(error, 'unavailable')).toBe(true);
    await client.query('commit');
    await client.end();
    expect(await dumpSchema(compute.login)).toContain('CREATE TABLE public.t');
  });

  test('no server, no database: an error without the secret', async () => {
    for (const login of [
      { ...compute.login, database: 'nowhere' },
      { ...compute.login, socketDirectory: '/nonexistent' },
      { ...compute.login, secret: 'wrong-secret' },
    ]) {
      const error: unknown = await dumpSchema(login).catch((failure: unknown) => failure);
      expect(isAppError(error, 'unavailable')).toBe(true);
      const { message, cause } = error as Error;
      expect(message + String(cause)).not.toContain(login.secret);
    }
  });
});
