import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TestEngine } from '../../test/support/computes.ts';
import { connectAs, openTestEngine, testMajors, testVerifier } from '../../test/support/computes.ts';
import type { ComputeAddress, ComputeChange, ComputeSpec, RolesAndDatabases } from './types.ts';

const majors = await testMajors();
let engine: TestEngine;
beforeAll(async () => {
  engine = await openTestEngine();
});
afterAll(() => engine.close());

interface Running {
  spec: ComputeSpec;
  address: ComputeAddress;
  apply(...changes: ComputeChange[]): Promise<void>;
  read(): Promise<RolesAndDatabases>;
  as(role: string, database?: string): ReturnType<typeof connectAs>;
}

let counter = 0;
async function running(major: number): Promise<Running> {
  const spec = engine.spec(`ep-changes-${++counter}`, major);
  await engine.storage.create(spec.timeline, major);
  const verifier = await testVerifier();
  const address = await engine.supervisor.start(spec, [
    { kind: 'create_role', name: 'owner', verifier, noLogin: false },
    { kind: 'create_database', name: 'shop', owner: 'owner' },
  ]);
  return {
    spec,
    address,
    apply: (...changes) => engine.supervisor.applyChanges(spec.endpointId, changes),
    read: () => engine.supervisor.rolesAndDatabases(spec.endpointId),
    as: (role, database = 'shop') => connectAs(address, role, database),
  };
}

test.each(majors)('%i: every change does what it says and may run again', async (major) => {
  const compute = await running(major);
  const verifier = await testVerifier();
  const create: ComputeChange = { kind: 'create_role', name: 'a "b" \'c\'', verifier, noLogin: false };
  await compute.apply(create, create);
  const rename: ComputeChange = { kind: 'alter_database', name: 'shop', newName: 'Büro', owner: create.name };
  await compute.apply(rename, rename);
  expect(await compute.read()).toMatchObject({
    roles: [
      { name: 'owner', verifier, canLogin: true },
      { name: create.name, verifier, canLogin: true },
    ],
    databases: [{ name: 'Büro', owner: create.name }],
  });
  const client = await compute.as(create.name, 'Büro');
  await client.query('create table t (x int)');
  const { rows } = await client.query<{ owner: string; member: boolean; privileges: boolean }>(
    `select pg_get_userbyid(nspowner) as owner, pg_has_role('neon_superuser', 'member') as member,
            has_database_privilege('neon_superuser', current_database(), 'create') as privileges
     from pg_namespace where nspname = 'public'`,
  );
  expect(rows[0]).toEqual({ owner: create.name, member: true, privileges: true });
  await client.end();
  const nobody: ComputeChange = { kind: 'create_role', name: 'nobody', verifier: null, noLogin: true };
  await compute.apply(nobody, { kind: 'set_verifier', name: 'gone', verifier });
  expect((await compute.read()).roles.at(-1)).toEqual({ name: 'nobody', verifier: null, canLogin: false });
  await compute.apply({ kind: 'drop_database', name: 'Büro' }, { kind: 'drop_database', name: 'Büro' });
  await compute.apply({ kind: 'drop_role', name: create.name }, { kind: 'drop_role', name: create.name });
  const after = await compute.read();
  expect(after.databases).toEqual([]);
  expect(after.roles.map((role) => role.name)).toEqual(['owner', 'nobody']);
});

test.each(majors)('%i: a role with objects, grants and members of its own can be dropped', async (major) => {
  const compute = await running(major);
  const verifier = await testVerifier();
  await compute.apply({ kind: 'create_role', name: 'worker', verifier, noLogin: false });
  const worker = await compute.as('worker');
  await worker.query(`create role helper; create role other; grant helper to other`);
  await worker.query(
    `create schema w; create table w.t (x int); insert into w.t values (7); grant select on w.t to other`,
  );
  await worker.query(`alter default privileges in schema w grant select on tables to other`);
  await worker.query(`create function w.f() returns int language sql security definer as 'select 1'`);
  await worker.query('create database theirs');
  const owner = await compute.as('owner');
  await owner.query('create table t (x int); grant all on t to worker with grant option');
  await compute.apply({ kind: 'drop_role', name: 'worker' });
  const { rows } = await owner.query('select x from w.t');
  expect(rows).toEqual([{ x: 7 }]);
  expect((await compute.read()).roles.map((role) => role.name)).toEqual(['owner', 'helper', 'other']);
  await expect(worker.query('select 1')).rejects.toThrow();
  await owner.end();
});

