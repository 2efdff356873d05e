import { execFileSync } from 'node:child_process';
import { access, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { connectAs, testMajors, testVerifier } from '../../test/support/computes.ts';
import { openWholeEngine, PROJECT } from '../../test/support/standbys.ts';
import type { WholeEngine } from '../../test/support/standbys.ts';
import { waitFor } from '../../test/support/wait.ts';
import { readControlData } from '../postgres/control-data.ts';
import { readPostmaster } from '../postgres/server.ts';
import { restoreCommand } from './standby.ts';
import type { ComputeAddress, ComputeChange, ComputeSpec } from './types.ts';

let engine: WholeEngine;
beforeAll(async () => {
  engine = await openWholeEngine();
});
afterAll(() => engine.close());

/** Until the assertions hold. */
const eventually = (assert: () => Promise<void>) =>
  waitFor('the assertions to hold', async () => (await assert(), true), { intervalMs: 20 });

const majors = await testMajors();
const newest = majors.at(-1)!;
let counter = 0;

async function changes(): Promise<ComputeChange[]> {
  return [
    { kind: 'create_role', name: 'alice', verifier: await testVerifier(), noLogin: false },
    { kind: 'create_database', name: 'shop', owner: 'alice' },
  ];
}

/** A primary with a table `t` and an owner's session, and the spec of a replica of it. */
async function pair(major: number, overrides: Partial<ComputeSpec> = {}) {
  const name = `s${(counter += 1)}`;
  const primary = await engine.root(name, major, overrides);
  const owner = await session(await engine.supervisor.start(primary, await changes()));
  await owner.query('create table t (x int)');
  return { primary, owner, replica: engine.replica(`${name}-ro`, primary) };
}

const session = (address: ComputeAddress) => connectAs(address, 'alice', 'shop');

async function count(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ count: number }>('select count(*)::int from t');
  return rows[0]!.count;
}

const followed = (client: pg.Client, rows: number) => eventually(async () => expect(await count(client)).toBe(rows));

async function kill(spec: ComputeSpec): Promise<void> {
  const { pid } = (await readPostmaster(engine.storage.dataDirectory(spec.timeline)))!;
  process.kill(-pid, 'SIGKILL');
  await eventually(async () => expect(engine.supervisor.address(spec.endpointId)).toBeUndefined());
}

const streaming = (primary: ComputeSpec) =>
  eventually(async () => {
    const counted = await engine.supervisor.query(primary.endpointId, 'select count(*) from pg_stat_replication');
    expect(counted).toEqual([['1']]);
  });

/** Every process of the compute stands still until the result is called. */
async function halt(spec: ComputeSpec): Promise<() => void> {
  const { pid } = (await readPostmaster(engine.storage.dataDirectory(spec.timeline)))!;
  const children = execFileSync('pgrep', ['-P', String(pid)], { encoding: 'utf8' })
    .trim()
    .split('\n')
    .map(Number);
  const signal = (name: NodeJS.Signals) => [pid, ...children].forEach((one) => process.kill(one, name));
  signal('SIGSTOP');
  return () => signal('SIGCONT');
}

test('a change of sizes that Postgres need not know of cuts nobody off, on either side', async () => {
  const { primary, owner, replica } = await pair(newest, { minCu: 0.5, maxCu: 2 });
  const reader = await session(await engine.supervisor.start(replica, []));
  await engine.supervisor.start(
    { ...replica, minCu: 1, standby: { ...replica.standby!, primary: { ...replica.standby!.primary, minCu: 1 } } },
    [],
  );
  await engine.supervisor.start({ ...primary, minCu: 1 }, []);
  await owner.query('insert into t values (1)');
  await followed(reader, 1);
  await engine.supervisor.suspend(primary.endpointId);
  await engine.supervisor.suspend(replica.endpointId);
});

