/**
 * Replication's doors, from outside and from inside of computes, on every PostgreSQL major at hand: nobody but a
 * follower's own walreceiver gets WAL, nobody gets more than WAL, and a read replica is no softer than its primary.
 */
import { readFile, readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { TEST_PASSWORD, connectAs, testMajors, testVerifier } from '../../test/support/computes.ts';
import { openWholeEngine } from '../../test/support/standbys.ts';
import type { WholeEngine } from '../../test/support/standbys.ts';
import type { ComputeAddress, ComputeSpec } from './types.ts';

let engine: WholeEngine;
beforeAll(async () => {
  engine = await openWholeEngine();
});
afterAll(() => engine.close());

interface Door {
  directory: string;
  passwordFile: string;
  password: string;
}

/** What the replica's own Postgres was told. */
async function doorOf(replica: ComputeSpec): Promise<Door> {
  const configuration = path.join(engine.home.run, 'computes', replica.endpointId);
  const conf = await readFile(path.join(configuration, 'postgresql.conf'), 'utf8');
  const directory = /primary_conninfo = '.*host=''([^']+)''/.exec(conf)![1]!;
  const passwordFile = path.join(configuration, 'relay-password');
  const password = (await readFile(passwordFile, 'utf8')).trim().split(':').at(-1)!;
  return { directory, passwordFile, password };
}

async function attempt(host: string, config: pg.ClientConfig & { replication?: string }, statement?: string) {
  const client = new pg.Client({ host, port: 5432, database: 'postgres', connectionTimeoutMillis: 10_000, ...config });
  client.on('error', () => undefined);
  try {
    await client.connect();
    return statement === undefined ? 'in' : (await client.query(statement)).rows;
  } finally {
    await client.end().catch(() => undefined);
  }
}

