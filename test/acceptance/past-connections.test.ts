/**
 * Connections into the past as the `neon` CLI builds them, `branch@time` and `branch@lsn`, with psql and drivers.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { hasPsql, libpqEnvironment, neonCli, psql } from '../support/clients.ts';
import { connect, failureOf, query, scalar } from '../support/sql.ts';
import { waitFor } from '../support/wait.ts';

interface Moment {
  lsn: string;
  /** RFC 3339 with microseconds. */
  time: string;
}

let ballast: Ballast;
let place: Place;
/** After the first row, and after the second. */
let moments: Moment[];

beforeAll(async () => {
  ballast = await Ballast.boot();
  place = await ballast.api.createProject({ name: 'with a past' });
  await query(place.uri, 'create table fruit (name text)');
  moments = [];
  for (const name of ['apple', 'pear']) {
    await query(place.uri, 'insert into fruit values ($1)', [name]);
    await pause(20);
    moments.push(await momentOf(place));
    await pause(20);
  }
  await query(place.uri, 'drop table fruit');
}, 300_000);

afterAll(async () => {
  await ballast?.destroy();
});

async function momentOf({ uri }: Place): Promise<Moment> {
  const [row] = await query<Moment>(
    uri,
    `select pg_current_wal_flush_lsn()::text as lsn,
       to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as time`,
  );
  return row!;
}

/** By the branch's host, as the CLI builds it. */
const at = (option: string, change: NodeJS.ProcessEnv = {}): { env: NodeJS.ProcessEnv } => ({
  env: { ...libpqEnvironment(ballast, { ...place, endpointId: place.branchId }), PGOPTIONS: option, ...change },
});
/** For drivers without TLS. */
const uriAt = (option: string) =>
  place.uri.replace('options=endpoint%3D', `options=${encodeURIComponent(`${option} `)}endpoint%3D`);
const names = 'select name from fruit order by name';
/** The CLI takes no finer times. */
const inMilliseconds = (time: string) => `${time.slice(0, 23)}Z`;
const computes = async () => (await ballast.processes()).filter(({ command }) => command.includes('/past-'));

describe.skipIf(!hasPsql)('psql (skipped where it is not installed)', () => {
  test('connection-string branch@time and branch@lsn of the CLI show the data of that moment', async () => {
    const cli = neonCli(ballast);
    for (const moment of [inMilliseconds(moments[0]!.time), moments[0]!.lsn]) {
      const ran = await cli.raw(['connection-string', `main@${moment}`, '--project-id', place.projectId]);
      expect(ran).toMatchObject({ code: 0 });
      const printed = new URL(ran.stdout.trim());
      expect(printed.hostname).toBe(`${place.branchId}.localhost`);
      const uri = `${ran.stdout.trim()}&hostaddr=127.0.0.1`.replace(/(\.localhost)(?=\/)/, `$1:${ballast.pgPort}`);
      expect(await psql({ uri }, names)).toMatchObject({ code: 0, stdout: 'apple\n' });
    }
    const second = await cli.raw([
      ...['psql', `main@${inMilliseconds(moments[1]!.time)}`, '--project-id', place.projectId, '--'],
      ...['-At', '-c', names],
    ]);
    expect(second).toMatchObject({ code: 0, stdout: 'apple\npear\n' });
  });

  test('a wrong password starts nothing', async () => {
    const moment = await momentOf(place);
    const before = (await computes()).length;
    const ran = await psql(at(`neon_lsn:${moment.lsn}`, { PGPASSWORD: 'wrong' }), 'select 1');
    expect(ran.stderr).toContain('password authentication failed');
    expect((await computes()).length).toBe(before);
  });

  test.each([
    ['neon_timestamp:2001-01-01T00:00:00Z', 'before'],
    ['neon_timestamp:2099-01-01T00:00:00Z', 'future'],
    ['neon_lsn:FFFF/0', ''],
    ['neon_lsn:nonsense', 'must be an LSN'],
    ['neon_timestamp:yesterday', 'must be a time'],
  ])('%s is refused with a reason', async (option, text) => {
    const ran = await psql(at(option), 'select 1');
    expect(ran.code).not.toBe(0);
    expect(ran.stderr).toContain('ERROR:');
    expect(ran.stderr).toContain(text);
    expect(ran.stderr).not.toContain('/pool/');
  });

  test('a branch id alone is the branch as it is now', async () => {
    expect(await psql(at(''), 'select pg_is_in_recovery()')).toMatchObject({ code: 0, stdout: 'f\n' });
  });
});

test('an endpoint and a point: what was dropped is there again, and cannot be written', async () => {
  const uri = uriAt(`neon_timestamp:${moments[1]!.time}`);
  expect(await query(uri, names)).toEqual([{ name: 'apple' }, { name: 'pear' }]);
  expect(await failureOf(() => query(uri, "insert into fruit values ('plum')"))).toMatchObject({ code: '25006' });
  expect(await scalar(place.uri, `select to_regclass('fruit')`)).toBeNull();
});

test('the past is there while the branch sleeps, and does not wake it', async () => {
  await ballast.api.suspend(place);
  expect(await query(uriAt(`neon_lsn:${moments[0]!.lsn}`), names)).toEqual([{ name: 'apple' }]);
  expect(await ballast.api.endpointState(place)).toBe('idle');
});

test('passwords are those of that time: one that was changed since opens the present only', async () => {
  const other = await ballast.api.createProject({ name: 'changed' });
  await query(other.uri, 'create table t ()');
  const moment = await momentOf(other);
  const path = `/projects/${other.projectId}/branches/${other.branchId}/roles/${other.role}/reset_password`;
  const { role } = await ballast.api.callAndSettle('POST', path);
  const changed = new URL(other.uri);
  changed.password = role.password;
  expect(await scalar(changed.toString(), 'select 1')).toBe(1);
  const past = (uri: string) =>
    uri.replace('options=endpoint%3D', `options=neon_lsn%3A${encodeURIComponent(moment.lsn)}%20endpoint%3D`);
  for (const uri of [changed.toString(), other.uri]) {
    expect((await failureOf(() => query(past(uri), 'select 1')))?.message).toContain('password authentication failed');
  }
});

test('it goes when nobody has used it for half a minute; a transaction keeps it', { timeout: 300_000 }, async () => {
  const client = await connect(uriAt(`neon_lsn:${moments[1]!.lsn}`));
  await client.query('begin');
  await waitFor('the unused ones to go', async () => (await computes()).length > 0 && (await computes()).length < 8, {
    timeoutMs: 60_000,
  });
  await pause(35_000);
  expect((await client.query(names)).rows).toHaveLength(2);
  await client.query('commit');
  await client.end();
  await waitFor('the last one to go', async () => (await computes()).length === 0, { timeoutMs: 60_000 });
});

test('a kill -9 of Ballast leaves none of them behind', async () => {
  const option = `neon_lsn:${moments[0]!.lsn}`;
  expect(await query(uriAt(option), names)).toHaveLength(1);
  expect((await computes()).length).toBeGreaterThan(0);
  await ballast.kill9();
  await ballast.start();
  await waitFor('what was left running to be gone', async () => (await computes()).length === 0);
  expect((await ballast.timelineDirectories()).filter((name) => name.includes('past-'))).toEqual([]);
  expect(await query(uriAt(option), names)).toHaveLength(1);
});