describe.each(majors)('PostgreSQL %i', (major) => {
  test('a replica has what was committed, follows, refuses writes, and sleeps with nothing left behind', async () => {
    const { primary, owner, replica } = await pair(major);
    await owner.query('insert into t select generate_series(1, 100)');
    const reader = await session(await engine.supervisor.start(replica, []));
    expect(await count(reader)).toBe(100);
    await owner.query('insert into t values (101)');
    await followed(reader, 101);
    await expect(reader.query('insert into t values (1)')).rejects.toMatchObject({ code: '25006' });
    await expect(reader.query('create role mallory')).rejects.toMatchObject({ code: '25006' });
    await reader.query('set transaction_read_only = off').catch(() => undefined);
    await expect(reader.query('insert into t values (1)')).rejects.toMatchObject({ code: '25006' });
    await engine.supervisor.suspend(replica.endpointId);
    expect(await engine.storage.readTimeline(replica.timeline)).toBeUndefined();
    await owner.query('insert into t values (102)');
    expect(await count(await session(await engine.supervisor.start(replica, [])))).toBe(102);
    await engine.supervisor.suspend(primary.endpointId);
    await engine.supervisor.suspend(replica.endpointId);
  });

  test('it answers while the primary sleeps, comes up while it sleeps, and follows when it wakes or has crashed', async () => {
    const { primary, owner, replica } = await pair(major);
    await owner.query('insert into t values (1)');
    await engine.supervisor.suspend(primary.endpointId);
    const reader = await session(await engine.supervisor.start(replica, []));
    expect(await count(reader)).toBe(1);
    const again = await session(await engine.supervisor.start(primary, []));
    await again.query('insert into t values (2)');
    await followed(reader, 2);
    await engine.supervisor.suspend(primary.endpointId);
    expect(await count(reader)).toBe(2);
    const third = await session(await engine.supervisor.start(primary, []));
    await third.query('insert into t values (3)');
    await followed(reader, 3);
    await kill(primary);
    const fourth = await session(await engine.supervisor.start(primary, []));
    await fourth.query('insert into t values (4)');
    await followed(reader, 4);
    await engine.supervisor.suspend(replica.endpointId);
    await engine.supervisor.suspend(primary.endpointId);
  });

  test('it follows the first start of a branch to its own timeline id', async () => {
    const { primary, owner } = await pair(major);
    await owner.query('insert into t values (1)');
    const child = { projectId: PROJECT, timelineId: `br-child${(counter += 1)}` };
    const parentTimelineId = primary.timeline.timelineId;
    await engine.storage.createChildTimeline({
      ...child,
      parentTimelineId,
      owner: engine.owner,
      point: { kind: 'head' },
    });
    await engine.supervisor.suspend(primary.endpointId);
    const first = { ...primary, endpointId: `ep-child${counter}`, timeline: child };
    const replica = engine.replica(`child${counter}-ro`, first);
    const reader = await session(await engine.supervisor.start(replica, []));
    expect(await count(reader)).toBe(1);
    const writer = await session(await engine.supervisor.start(first, []));
    await writer.query('insert into t values (2)');
    await followed(reader, 2);
    await engine.supervisor.suspend(replica.endpointId);
    await engine.supervisor.suspend(first.endpointId);
  });

  test('a primary that is larger, or was once, or has more of something, finds replicas that are as large', async () => {
    const { primary, owner, replica } = await pair(major, { maxCu: 1, minCu: 1 });
    await owner.query('insert into t values (1)');
    const small = { ...replica, minCu: 0.25, maxCu: 0.25 };
    // What the row says is outdated: the control file knows better.
    const outdated = { ...small.standby!, primary: { minCu: 0.25, maxCu: 0.25, pgSettings: {} } };
    const reader = await session(await engine.supervisor.start({ ...small, standby: outdated }, []));
    expect((await reader.query('show max_connections')).rows).toEqual([{ max_connections: '419' }]);
    const pgSettings = { max_locks_per_transaction: '128' };
    const larger = { ...small.standby!, primary: { minCu: 2, maxCu: 2, pgSettings } };
    const second = await session(await engine.supervisor.start({ ...small, standby: larger }, []));
    const grown = { ...primary, minCu: 2, maxCu: 2, pgSettings };
    const writer = await session(await engine.supervisor.start(grown, []));
    await writer.query('insert into t values (2)');
    await followed(second, 2);
    expect((await second.query('show max_locks_per_transaction')).rows[0]).toEqual({
      max_locks_per_transaction: '128',
    });
    await engine.supervisor.suspend(replica.endpointId);
    await engine.supervisor.suspend(primary.endpointId);
    const control = await readControlData(engine.storage.dataDirectory(primary.timeline));
    expect(control.sizes).toEqual({
      maxConnections: 839,
      maxWorkerProcesses: 8,
      maxWalSenders: 40,
      maxPreparedTransactions: 0,
      maxLocksPerTransaction: 128,
    });
  });

  test('at a point it stays there, and has grown in between', async () => {
    const { primary, owner, replica } = await pair(major);
    await owner.query('insert into t values (1)');
    const grown = await session(await engine.supervisor.start({ ...primary, minCu: 1, maxCu: 1 }, []));
    await grown.query('insert into t values (2)');
    const { rows } = await grown.query<{ lsn: string }>('select pg_current_wal_flush_lsn() as lsn');
    await grown.query('insert into t values (3)');
    const again = await session(await engine.supervisor.start(primary, []));
    await again.query('insert into t values (4)');
    const standby = { ...replica.standby!, point: { kind: 'lsn', lsn: rows[0]!.lsn } as const };
    const reader = await session(await engine.supervisor.start({ ...replica, standby }, []));
    expect(await count(reader)).toBe(2);
    await again.query('insert into t values (5)');
    expect(await count(reader)).toBe(2);
    await engine.supervisor.suspend(replica.endpointId);
    await engine.supervisor.suspend(primary.endpointId);
  });
});

