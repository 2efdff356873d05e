/**
 * A project's owner must never reach the host, another project, or cloud_admin. Each known way out of stock PostgreSQL is
 * tried through the proxy as the role that the API made, on every major at hand, and must be refused; what Neon's users
 * may do must work.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type pg from 'pg';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { majorsAtHand } from '../support/majors.ts';
import { connect, failureOf, query, scalar, uriWith, withClient } from '../support/sql.ts';
import { waitFor } from '../support/wait.ts';

let ballast: Ballast;

beforeAll(async () => {
  ballast = await Ballast.boot();
}, 300_000);

afterAll(async () => {
  await ballast?.destroy();
});

/** Statements of one session, of which the last must fail. */
const REFUSED: [name: string, statements: string[]][] = [
  ['a program by the host role', ['grant pg_execute_server_program to neondb_owner']],
  ['a program by COPY', ["copy (select 1) to program 'true'"]],
  ['reading programs by COPY', ['create temp table t (l text)', "copy t from program 'id'"]],
  ['the file-reading host role', ['grant pg_read_server_files to neondb_owner']],
  ['the file-writing host role', ['grant pg_write_server_files to neondb_owner']],
  ['a host role by another name', ['create role pg_execute_server_program']],
  ['a file by COPY', ['create temp table t (l text)', "copy t from '/etc/passwd'"]],
  ['writing a file by COPY', ["copy (select 1) to '/tmp/ballast-escape'"]],
  ['a file by a function', ["select pg_read_file('/etc/passwd')"]],
  ['a directory by a function', ["select pg_ls_dir('/')"]],
  ['a file as a large object', ["select lo_import('/etc/passwd')"]],
  ['a large object as a file', ["select lo_export(1, '/tmp/ballast-escape')"]],
  ['SET ROLE cloud_admin', ['set role cloud_admin']],
  ['GRANT cloud_admin', ['grant cloud_admin to neondb_owner']],
  ["cloud_admin's password", ["alter role cloud_admin password 'x'"]],
  ['SUPERUSER for oneself', ['alter role neondb_owner superuser']],
  ["a superuser of one's own", ['create role boss superuser']],
  ['SESSION AUTHORIZATION', ['set session authorization cloud_admin']],
  ['ALTER SYSTEM', ["alter system set work_mem = '1GB'"]],
  ['LOAD of a file', ["load '/usr/lib/x86_64-linux-gnu/libc.so.6'"]],
  ['a C function', ["create function f() returns int language c as '/lib/x86_64-linux-gnu/libc.so.6', 'getpid'"]],
  ['an internal function', ["create function f() returns int language internal as 'int4pl'"]],
  ['a tablespace', ["create tablespace ts location '/tmp'"]],
  ['session_replication_role', ['set session_replication_role = replica']],
  ['writing to the system catalogs', ["update pg_authid set rolsuper = true where rolname = 'neondb_owner'"]],
  ['allow_system_table_mods', ['set allow_system_table_mods = on']],
  [
    'a foreign library as an output plugin',
    ["select pg_create_logical_replication_slot('x', '/lib/x86_64-linux-gnu/libc.so.6')"],
  ],
  [
    'a relative library as an output plugin',
    ["select pg_create_logical_replication_slot('x', '../../../../lib/x86_64-linux-gnu/libc.so.6')"],
  ],
  [
    'dblink without a password check',
    ['create extension if not exists dblink', "select dblink_connect_u('dbname=postgres user=cloud_admin')"],
  ],
  ...['plperlu', 'plpython3u', 'pltclu', 'file_fdw', 'adminpack', 'pageinspect', 'pg_surgery'].map(
    (extension): [string, string[]] => [`the extension ${extension}`, [`create extension ${extension}`]],
  ),
  [
    'a foreign server that needs no password',
    [
      'create extension if not exists postgres_fdw',
      "create server escape_server foreign data wrapper postgres_fdw options (dbname 'neondb')",
      "create user mapping for current_user server escape_server options (user 'cloud_admin', password_required 'false')",
    ],
  ],
];

