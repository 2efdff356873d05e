/**
 * The escape suite: what a role made through the API must never reach, on every PostgreSQL major at hand, beside what
 * it must be able to do. Attacks are statements with the error that refuses them; a statement that succeeds, or fails
 * for another reason than the one that protects, fails the test.
 */
import { access, mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { TestEngine } from '../../test/support/computes.ts';
import { TEST_PASSWORD, connectAs, openTestEngine, testMajors, testVerifier } from '../../test/support/computes.ts';
import { UNCHECKED_PLUGIN_FUNCTIONS_SQL } from '../postgres/hardening.ts';
import type { ComputeAddress, ComputeSpec } from './types.ts';

const majors = await testMajors();
let engine: TestEngine;
/** A directory into which successful attacks would write. */
let canaries: string;
beforeAll(async () => {
  engine = await openTestEngine();
  canaries = await mkdtemp(path.join(os.tmpdir(), 'ballast-canary-'));
});
afterAll(async () => {
  await engine.close();
  await rm(canaries, { recursive: true, force: true });
});

const DENIED = '42501';
const NO_SUCH_OBJECT = '42704';
const RESERVED_NAME = '42939';
/** An extension that is not there: 0A000, before 15 that its file could not be opened. */
const UNSUPPORTED = '0A000';
const NO_FILE = '58P01';

interface Attack {
  sql: string;
  /** SQLSTATEs that count as refused. */
  refusedBy: string[];
  only?: (major: number) => boolean;
}

const attack = (sql: string, ...refusedBy: string[]): Attack => ({
  sql,
  refusedBy: refusedBy.length > 0 ? refusedBy : [DENIED],
});

const HOST: Attack[] = [
  attack('grant pg_execute_server_program to mallory', NO_SUCH_OBJECT),
  attack('grant pg_read_server_files to mallory', NO_SUCH_OBJECT),
  attack('grant pg_write_server_files to mallory', NO_SUCH_OBJECT),
  attack('create role pg_execute_server_program', RESERVED_NAME),
  attack(`copy (select 1) to program 'touch %CANARY%'`),
  attack(`copy (select 1) to '%CANARY%'`),
  attack(`create table passwd (line text); copy passwd from '/etc/passwd'`),
  attack(`create table output (line text); copy output from program 'id'`),
  attack(`select lo_import('/etc/passwd')`),
  attack(`select lo_export(lo_create(0), '%CANARY%')`),
  attack(`select pg_read_file('/etc/passwd')`),
  attack(`select pg_read_file('PG_VERSION')`),
  attack(`select pg_read_binary_file('global/pg_control')`),
  attack(`select pg_ls_dir('/')`),
  attack(`select pg_stat_file('/etc/passwd')`),
  attack(`alter system set archive_command = 'touch %CANARY%'`, DENIED, UNSUPPORTED),
  attack(`load '/usr/lib/x86_64-linux-gnu/libc.so.6'`),
  attack(`load 'auto_explain'`),
  attack(`create function f() returns int language c as '/lib/x86_64-linux-gnu/libc.so.6', 'system'`),
  attack(`create function f() returns int language internal as 'int4in'`),
  attack(`create tablespace t location '/tmp'`),
  attack('create extension file_fdw', UNSUPPORTED, NO_FILE),
  attack('create extension plperlu', UNSUPPORTED, NO_FILE),
  attack('create extension plperl', UNSUPPORTED, NO_FILE),
  attack('create extension plpython3u', UNSUPPORTED, NO_FILE),
  attack('create extension pltclu', UNSUPPORTED, NO_FILE),
  attack('create extension pg_surgery', UNSUPPORTED, NO_FILE),
  attack('create extension pageinspect', UNSUPPORTED, NO_FILE),
  attack('create extension adminpack', UNSUPPORTED, NO_FILE),
  attack('create extension pg_walinspect', DENIED, UNSUPPORTED, NO_FILE),
  attack('create extension sslinfo', DENIED, UNSUPPORTED, NO_FILE),
  attack('create language plpython3u', NO_SUCH_OBJECT, DENIED, UNSUPPORTED, NO_FILE),
  attack(
    `create text search dictionary d (template = ispell, dictfile = '../../../../etc/passwd', afffile = 'x')`,
    '22023',
  ),
];

const BECOMING_SUPERUSER: Attack[] = [
  attack('grant cloud_admin to mallory'),
  attack('set role cloud_admin'),
  attack('set session authorization cloud_admin'),
  attack(`alter role cloud_admin password 'mine'`),
  attack('alter role cloud_admin rename to mine'),
  attack('alter role cloud_admin nologin'),
  attack('drop role cloud_admin', DENIED, '2BP01'),
  attack('alter role mallory superuser'),
  attack('alter role neon_superuser superuser'),
  attack('create role evil superuser'),
  attack('reassign owned by cloud_admin to mallory', DENIED, '2BP01'),
  attack('alter default privileges for role cloud_admin grant all on tables to mallory'),
  attack('update pg_authid set rolsuper = true where rolname = current_user'),
  attack('set allow_system_table_mods = on'),
  attack('set session_replication_role = replica'),
  attack(`alter role cloud_admin set search_path = evil`),
  attack(`alter database postgres set search_path = evil`),
  attack(`alter role all set search_path = evil`),
  attack('create event trigger e on ddl_command_start execute function pg_notify()', DENIED, '42883', '42P17'),
  attack('create function pg_catalog.count_evil() returns int language sql as $$ select 1 $$'),
  attack(
    'create or replace function pg_catalog.pg_get_userbyid(oid) returns name language sql as $$ select current_user::name $$',
  ),
  attack('checkpoint'),
  attack(`select pg_create_restore_point('x')`),
  attack('select pg_reload_conf()'),
  attack('select pg_switch_wal()'),
  attack('select pg_promote()'),
  attack('create access method evil type index handler bthandler'),
];

const LIBRARIES: Attack[] = [
  attack(`select pg_create_logical_replication_slot('x', '/lib/x86_64-linux-gnu/libz.so.1')`, DENIED, '23514'),
  attack(`select pg_create_logical_replication_slot('x', '$libdir/dblink')`, DENIED, '23514'),
  attack(`select pg_create_logical_replication_slot('x', 'auto_explain')`, DENIED, '23514'),
  attack(`select pg_create_logical_replication_slot(plugin => 'basic_archive', slot_name => 'x')`, DENIED, '23514'),
  attack(
    `select pg_copy_logical_replication_slot('kept', 'x', false, '/lib/x86_64-linux-gnu/libz.so.1')`,
    DENIED,
    '23514',
  ),
  attack(`set dynamic_library_path = '/tmp'`),
  attack(`set session_preload_libraries = 'x'`),
  attack(`alter role mallory set session_preload_libraries = 'x'`),
  attack(`alter database shop set session_preload_libraries = 'x'`),
  attack(`alter database shop set shared_preload_libraries = 'x'`, '55P02', DENIED),
];

interface Tenant {
  spec: ComputeSpec;
  address: ComputeAddress;
  mallory: pg.Client;
}

let counter = 0;
async function tenant(major: number): Promise<Tenant> {
  const spec = engine.spec(`ep-escape-${++counter}`, major, {
    logicalReplication: true,
    preloadLibraries: ['pg_stat_statements'],
  });
  await engine.storage.create(spec.timeline, major);
  const address = await engine.supervisor.start(spec, [
    { kind: 'create_role', name: 'mallory', verifier: await testVerifier(), noLogin: false },
    { kind: 'create_database', name: 'shop', owner: 'mallory' },
  ]);
  return { spec, address, mallory: await connectAs(address, 'mallory', 'shop') };
}

interface Outcome {
  code: string;
  message: string;
}

async function attempt(client: pg.Client, sql: string): Promise<Outcome> {
  try {
    await client.query(sql);
    return { code: 'none', message: 'it worked' };
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    return { code: code ?? 'connection', message };
  }
}

async function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}