test('a replica that was left behind takes from the archive what the primary has removed', async () => {
  const { primary, owner, replica } = await pair(newest);
  const reader = await session(await engine.supervisor.start(replica, []));
  await streaming(primary);
  const goOn = await halt(replica);
  await owner.query(`insert into t select generate_series(1, 400000)`);
  // Stopping the primary ends the stream, which would otherwise keep its WAL.
  await engine.supervisor.suspend(primary.endpointId);
  const again = await session(await engine.supervisor.start(primary, []));
  await again.query(`insert into t select generate_series(1, 400000)`);
  await engine.supervisor.query(primary.endpointId, 'checkpoint');
  await engine.supervisor.query(primary.endpointId, 'select pg_switch_wal()');
  await engine.supervisor.query(primary.endpointId, 'checkpoint');
  const live = await readdir(path.join(engine.storage.dataDirectory(primary.timeline), 'pg_wal'));
  const archived = await readdir(engine.storage.walDirectory(primary.timeline));
  expect(archived.filter((name) => /^[0-9A-F]{24}$/.test(name) && !live.includes(name)).length).toBeGreaterThan(5);
  goOn();
  await followed(reader, 800_000);
  await engine.supervisor.suspend(replica.endpointId);
  await engine.supervisor.suspend(primary.endpointId);
});

test('a replica that finds the WAL nowhere any more ends, and the next start makes it anew', async () => {
  const { primary, owner, replica } = await pair(newest);
  await engine.supervisor.start(replica, []);
  await streaming(primary);
  const goOn = await halt(replica);
  await owner.query('insert into t select generate_series(1, 200000)');
  await engine.supervisor.suspend(primary.endpointId);
  const again = await session(await engine.supervisor.start(primary, []));
  await again.query('insert into t select generate_series(1, 200000)');
  await engine.supervisor.query(primary.endpointId, 'select pg_switch_wal()');
  await engine.supervisor.query(primary.endpointId, 'checkpoint');
  const archive = engine.storage.walDirectory(primary.timeline);
  for (const name of await readdir(archive)) await rm(path.join(archive, name));
  goOn();
  await eventually(async () => expect(engine.supervisor.address(replica.endpointId)).toBeUndefined());
  expect(await count(await session(await engine.supervisor.start(replica, [])))).toBe(400_000);
  await engine.supervisor.suspend(replica.endpointId);
  await engine.supervisor.suspend(primary.endpointId);
});

test('a stop of the primary does not wait for a replica that hangs', async () => {
  const { primary, owner, replica } = await pair(newest);
  await engine.supervisor.start(replica, []);
  await streaming(primary);
  const goOn = await halt(replica);
  await owner.query('insert into t select generate_series(1, 100000)');
  const behind = 'select count(*) from pg_stat_replication where flush_lsn < pg_current_wal_flush_lsn()';
  await eventually(async () => expect(await engine.supervisor.query(primary.endpointId, behind)).toEqual([['1']]));
  // Had it waited for as long as a stop may take, it would have been cut short.
  await engine.supervisor.suspend(primary.endpointId);
  expect((await readControlData(engine.storage.dataDirectory(primary.timeline))).state).toBe('shut down');
  goOn();
  await engine.supervisor.suspend(replica.endpointId);
});

