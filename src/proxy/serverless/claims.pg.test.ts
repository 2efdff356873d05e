/**
 * Claims of JWTs inside a compute: roles that Ballast enters without a password, and what pg_session_jwt believes there.
 * What is tried here to forge claims are things that a client with a JWT can do: any SQL, as the role of the JWT.
 */
import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { TestEngine } from '../../../test/support/computes.ts';
import { connectAs, openTestEngine, testMajors, testVerifier } from '../../../test/support/computes.ts';
import { waitFor } from '../../../test/support/wait.ts';
import { signClaims } from './claims.ts';

let engine: TestEngine;
beforeAll(async () => {
  engine = await openTestEngine();
});
afterAll(() => engine?.close());

describe.each(await testMajors())('PostgreSQL %i', (major) => {
  let spec: ReturnType<TestEngine['spec']>;
  let address: Awaited<ReturnType<TestEngine['supervisor']['start']>>;
  let owner: Awaited<ReturnType<typeof connectAs>>;
  let startedAt: string;
  const clients: pg.Client[] = [];

  // With a wrong password, so that who is asked for one is refused by Postgres and not by the driver.
  const place = () => ({ host: address.socketDirectory, port: address.port, database: 'shop', password: 'wrong' });
  const enter = async (role: string) => {
    const client = new pg.Client({ ...place(), user: role });
    client.on('error', () => undefined);
    await client.connect();
    clients.push(client);
    return client;
  };
  const startTime = async (): Promise<string> =>
    (await owner.query('select pg_postmaster_start_time()::text as at')).rows[0].at;
  const processId = async (client: pg.Client): Promise<number> =>
    (await client.query('select pg_backend_pid() as pid')).rows[0].pid;
  const claim = async (
    client: pg.Client,
    claims: object,
    change: { key?: Buffer; pid?: number; nowMs?: number } = {},
  ) => {
    const signed = signClaims(change.key ?? address.claimsKey!, {
      processId: change.pid ?? (await processId(client)),
      claims: JSON.stringify(claims),
      nowMs: change.nowMs ?? Date.now(),
    });
    await client.query(`select set_config('pg_session_jwt.jwt', $1, false)`, [signed]);
  };
  const notes = async (client: pg.Client) =>
    (await client.query('select body from notes')).rows.map(({ body }) => body);

  beforeAll(async () => {
    spec = engine.spec(`ep-claims-${major}`, major);
    await engine.storage.create(spec.timeline, major);
    address = await engine.supervisor.start(spec, [
      { kind: 'create_role', name: 'owner', verifier: await testVerifier(), noLogin: false },
      { kind: 'create_role', name: 'authenticated', verifier: null, noLogin: false, plain: true },
      { kind: 'create_role', name: 'Büro', verifier: null, noLogin: false, plain: true },
      { kind: 'create_database', name: 'shop', owner: 'owner' },
    ]);
    owner = await connectAs(address, 'owner', 'shop');
    startedAt = await startTime();
    await expect(enter('authenticated')).rejects.toThrow(/password/);
    await engine.supervisor.start({ ...spec, jwtRoles: ['authenticated', 'Büro', 'cloud_admin', '/.*', '+owner'] }, []);
    await waitFor('the login', async () => (await enter('authenticated').catch(() => undefined)) !== undefined, {
      timeoutMs: 60_000,
    });
    await owner.query('create extension pg_session_jwt');
    await owner.query(`create table notes (who text default auth.user_id(), body text);
      alter table notes enable row level security;
      create policy own on notes using (auth.user_id() = who) with check (auth.user_id() = who);
      grant select, insert on notes to authenticated;
      insert into notes values ('alice', 'of alice'), ('bob', 'of bob')`);
  });
  afterAll(async () => {
    for (const client of [...clients, owner]) await client?.end().catch(() => undefined);
  });

  test('a role without a password is entered once it is one of JWTs, without a restart', async () => {
    expect(await processId(await enter('Büro'))).toBeGreaterThan(0);
    for (const role of ['owner', 'cloud_admin']) await expect(enter(role), role).rejects.toThrow(/password/);
    expect(await startTime()).toBe(startedAt);
    const plain = `select rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication as any,
      pg_has_role(oid, 'neon_superuser', 'member') as member from pg_roles where rolname = 'authenticated'`;
    expect((await owner.query(plain)).rows).toEqual([{ any: false, member: false }]);
  });

  test('claims of Ballast are believed, and say what the JWT said', async () => {
    const client = await enter('authenticated');
    expect(await notes(client)).toEqual([]);
    const id = 'd75e2dfb-31eb-4a4c-9a35-1d5ee0d4c0f0';
    const claims = { sub: 'bob', name: 'Zoë 😀 "\\', n: 1.5, o: { id, slug: 'x' } };
    await claim(client, claims);
    expect(await notes(client)).toEqual(['of bob']);
    await client.query(`insert into notes (body) values ('another of bob')`);
    await expect(client.query(`insert into notes values ('alice', 'x')`)).rejects.toThrow(/row-level security/);
    const said =
      'select auth.session() as session, auth.jwt() as jwt, auth.uid() as uid, auth.organization_id() as org';
    expect((await client.query(said)).rows).toEqual([{ session: claims, jwt: claims, uid: null, org: id }]);
    await claim(client, { sub: 7 });
    await expect(notes(client)).rejects.toThrow('invalid subject claim in the JWT');
    await claim(client, { sub: id });
    expect((await client.query('select auth.uid() as uid')).rows).toEqual([{ uid: id }]);
  });

  test('nobody else can make claims', async () => {
    const client = await enter('authenticated');
    const other = await enter('authenticated');
    const forged: [string, Parameters<typeof claim>[2]][] = [
      ['another key', { key: randomBytes(32) }],
      ['another session', { pid: await processId(other) }],
      ['a time that is over', { nowMs: Date.now() - 3_600_000 }],
    ];
    for (const [what, change] of forged) {
      await claim(client, { sub: 'alice' }, change);
      await expect(notes(client), what).rejects.toThrow(/invalid JWT signature|has expired/);
    }
    await claim(client, { sub: 'bob' });
    const { rows } = await client.query(`select current_setting('pg_session_jwt.jwt') as jwt`);
    for (const jwt of [
      rows[0].jwt.replace('bob', 'alice'),
      'alice',
      '..{"sub":"alice"}',
      `${'0'.repeat(64)}.1.9e9.{}`,
    ]) {
      await client.query(`select set_config('pg_session_jwt.jwt', $1, false)`, [jwt]);
      await expect(notes(client), jwt).rejects.toThrow(/invalid JWT signature/);
      await expect(client.query('select auth.jwt_session_init($1)', [jwt]), jwt).rejects.toThrow(
        /invalid JWT signature/,
      );
    }
    await client.query(`select auth.jwt_session_init($1)`, [rows[0].jwt]);
    expect(await notes(client)).not.toContain('of alice');
    // Without any claims the parameters of PostgREST are not believed instead.
    await client.query('reset all');
    await client.query(`set request.jwt.claims = '{"sub":"alice"}'`);
    expect(await notes(client)).toEqual([]);
    expect((await client.query('select auth.session() as s')).rows).toEqual([{ s: null }]);
  });

  test('nor get at the key, or change who is asked', async () => {
    const client = await enter('authenticated');
    for (const statement of [
      `select pg_read_file(current_setting('hba_file'))`,
      'show hba_file',
      `select pg_ls_dir('.')`,
      `create or replace function auth.user_id() returns text language sql as $$ select 'alice' $$`,
      'create schema auth2 authorization owner',
      `create function auth.mine() returns int language sql as 'select 1'`,
      'alter function auth.session() security invoker',
      'set session authorization owner',
      'set role owner',
      'set role cloud_admin',
      'alter table notes disable row level security',
      'set row_security = off; select * from notes',
    ]) {
      await expect(client.query(statement), statement).rejects.toThrow(/permission denied|must be|row-level security/);
    }
    // What a session of the tenant puts in front of the search path is not what functions of cloud_admin call.
    await owner.query(`create schema trap authorization owner; grant usage on schema trap to authenticated;
      create function trap.sha256(bytea) returns bytea language sql as $$ select ''::bytea $$;
      create function trap.pg_backend_pid() returns int language sql as 'select 1'`);
    await client.query('set search_path = trap, pg_catalog');
    await claim(client, { sub: 'alice' }, { key: randomBytes(32) });
    await expect(client.query('select * from public.notes')).rejects.toThrow(/invalid JWT signature/);
    await owner.query('drop schema trap cascade');
  });

  test('other roles have the claims that PostgREST sets', async () => {
    await owner.query(`set request.jwt.claims = '{"sub":"alice"}'`);
    expect((await owner.query('select auth.user_id() as id')).rows).toEqual([{ id: 'alice' }]);
    await owner.query(`set request.jwt.claims = '{'`);
    expect((await owner.query('select auth.session() as s, auth.user_id() as id')).rows).toEqual([
      { s: null, id: null },
    ]);
    await expect(owner.query('select auth.init()')).rejects.toThrow('Missing runtime parameter: pg_session_jwt.jwk');
    await owner.query('reset all');
  });

  test('the key is known again after a restart of Ballast; roles that are taken back are shut', async () => {
    const later = engine.anotherSupervisor();
    await later.adopt();
    expect(later.address(spec.endpointId)?.claimsKey).toEqual(address.claimsKey);
    await later.start({ ...spec, jwtRoles: ['Büro'] }, []);
    await waitFor('the refusal', () =>
      enter('authenticated').then(
        () => false,
        (error: Error) => /password/.test(error.message),
      ),
    );
    expect(await processId(await enter('Büro'))).toBeGreaterThan(0);
    await later.start({ ...spec, jwtRoles: ['authenticated', 'Büro'] }, []);
    await waitFor('the login', async () => (await enter('authenticated').catch(() => undefined)) !== undefined, {
      timeoutMs: 60_000,
    });
  });
});