describe.each(majorsAtHand())('PostgreSQL %i', (major) => {
  let place: Place;

  beforeAll(async () => {
    place = await ballast.api.createProject({
      name: `escape-${major}`,
      pg_version: major,
      settings: { enable_logical_replication: true },
    });
  }, 300_000);

  afterAll(async () => {
    if (place !== undefined) await ballast.api.call('DELETE', `/projects/${place.projectId}`).catch(() => {});
  });

  test('runs the major that was asked for', async () => {
    expect(Number(await scalar(place.uri, 'show server_version_num'))).toBeGreaterThanOrEqual(major * 10_000);
    expect(Number(await scalar(place.uri, 'show server_version_num'))).toBeLessThan((major + 1) * 10_000);
  });

  test.each(REFUSED)('refuses %s', async (_, statements) => {
    await withClient(place.uri, async (client) => {
      await client.query('begin');
      for (const statement of statements.slice(0, -1)) await client.query(statement);
      const failure = await failureOf(() => client.query(statements.at(-1)!));
      expect(failure).toBeDefined();
      // Refused, not misspelt: a syntax error or a missing table would prove nothing.
      expect(['42601', '42P01', '42703', '25P02']).not.toContain(failure?.code);
    });
  });

  test('refuses to log in as an internal role, whatever the password', async () => {
    for (const role of ['cloud_admin', 'neon_superuser', 'postgres']) {
      for (const password of [place.password, '', role]) {
        const failure = await failureOf(() =>
          query(uriWith(place, { role, password: password || 'none' }), 'select 1'),
        );
        expect(failure?.message).toMatch(/password authentication failed/);
      }
    }
  });

  test.each(['database', 'true'])('refuses physical backup and replication by replication=%s', async (replication) => {
    const commands = [
      "BASE_BACKUP (LABEL 'x')",
      "BASE_BACKUP LABEL 'x'",
      'CREATE_REPLICATION_SLOT p PHYSICAL',
      'START_REPLICATION PHYSICAL 0/0',
      'START_REPLICATION 0/0',
      'UPLOAD_MANIFEST',
      'TIMELINE_HISTORY 1',
      'base_backup',
      '/* x */ BASE_BACKUP',
      ';BASE_BACKUP',
      'CREATE_REPLICATION_SLOT l LOGICAL "/lib/x86_64-linux-gnu/libc.so.6"',
    ];
    for (const command of commands) {
      const failure = await failureOf(() => replicationCommand(place.uri, replication, command));
      expect(failure, command).toBeDefined();
      expect(failure?.message, command).not.toContain('timed out');
    }
    expect(await scalar(place.uri, 'select count(*)::int from pg_replication_slots')).toBe(0);
  });

  test('runs no code of a tenant as cloud_admin, however the database is set up', async () => {
    await setTraps(place);
    const at = `/projects/${place.projectId}/branches/${place.branchId}`;
    await ballast.api.callAndSettle('POST', `${at}/roles`, { role: { name: 'lured' } });
    await ballast.api.callAndSettle('POST', `${at}/databases`, { database: { name: 'bait', owner_name: 'lured' } });
    await ballast.api.callAndSettle('PATCH', `${at}/databases/bait`, { database: { owner_name: place.role } });
    await ballast.api.callAndSettle('DELETE', `${at}/roles/lured`);
    await ballast.api.callAndSettle('DELETE', `${at}/databases/bait`);
    await ballast.api.suspend(place);
    const child = await ballast.api.createBranch(place);
    for (const each of [place, child]) {
      expect(await query(each.uri, 'select who from evil.log where who <> session')).toEqual([]);
      expect(await query(each.uri, "select who from evil.log where who in ('cloud_admin', 'neon_superuser')")).toEqual(
        [],
      );
    }
    await ballast.api.callAndSettle('DELETE', `/projects/${place.projectId}/branches/${child.branchId}`);
    await query(uriWith(place, { database: 'postgres' }), 'alter database neondb reset search_path').catch(() =>
      query(place.uri, 'alter database neondb reset search_path'),
    );
  });

  test("cannot lock cloud_admin out by a database's or a role's settings", async () => {
    const at = `/projects/${place.projectId}/branches/${place.branchId}`;
    await ballast.api.callAndSettle('POST', `${at}/databases`, {
      database: { name: 'locked', owner_name: place.role },
    });
    const settings = [
      "local_preload_libraries = 'nothere'",
      "session_authorization = 'neondb_owner'",
      "role = 'neondb_owner'",
      'default_transaction_read_only = on',
      'statement_timeout = 1',
      'standard_conforming_strings = off',
      "datestyle = 'German'",
    ];
    for (const setting of settings) await query(place.uri, `alter database locked set ${setting}`).catch(() => {});
    await ballast.api.callAndSettle('POST', `${at}/roles`, { role: { name: 'after_lock' } });
    await ballast.api.suspend(place);
    expect(await scalar(place.uri, 'select 1')).toBe(1);
    await ballast.api.callAndSettle('DELETE', `${at}/roles/after_lock`);
    await ballast.api.callAndSettle('DELETE', `${at}/databases/locked`);
  });

  test('cannot reach cloud_admin, the catalog or the API by dblink, foreign servers or subscriptions', async () => {
    const directories = (await scalar(place.uri, 'show unix_socket_directories')) as string;
    const sockets = directories.split(',').map((directory) => directory.trim());
    const own = sockets[0] ?? '/tmp';
    const targets = [
      `host=${own} user=cloud_admin dbname=postgres`,
      `host=${own} user=cloud_admin password=guess dbname=postgres`,
      `host=${own.replace(/[^/]+$/, 'catalog')} user=cloud_admin password=guess dbname=postgres`,
      `host=${own.replace(/[^/]+$/, 'catalog')} user=ballast dbname=ballast`,
      `host=${ballast.dataDir}/run/catalog user=cloud_admin dbname=postgres`,
      `host=127.0.0.1 port=${ballast.pgPort} user=cloud_admin password=guess dbname=postgres options='endpoint=${place.endpointId}'`,
      `host=127.0.0.1 port=${ballast.apiPort} user=cloud_admin password=guess dbname=postgres connect_timeout=5`,
    ];
    await query(place.uri, 'create extension if not exists dblink');
    for (const target of targets) {
      const failure = await failureOf(() => query(place.uri, 'select dblink_connect($1)', [target]));
      expect(failure, target).toBeDefined();
      const subscription = `create subscription escape connection '${target.replaceAll("'", "''")}' publication p`;
      expect(await failureOf(() => query(place.uri, subscription)), subscription).toBeDefined();
    }
  });

  test('bounds what a forgotten slot can pin', async () => {
    const limit = await scalar(
      place.uri,
      "select setting::bigint from pg_settings where name = 'max_slot_wal_keep_size'",
    );
    expect(Number(limit)).toBeGreaterThan(0);
    expect(
      Number(
        await scalar(place.uri, "select setting::bigint from pg_settings where name = 'max_prepared_transactions'"),
      ),
    ).toBe(0);
  });

  test('lets users do what they do on Neon', async () => {
    const extensions = [
      'pgcrypto',
      'citext',
      'hstore',
      'pg_trgm',
      'btree_gin',
      'unaccent',
      'fuzzystrmatch',
      'uuid-ossp',
      'pg_stat_statements',
      'amcheck',
      'postgres_fdw',
      'dblink',
    ];
    await withClient(place.uri, async (client) => {
      const { rows } = await client.query<{ name: string }>('select name from pg_available_extensions');
      const available = new Set(rows.map((row) => row.name));
      for (const extension of extensions) {
        // Debian keeps contrib in the server package, the npm builds ship it: an absent one would be a broken tree.
        expect(available, extension).toContain(extension);
        await client.query(`create extension if not exists "${extension}"`);
      }
      await client.query("create role reader login password 'Str0ng-enough-pw'");
      await client.query('create table secrets (owner text, body text)');
      await client.query("insert into secrets values ('reader', 'mine'), ('other', 'not mine')");
      await client.query('alter table secrets enable row level security');
      await client.query('create policy own on secrets using (owner = current_user)');
      await client.query('grant select on secrets to reader');
      await client.query('create schema app; create table app.t (id serial primary key); create index on app.t (id)');
      await client.query("create function app.f() returns int language plpgsql as 'begin return 1; end'");
      await client.query("create server s foreign data wrapper postgres_fdw options (host '127.0.0.1', dbname 'x')");
      await client.query('create publication all_rows for table app.t');
      await client.query("select pg_create_logical_replication_slot('mine', 'test_decoding')");
      await client.query('insert into app.t default values');
      const changes = await client.query("select data from pg_logical_slot_peek_changes('mine', null, null)");
      expect(changes.rows.length).toBeGreaterThan(0);
      await client.query("select pg_drop_replication_slot('mine')");
      await client.query('select * from pg_stat_activity');
      await client.query('create database by_sql');
    });
    const reader = uriWith(place, { role: 'reader', password: 'Str0ng-enough-pw' });
    expect(await query(reader, 'select body from secrets')).toEqual([{ body: 'mine' }]);
    expect(await failureOf(() => query(reader, 'select * from app.t'))).toMatchObject({ code: '42501' });
    expect(await replicationCommand(place.uri, 'database', 'IDENTIFY_SYSTEM')).toHaveProperty('systemid');
  });
});