describe.each(await testMajors())('PostgreSQL %i', (major) => {
  let addresses: { primary: ComputeAddress; replica: ComputeAddress };
  let door: Door;
  let replica: ComputeSpec;
  /** Sessions of the tenant, who has all that a role of the API can have. */
  let inside: { primary: pg.Client; replica: pg.Client };

  beforeAll(async () => {
    const spec = await engine.root(`e${major}`, major);
    const primary = await engine.supervisor.start(spec, [
      { kind: 'create_role', name: 'mallory', verifier: await testVerifier(), noLogin: false },
      { kind: 'create_database', name: 'shop', owner: 'mallory' },
    ]);
    const owner = await connectAs(primary, 'mallory', 'shop');
    await owner.query('create extension dblink; create extension postgres_fdw');
    replica = engine.replica(`e${major}-ro`, spec);
    addresses = { primary, replica: await engine.supervisor.start(replica, []) };
    door = await doorOf(replica);
    inside = { primary: owner, replica: await connectAs(addresses.replica, 'mallory', 'shop') };
  });
  afterAll(async () => {
    await inside.primary.end();
    await inside.replica.end();
    await engine.supervisor.suspend(replica.endpointId);
    await engine.supervisor.suspend(`ep-e${major}`);
  });
  beforeEach(async () => {
    for (const client of Object.values(inside)) await client.query('rollback');
  });

  test('physical replication of a compute is for cloud_admin, who has the secret', async () => {
    for (const { socketDirectory } of Object.values(addresses)) {
      const tenant = { user: 'mallory', password: TEST_PASSWORD, replication: 'true' };
      await expect(attempt(socketDirectory, tenant, 'IDENTIFY_SYSTEM')).rejects.toMatchObject({ code: '28000' });
      const guess = { user: 'cloud_admin', password: TEST_PASSWORD, replication: 'true' };
      await expect(attempt(socketDirectory, guess)).rejects.toMatchObject({ code: '28P01' });
    }
  });

  test('the relay lets its follower in, and nobody without its password or who wants a session', async () => {
    const follower = { user: 'cloud_admin', password: door.password, replication: 'true' };
    expect(await attempt(door.directory, follower, 'IDENTIFY_SYSTEM')).toHaveLength(1);
    for (const password of ['', 'wrong', TEST_PASSWORD, engine.secret]) {
      await expect(attempt(door.directory, { ...follower, password })).rejects.toThrow();
    }
    for (const replication of [undefined, 'database', 'false']) {
      const session = { user: 'cloud_admin', password: door.password, ...(replication && { replication }) };
      await expect(attempt(door.directory, session)).rejects.toThrow(/only WAL is to be had here/);
    }
  });

  test.each([
    'BASE_BACKUP',
    `BASE_BACKUP LABEL 'x'`,
    'CREATE_REPLICATION_SLOT "s" PHYSICAL',
    'CREATE_REPLICATION_SLOT s LOGICAL test_decoding',
    'DROP_REPLICATION_SLOT s',
    'START_REPLICATION SLOT s PHYSICAL 0/1000000',
    'SHOW data_directory',
    'select 1',
    'IDENTIFY_SYSTEM; BASE_BACKUP',
    'IDENTIFY_SYSTEM\n; select 1',
  ])('whoever knows the password gets no further with %j', async (statement) => {
    const follower = { user: 'cloud_admin', password: door.password, replication: 'true' };
    await expect(attempt(door.directory, follower, statement)).rejects.toThrow(/terminated|closed|ended/);
  });

  test('neither the secret nor a readable password lies about', async () => {
    const configuration = path.dirname(door.passwordFile);
    for (const name of await readdir(configuration)) {
      expect(await readFile(path.join(configuration, name), 'utf8')).not.toContain(engine.secret);
    }
    expect((await stat(door.passwordFile)).mode & 0o777).toBe(0o400);
    const directory = await stat(door.directory);
    expect(directory.mode & 0o777).toBe(engine.owner ? 0o710 : 0o700);
    if (engine.owner) expect([directory.uid, directory.gid]).toEqual([0, engine.owner.gid]);
  });

  describe.each(['primary', 'replica'] as const)('from inside the %s', (where) => {
    /** 2F003: no password; 08001: turned away; 42501: not allowed; 25006: it is read-only. */
    const refused = async (sql: string, code: RegExp) =>
      expect(
        await inside[where].query(sql).then(
          () => 'it worked',
          (error: { code: string }) => error.code,
        ),
      ).toMatch(code);

    test('dblink finds the relay closed', async () => {
      const target = `host=${door.directory} port=5432 user=cloud_admin`;
      for (const more of ['', ' replication=true']) {
        await refused(`select dblink_connect('${target}${more}')`, /2F003|08001/);
        await refused(`select dblink_connect('${target}${more} password=guess')`, /2F003|08001/);
        await refused(`select dblink_connect('${target}${more} passfile=${door.passwordFile}')`, /2F003|08001/);
        await refused(
          `select dblink_connect('${target}${more} password=x passfile=${door.passwordFile}')`,
          /2F003|08001/,
        );
      }
      await refused(`select dblink_connect_u('${target}')`, /42501/);
    });

    test('files and the state of replication are out of reach', async () => {
      await refused(`select pg_read_file('${door.passwordFile}')`, /42501/);
      await refused(`copy (select 1) to program 'cat ${door.passwordFile}'`, /42501/);
      await refused(`set role cloud_admin`, /42501/);
      await refused(`select pg_promote()`, /42501/);
      await refused(`select pg_wal_replay_pause()`, /42501/);
      await refused(`select pg_switch_wal()`, /42501/);
      await refused(`alter system set primary_conninfo = ''`, /42501|0A000|25006/);
    });
  });

  test('the stream cannot be ended by those whom it is not for', async () => {
    const { rows } = await inside.primary
      .query('select pg_terminate_backend(pid) from pg_stat_replication')
      .catch((error: { code: string }) => ({ rows: [error.code] }));
    expect(rows).toEqual(['42501']);
  });

  test('neither a foreign server nor a subscription of the primary gets through', async () => {
    const { primary } = inside;
    await primary.query(`drop server if exists relay cascade;
      create server relay foreign data wrapper postgres_fdw options (host '${door.directory}', port '5432', dbname 'postgres');
      create user mapping for mallory server relay options (user 'cloud_admin', password 'guess');
      create foreign table stolen (a int) server relay options (table_name 'pg_authid')`);
    await expect(primary.query('select * from stolen')).rejects.toMatchObject({ code: '08001' });
    if (major < 16) return;
    const target = `host=${door.directory} port=5432 user=cloud_admin dbname=postgres`;
    for (const more of [' password=guess', ` passfile=${door.passwordFile}`]) {
      await expect(
        primary.query(`create subscription s connection '${target}${more}' publication p`),
      ).rejects.toMatchObject({ code: expect.stringMatching(/08006|2F003|42501/) as string });
    }
  });
});