describe.each(majors)('Postgres %i', (major) => {
  let it: Tenant;
  beforeAll(async () => {
    it = await tenant(major);
    await it.mallory.query(`select pg_create_logical_replication_slot('kept', 'test_decoding')`);
  });
  afterAll(async () => {
    await it.mallory.end();
    await engine.supervisor.suspend(it.spec.endpointId);
  });

  test.each([...HOST, ...BECOMING_SUPERUSER, ...LIBRARIES].filter((one) => one.only?.(major) ?? true))(
    'refuses: $sql',
    async ({ sql, refusedBy }) => {
      const canary = path.join(canaries, String(Math.random()).slice(2));
      const outcome = await attempt(it.mallory, sql.replaceAll('%CANARY%', canary));
      expect(refusedBy, outcome.message).toContain(outcome.code);
      expect(await exists(canary)).toBe(false);
    },
  );

  test('a database made from any template is as hardened as the first', async () => {
    for (const template of ['template0', 'template1', 'postgres']) {
      await it.mallory.query('drop database if exists copy');
      const made = await attempt(it.mallory, `create database copy template ${template}`);
      if (template === 'postgres') {
        expect([DENIED, '55006', 'none'], made.message).toContain(made.code);
        if (made.code !== 'none') continue;
      } else expect(made.code, made.message).toBe('none');
      const client = await connectAs(it.address, 'mallory', 'copy');
      const outcome = await attempt(
        client,
        `select pg_create_logical_replication_slot('y', '/lib/x86_64-linux-gnu/libz.so.1')`,
      );
      expect([DENIED, '23514'], outcome.message).toContain(outcome.code);
      expect((await client.query(UNCHECKED_PLUGIN_FUNCTIONS_SQL)).rows).toEqual([{ count: '0' }]);
      await client.end();
    }
    await it.mallory.query('drop database if exists copy');
  });

  test("cloud_admin's secret cannot be had: no guess, no plain text, no other way in", async () => {
    const { rows } = await it.mallory.query<{ rolpassword: string }>(
      `select rolpassword from pg_authid where rolname = 'cloud_admin'`,
    );
    expect(rows[0]!.rolpassword).toMatch(/^SCRAM-SHA-256\$/);
    for (const password of ['', 'cloud_admin', TEST_PASSWORD, rows[0]!.rolpassword]) {
      await expect(connectAs(it.address, 'cloud_admin', 'postgres', password)).rejects.toThrow();
    }
  });

  test('physical replication is closed at the door', async () => {
    const client = new pg.Client({
      ...{ host: it.address.socketDirectory, port: it.address.port, user: 'mallory', password: TEST_PASSWORD },
      ...{ replication: 'true' },
    } as pg.ClientConfig);
    await expect(client.connect()).rejects.toMatchObject({ code: '28000' });
  });

  test('from within, the socket is not to be found: dblink, foreign servers, subscriptions', async () => {
    const client = it.mallory;
    await client.query('create extension if not exists dblink; create extension if not exists postgres_fdw');
    const socket = (await client.query<{ unix_socket_directories: string }>('show unix_socket_directories')).rows[0]!
      .unix_socket_directories;
    for (const [user, extra] of [
      ['cloud_admin', ''],
      ['mallory', ''],
      ['mallory', ' replication=database'],
      ['mallory', ' replication=true'],
    ]) {
      const conninfo = `host=${socket} user=${user} dbname=shop password=${TEST_PASSWORD.replaceAll(' ', '\\ ')}${extra}`;
      const outcome = await attempt(client, `select dblink_connect('c', $$${conninfo}$$)`);
      expect(outcome.message).toMatch(/No such file or directory|could not establish connection/);
      expect(['08001', DENIED], outcome.message).toContain(outcome.code);
    }
    expect((await attempt(client, `select dblink_connect_u('host=${socket} user=cloud_admin')`)).code).toBe(DENIED);
    await client.query(
      `create server self foreign data wrapper postgres_fdw options (host '${socket}', dbname 'shop')`,
    );
    await client.query(`create foreign table far (x int) server self`);
    expect(
      (
        await attempt(
          client,
          `create user mapping for mallory server self options (user 'cloud_admin', password_required 'false')`,
        )
      ).code,
    ).toBe(DENIED);
    await client.query(`create user mapping for mallory server self options (user 'cloud_admin', password 'x')`);
    expect((await attempt(client, 'select * from far')).message).toMatch(/could not connect|No such file/);
    const subscription = `create subscription s connection 'host=${socket} user=cloud_admin password=x dbname=shop' publication p`;
    expect(['08006', '08001', DENIED]).toContain((await attempt(client, subscription)).code);
    if (major >= 16) {
      const trusting = `${subscription} with (password_required = false, connect = false)`;
      expect((await attempt(client, trusting)).code).toBe(DENIED);
    }
  });

  test('internal sessions run none of the tenant’s code and cannot be locked out', async () => {
    const { address, mallory, spec } = it;
    const canary = path.join(canaries, `hijack-${major}`);
    await mallory.query(
      'create schema evil; create table evil.seen (who text, what text); grant all on schema evil to public; grant all on evil.seen to public',
    );
    const body = (name: string) =>
      `begin insert into evil.seen values (current_user, '${name}');
         begin execute 'copy (select 1) to program ''touch ${canary}'''; exception when others then null; end; return null; end`;
    const functions = [
      'pg_get_userbyid(oid)',
      'current_database()',
      'quote_nullable(text)',
      'md5(text)',
      'pg_terminate_backend(int)',
      'count()',
      'pg_backend_pid()',
    ];
    for (const signature of functions) {
      await mallory.query(
        `create function evil.${signature} returns text language plpgsql as $f$ ${body(signature)} $f$`,
      );
    }
    for (const type of ['name', 'text', 'oid']) {
      await mallory.query(
        `create function evil.equal_${type}(${type}, ${type}) returns boolean language plpgsql as $f$ ${body(`=${type}`)} $f$`,
      );
      await mallory.query(
        `create operator evil.= (leftarg = ${type}, rightarg = ${type}, function = evil.equal_${type})`,
      );
    }
    const planted = [
      'alter database shop set search_path = evil, pg_catalog',
      `alter database shop set local_preload_libraries = 'nothere'`,
      'alter database shop set statement_timeout = 1',
      'alter database shop set lock_timeout = 1',
      'alter database shop set idle_in_transaction_session_timeout = 1',
      'alter database shop set default_transaction_read_only = on',
      `alter database shop set default_transaction_isolation = 'serializable'`,
      'alter database shop set standard_conforming_strings = off',
      `alter database shop set client_encoding = 'SQL_ASCII'`,
      `alter database shop set role = 'mallory'`,
      ...(major >= 17 ? ['alter database shop set transaction_timeout = 1'] : []),
      'alter database shop set idle_session_timeout = 1',
      'alter database shop connection limit 0',
    ];
    for (const statement of planted) {
      const outcome = await attempt(mallory, statement);
      expect(outcome.code, `${statement}: ${outcome.message}`).toBe('none');
    }
    await mallory.query(
      'create role victim login; create table public.theirs (x int); alter table public.theirs owner to mallory',
    );
    await mallory.query('set search_path = public; grant victim to mallory');
    await mallory.query('alter table public.theirs owner to victim').catch(() => undefined);
    await engine.supervisor.rolesAndDatabases(spec.endpointId);
    engine.supervisor.noteConnections(spec.endpointId, 1);
    await engine.supervisor.activity(spec.endpointId);
    const verifier = await testVerifier();
    await engine.supervisor.applyChanges(spec.endpointId, [
      { kind: 'create_role', name: 'second', verifier, noLogin: false },
      { kind: 'alter_database', name: 'shop', newName: 'shop', owner: 'second' },
      { kind: 'alter_database', name: 'shop', newName: 'shop', owner: 'mallory' },
      { kind: 'drop_role', name: 'victim' },
      { kind: 'drop_role', name: 'second' },
    ]);
    await engine.supervisor.suspend(spec.endpointId);
    expect(await engine.supervisor.start(spec, [{ kind: 'set_verifier', name: 'mallory', verifier }])).not.toEqual(
      address,
    );
    it.address = engine.supervisor.address(spec.endpointId)!;
    const reader = await connectAs(it.address, 'mallory', 'postgres');
    await reader.query(`alter database shop reset all; alter database shop connection limit -1`);
    await reader.end();
    it.mallory = await connectAs(it.address, 'mallory', 'shop');
    const { rows } = await it.mallory.query(`select * from evil.seen where who = 'cloud_admin'`);
    expect(rows).toEqual([]);
    expect(await exists(canary)).toBe(false);
  });

  test('the tenant’s code still runs as the tenant: its extensions, at its own risk', async () => {
    const client = it.mallory;
    await client.query('create extension if not exists xml2');
    const secret = path.join(engine.home.secrets, 'cloud-admin');
    const read = await client
      .query(`select xpath_string('<!DOCTYPE a [<!ENTITY x SYSTEM "file://${secret}">]><a>&x;</a>', '/a') as text`)
      .catch(() => ({ rows: [] }));
    expect(JSON.stringify(read.rows)).not.toContain(engine.secret);
    const sheet = (what: string) =>
      `<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform"><xsl:template match="/"><out>${what}</out></xsl:template></xsl:stylesheet>`;
    const document = await client
      .query('select xslt_process($1, $2) as text', [
        '<a/>',
        sheet(`<xsl:copy-of select="document('file:///proc/self/status')"/>`),
      ])
      .catch((error: unknown) => ({ rows: [String(error)] }));
    expect(JSON.stringify(document.rows)).not.toMatch(/Uid/);
  });

  describe('allows', () => {
    test('extensions of the list, with what they need', async () => {
      const client = await connectAs(it.address, 'mallory', 'shop');
      const { rows } = await client.query<{ name: string }>(
        `select name from pg_available_extension_versions v
         where trusted and name not in ('plpgsql') group by name order by name`,
      );
      const names = rows.map((row) => row.name);
      expect(names).toEqual(
        expect.arrayContaining([
          'pgcrypto',
          'citext',
          'uuid-ossp',
          'pg_trgm',
          'hstore',
          'postgres_fdw',
          'dblink',
          'amcheck',
          'pg_stat_statements',
        ]),
      );
      for (const name of names) {
        const outcome = await attempt(client, `create extension if not exists "${name}" cascade`);
        expect(outcome.code, `${name}: ${outcome.message}`).toBe('none');
      }
      await client.query('create table indexed (x int primary key)');
      await client.query(`select bt_index_check('indexed_pkey'::regclass)`);
      await client.query(`select count(*) from verify_heapam('indexed')`);
      await client.query('select count(*) from pg_stat_statements; select pg_stat_statements_reset()');
      await client.query(`create server elsewhere foreign data wrapper postgres_fdw options (host 'db.example.com')`);
      await client.query(`select uuid_generate_v4(), gen_random_uuid(), digest('x', 'sha256')`);
      await client.end();
    });

    test('logical replication by SQL', async () => {
      const client = it.mallory;
      await client.query('create table published (x int primary key); create publication p for table published');
      await client.query(`select * from pg_create_logical_replication_slot('decoded', 'test_decoding')`);
      await client.query(`select * from pg_create_logical_replication_slot('temporary', 'pgoutput', true)`);
      await client.query(
        `select * from pg_create_logical_replication_slot(slot_name => 'named', plugin => 'pgoutput', twophase => false)`,
      );
      await client.query({
        text: 'select * from pg_create_logical_replication_slot($1, $2)',
        values: ['bound', 'test_decoding'],
      });
      await client.query(`select * from pg_copy_logical_replication_slot('decoded', 'copied', false, 'test_decoding')`);
      await client.query('insert into published values (1)');
      const { rows } = await client.query<{ data: string }>(
        `select data from pg_logical_slot_get_changes('decoded', null, null)`,
      );
      expect(rows.map((row) => row.data).join('\n')).toMatch(/INSERT: x\[integer\]:1/);
      for (const slot of ['decoded', 'named', 'bound', 'copied'])
        await client.query('select pg_drop_replication_slot($1)', [slot]);
      if (major >= 16) {
        await client.query(
          `create subscription mine connection 'host=db.example.com password=x' publication p with (connect = false, slot_name = none)`,
        );
        await client.query('drop subscription mine');
      }
    });

    test('what belongs to an owner and a member of neon_superuser', async () => {
      const client = it.mallory;
      const statements = [
        `create role reader login password 'secret'`,
        'create role plain',
        'grant plain to reader',
        'create schema app',
        'create table app.t (id int generated always as identity primary key, owner text)',
        'alter table app.t enable row level security',
        'create policy own on app.t using (owner = current_user)',
        'grant usage on schema app to reader',
        'grant select on app.t to reader',
        'alter default privileges in schema app grant select on tables to reader',
        'create function app.f() returns trigger language plpgsql as $$ begin return new; end $$',
        'create trigger tr before insert on app.t for each row execute function app.f()',
        `insert into app.t (owner) values ('x')`,
        'create materialized view app.m as select count(*) from app.t',
        "create type app.color as enum ('red')",
        'create index concurrently on app.t (owner)',
        'vacuum analyze app.t',
        'reindex table app.t',
        'listen channel',
        `notify channel, 'x'`,
        'select pg_advisory_lock(1), pg_advisory_unlock(1)',
        "select lo_unlink(lo_from_bytea(0, 'abc'))",
        'select pg_export_snapshot()',
        'select count(*) from pg_stat_activity',
        'select pg_database_size(current_database())',
        'select pg_cancel_backend(pg_backend_pid() + 100000)',
        'grant pg_monitor to plain',
        "alter database shop set work_mem = '8MB'",
        'alter role mallory set statement_timeout = 0',
        'create database second',
        'alter database second rename to third',
        'drop database third',
        'explain analyze select 1',
        'drop role reader',
      ];
      const last = statements.pop()!;
      for (const statement of statements) {
        const outcome = await attempt(client, statement);
        const cancelledItself = statement.includes('pg_cancel_backend') && outcome.code === '57014';
        expect(outcome.code === 'none' || cancelledItself, `${statement}: ${outcome.message}`).toBe(true);
      }
      await client.query('grant reader to mallory');
      await client.query('drop owned by reader');
      await client.query(last);
      if (major >= 16)
        await client.query('create role powerful login replication bypassrls createrole createdb; drop role powerful');
    });
  });
});