async function replicationCommand(uri: string, replication: string, command: string): Promise<Record<string, unknown>> {
  const client = await connect(uri, { replication } as pg.ClientConfig);
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${command} timed out`)), 60_000);
  });
  try {
    const result = await Promise.race([client.query(command), late]);
    return result.rows[0] ?? {};
  } finally {
    clearTimeout(timer);
    await client.end().catch(() => {});
  }
}

/**
 * Shadows of what a careless internal session might call, before pg_catalog in the search path of database and role.
 * Each writes down who ran it. Objects of temporary and public schemas get the same.
 */
async function setTraps(place: Place): Promise<void> {
  const shadows = [
    'format(text, variadic text[])',
    'quote_ident(text)',
    'quote_literal(text)',
    'lower(text)',
    'upper(text)',
    'length(text)',
    'current_setting(text)',
    'concat(text, text)',
    'replace(text, text, text)',
    'md5(text)',
    'has_database_privilege(text, text)',
  ];
  await withClient(place.uri, async (client) => {
    await client.query('create schema evil; grant usage on schema evil to public');
    await client.query('create table evil.log (who text, session text); grant insert on evil.log to public');
    await client.query(
      `create function evil.note(text) returns text language plpgsql as
       'begin insert into evil.log values (current_user, session_user); return $1; end'`,
    );
    for (const shadow of shadows) {
      await client.query(
        `create function evil.${shadow} returns text language plpgsql as 'begin perform evil.note(null); return null; end'`,
      );
    }
    await client.query(
      `create function evil.text_eq(text, text) returns boolean language plpgsql as
       'begin perform evil.note(null); return $1 operator(pg_catalog.=) $2; end'`,
    );
    await client.query('create operator evil.= (leftarg = text, rightarg = text, procedure = evil.text_eq)');
    for (const view of ['pg_roles', 'pg_database', 'pg_class', 'pg_authid', 'pg_namespace', 'pg_subscription']) {
      await client.query(
        `create view evil.${view} as select evil.note('x') as rolname, evil.note('x') as datname, 1::oid as oid`,
      );
    }
    await client.query('alter database neondb set search_path = evil, pg_catalog, public');
    await client.query(`alter role ${place.role} set search_path = evil, pg_catalog, public`);
    await client.query(`alter role ${place.role} reset search_path`);
  });
  await waitFor('the trap to be armed', async () =>
    ((await scalar(place.uri, 'show search_path')) as string).startsWith('evil'),
  );
}