test.each(majors)('%i: databases change while clients sit in them, and with a template flag', async (major) => {
  const compute = await running(major);
  const sitting = await compute.as('owner');
  await sitting.query('begin');
  const lost = new Promise<void>((resolve) => sitting.once('end', resolve));
  await compute.apply({ kind: 'alter_database', name: 'shop', newName: 'store', owner: 'owner' });
  await lost;
  const client = await compute.as('owner', 'store');
  await client.query('alter database store with is_template true allow_connections false').catch(() => undefined);
  await compute.apply({ kind: 'drop_database', name: 'store' });
  expect((await compute.read()).databases).toEqual([]);
  const inTemplate = await compute.as('owner', 'template1');
  await compute.apply({ kind: 'create_database', name: 'new', owner: 'owner' });
  await inTemplate.end().catch(() => undefined);
});

test.each(majors.filter((major) => major >= 16))(
  '%i: a database with a subscription and a slot can be dropped',
  async (major) => {
    const spec = engine.spec(`ep-changes-${++counter}`, major, { logicalReplication: true });
    await engine.storage.create(spec.timeline, major);
    const address = await engine.supervisor.start(spec, [
      { kind: 'create_role', name: 'owner', verifier: await testVerifier(), noLogin: false },
      { kind: 'create_database', name: 'shop', owner: 'owner' },
    ]);
    const client = await connectAs(address, 'owner', 'shop');
    await client.query(
      `create subscription s connection 'host=/nonexistent password=x' publication p with (connect = false, slot_name = 'far_away')`,
    );
    await client.query(`select pg_create_logical_replication_slot('mine', 'test_decoding')`);
    await client.end();
    await engine.supervisor.applyChanges(spec.endpointId, [{ kind: 'drop_database', name: 'shop' }]);
    expect((await engine.supervisor.rolesAndDatabases(spec.endpointId)).databases).toEqual([]);
  },
);

test('what Ballast itself needs is never touched', async () => {
  const compute = await running(majors.at(-1)!);
  const verifier = await testVerifier();
  for (const name of ['cloud_admin', 'neon_superuser', 'pg_monitor', '']) {
    await expect(compute.apply({ kind: 'drop_role', name })).rejects.toMatchObject({ kind: 'unprocessable' });
    await expect(compute.apply({ kind: 'set_verifier', name, verifier })).rejects.toMatchObject({
      kind: 'unprocessable',
    });
  }
  for (const name of ['postgres', 'template0', 'template1']) {
    await expect(compute.apply({ kind: 'drop_database', name })).rejects.toMatchObject({ kind: 'unprocessable' });
  }
  await expect(
    compute.apply({ kind: 'create_role', name: 'x', verifier: 'a password in clear text', noLogin: false }),
  ).rejects.toMatchObject({ kind: 'internal' });
  await expect(compute.apply({ kind: 'create_database', name: 'x', owner: 'nobody at all' })).rejects.toMatchObject({
    kind: 'unprocessable',
    message: expect.stringContaining('nobody at all'),
  });
});

test('SQL shows up in the fingerprint: roles, passwords, logins, databases, owners', async () => {
  const compute = await running(majors.at(-1)!);
  const client = await compute.as('owner');
  const seen = new Set([(await compute.read()).fingerprint]);
  const statements = [
    `create role r`,
    `alter role r login`,
    `alter role r password 'one'`,
    `alter role r password 'two'`,
    `create database d`,
    `grant r to owner with set true`,
    `alter database d owner to r`,
    `alter role r rename to q`,
    `drop database d`,
  ];
  for (const statement of statements) {
    await client.query(statement);
    const { fingerprint } = await compute.read();
    if (!statement.startsWith('grant')) expect(seen.has(fingerprint), statement).toBe(false);
    seen.add(fingerprint);
  }
  await client.query('create table unrelated (x int)');
  expect(seen.has((await compute.read()).fingerprint)).toBe(true);
  await client.end();
});