test('it follows again when Postgres restarts itself after a backend has crashed', async () => {
  const { primary, owner, replica } = await pair(newest);
  const reader = await session(await engine.supervisor.start(replica, []));
  const { rows } = await owner.query<{ pid: number }>('select pg_backend_pid() as pid');
  process.kill(rows[0]!.pid, 'SIGKILL');
  await eventually(async () => {
    const again = await session(engine.supervisor.address(primary.endpointId)!);
    await again.query('insert into t values (1)');
    await again.end();
  });
  await eventually(async () => expect(await count(reader)).toBeGreaterThan(0));
  await engine.supervisor.suspend(replica.endpointId);
  await engine.supervisor.suspend(primary.endpointId);
});

test('streaming to a replica keeps no compute awake, and changes are not applied to one', async () => {
  const { primary, owner, replica } = await pair(newest);
  await engine.supervisor.start(replica, await changes());
  await owner.end();
  await eventually(async () => {
    const seen = (await engine.supervisor.activity(primary.endpointId))!;
    expect(seen.busy).toBe(false);
    expect(seen.fingerprint).not.toBe('');
  });
  await streaming(primary);
  expect((await engine.supervisor.activity(replica.endpointId))!.fingerprint).toBe('');
  await engine.supervisor.suspend(replica.endpointId);
  await engine.supervisor.suspend(primary.endpointId);
});

test('a start that fails leaves no timeline and no socket', async () => {
  const { primary, replica } = await pair(newest);
  const bad = { ...replica, endpointId: 'ep-bad', timeline: { ...replica.timeline, timelineId: 'ep-bad' } };
  await expect(engine.supervisor.start({ ...bad, pgSettings: { work_mem: 'nonsense' } }, [])).rejects.toMatchObject({
    kind: 'unprocessable',
  });
  expect(await engine.storage.readTimeline(bad.timeline)).toBeUndefined();
  await expect(access(path.join(engine.home.run, 'computes', 'ep-bad'))).rejects.toThrow();
  await engine.supervisor.suspend(primary.endpointId);
});

test('the restore command quotes what the shell and Postgres would read', () => {
  expect(restoreCommand(`/pool/it's 5%`, 'linux')).toBe(
    `[ -e '/pool/it'\\''s 5%%'/%f ] && cp --reflink=auto '/pool/it'\\''s 5%%'/%f %p`,
  );
});

test('primaries and replicas that start at once take turns', async () => {
  const one = await openWholeEngine();
  try {
    const supervisor = one.anotherSupervisor({ parallelStarts: 1 });
    const primary = await one.root('turns', newest);
    await supervisor.start(primary, await changes());
    for (let round = 0; round < 3; round += 1) {
      await supervisor.suspend(primary.endpointId);
      const replicas = [1, 2, 3].map((number) => one.replica(`turns-ro-${number}`, primary));
      await Promise.all([
        supervisor.start(replicas[0]!, []),
        supervisor.start(primary, []),
        ...replicas.slice(1).map((replica) => supervisor.start(replica, [])),
      ]);
      await Promise.all(replicas.map(({ endpointId }) => supervisor.suspend(endpointId)));
    }
  } finally {
    await one.close();
  }
});

// The last one: from here on another supervisor answers for the primaries.
test('a replica outlives Ballast, and follows again when it is adopted; one that died is gone', async () => {
  const { primary, owner, replica } = await pair(newest);
  await owner.query('insert into t values (1)');
  const doomed = engine.replica('doomed-ro', primary);
  const reader = await session(await engine.supervisor.start(replica, []));
  await engine.supervisor.start(doomed, []);
  const next = engine.anotherSupervisor();
  expect(await next.adopt()).toEqual(expect.arrayContaining([replica.endpointId, doomed.endpointId]));
  await owner.query('insert into t values (2)');
  await followed(reader, 2);
  expect(next.address(replica.endpointId)).toEqual(engine.supervisor.address(replica.endpointId));
  const { pid } = (await readPostmaster(engine.storage.dataDirectory(doomed.timeline)))!;
  process.kill(-pid, 'SIGKILL');
  await eventually(async () => {
    expect(next.address(doomed.endpointId)).toBeUndefined();
    expect(await engine.storage.readTimeline(doomed.timeline)).toBeUndefined();
  });
  await next.suspend(replica.endpointId);
  await next.suspend(primary.endpointId);
  const sockets = await readdir(engine.home.sockets);
  expect(sockets.filter((name) => name.startsWith('wal-'))).toEqual([]);
});
