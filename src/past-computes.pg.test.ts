import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connectAs, testMajors, testVerifier } from '../test/support/computes.ts';
import { openWholeEngine } from '../test/support/standbys.ts';
import type { WholeEngine } from '../test/support/standbys.ts';
import { waitFor } from '../test/support/wait.ts';
import type { ComputeAddress, ComputeSpec } from './compute/types.ts';
import { silentLogger } from './lib/log.ts';
import { createPastComputes } from './past-computes.ts';
import type { PastBranch, PastComputes } from './past-computes.ts';

let engine: WholeEngine;
const opened: PastComputes[] = [];
beforeAll(async () => {
  engine = await openWholeEngine();
});
afterAll(async () => {
  for (const past of opened) await past.close();
  await engine.close();
});

const major = (await testMajors()).at(-1)!;
let counter = 0;

function pastComputes(options: { max?: number; idleMs?: number } = {}): PastComputes {
  const { supervisor, storage } = engine;
  const past = createPastComputes({ supervisor, storage, logger: silentLogger(), ...options });
  opened.push(past);
  return past;
}

/** A branch whose table `t` got the rows 1, 2, 3; where and when each was committed. */
async function branchWithPast() {
  const spec = await engine.root(`p${(counter += 1)}`, major);
  const address = await engine.supervisor.start(spec, [
    { kind: 'create_role', name: 'alice', verifier: await testVerifier(), noLogin: false },
    { kind: 'create_database', name: 'shop', owner: 'alice' },
  ]);
  const owner = await connectAs(address, 'alice', 'shop');
  await owner.query('create table t (x int)');
  const points: { lsn: string; time: string }[] = [];
  for (let row = 1; row <= 3; row += 1) {
    await owner.query('insert into t values ($1)', [row]);
    const { rows } = await owner.query<{ lsn: string; time: string }>(
      `select pg_current_wal_flush_lsn()::text as lsn,
         to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as time`,
    );
    points.push(rows[0]!);
    await sleep(5);
  }
  await owner.end();
  return { spec, points, branch: branchOf(spec) };
}

const branchOf = ({ timeline, pgVersion, owner }: ComputeSpec): PastBranch => ({ ...timeline, pgVersion, owner });
const day = () => ({ startMs: Date.now() - 86_400_000, nowMs: Date.now() });

async function rowsAt(address: ComputeAddress): Promise<number> {
  const client = await connectAs(address, 'alice', 'shop');
  const { rows } = await client.query<{ count: number }>('select count(*)::int from t');
  await client.end();
  return rows[0]!.count;
}

test('a point shows what was committed then, running or asleep, and refuses writes', async () => {
  const past = pastComputes();
  const { spec, points, branch } = await branchWithPast();
  for (const asleep of [false, true]) {
    if (asleep) await engine.supervisor.suspend(spec.endpointId);
    for (const [index, { lsn, time }] of points.entries()) {
      expect(await rowsAt(await past.reach(branch, { kind: 'lsn', lsn }, day()))).toBe(index + 1);
      expect(await rowsAt(await past.reach(branch, { kind: 'time', time }, day()))).toBe(index + 1);
    }
  }
  const address = await past.reach(branch, { kind: 'lsn', lsn: points[0]!.lsn }, day());
  const client = await connectAs(address, 'alice', 'shop');
  await expect(client.query('insert into t values (4)')).rejects.toMatchObject({ code: '25006' });
  await client.end();
});

test('many who ask at once for one point share its compute', async () => {
  const past = pastComputes();
  const { spec, points, branch } = await branchWithPast();
  await engine.supervisor.suspend(spec.endpointId);
  const before = engine.supervisor.running().length;
  const query = { kind: 'lsn', lsn: points[1]!.lsn } as const;
  const addresses = await Promise.all(Array.from({ length: 8 }, () => past.reach(branch, query, day())));
  expect(new Set(addresses.map(({ socketDirectory }) => socketDirectory)).size).toBe(1);
  expect(engine.supervisor.running().length).toBe(before + 1);
  const second = await past.reach(branch, query, day(), { stale: addresses[0]! });
  expect(second.socketDirectory).not.toBe(addresses[0]!.socketDirectory);
  expect(await rowsAt(second)).toBe(2);
});

test('it goes when it has been idle for a while, not under those who use it', async () => {
  const past = pastComputes({ idleMs: 300 });
  const { spec, points, branch } = await branchWithPast();
  await engine.supervisor.suspend(spec.endpointId);
  const query = { kind: 'lsn', lsn: points[0]!.lsn } as const;
  const address = await past.reach(branch, query, day());
  const [id] = engine.supervisor.running().filter((endpointId) => past.holds(endpointId));
  past.noteConnections(branch, 1);
  const client = await connectAs(address, 'alice', 'shop');
  await client.query('begin');
  await sleep(500);
  await past.sweep();
  expect(past.holds(id!)).toBe(true);
  await client.query('commit');
  await client.end();
  past.noteConnections(branch, 0);
  await waitFor('the compute to go', async () => {
    await past.sweep();
    return engine.supervisor.address(id!) === undefined;
  });
  expect(past.holds(id!)).toBe(false);
  expect(await engine.storage.readTimeline({ projectId: branch.projectId, timelineId: id! })).toBeUndefined();
  expect(await rowsAt(await past.reach(branch, query, day()))).toBe(1);
});

test('work in the past keeps its compute; the head is what was committed when it was asked for', async () => {
  const past = pastComputes({ idleMs: 0 });
  const { spec, branch } = await branchWithPast();
  const writer = await connectAs(engine.supervisor.address(spec.endpointId)!, 'alice', 'shop');
  await writer.query('insert into t values (4)');
  const seen = await past.withPastCompute(branch, { kind: 'head' }, day(), async (address) => {
    await past.sweep();
    return rowsAt(address);
  });
  expect(seen).toBe(4);
  await writer.end();
});

test('there are not more than allowed: whoever is not used makes way, and nobody else', async () => {
  const past = pastComputes({ max: 2 });
  const { spec, points, branch } = await branchWithPast();
  await engine.supervisor.suspend(spec.endpointId);
  const at = (index: number) => past.reach(branch, { kind: 'lsn', lsn: points[index]!.lsn }, day());
  const first = await at(0);
  await at(1);
  await at(2);
  expect(engine.supervisor.running().filter((endpointId) => past.holds(endpointId))).toHaveLength(2);
  expect((await at(0)).socketDirectory).not.toBe(first.socketDirectory);
  past.noteConnections(branch, 1);
  await expect(at(1)).rejects.toMatchObject({
    kind: 'unavailable',
    message: expect.stringContaining('too many points'),
  });
  past.noteConnections(branch, 0);
});

test('it ends when the data whose past it shows is about to go', async () => {
  const past = pastComputes();
  const { branch, points } = await branchWithPast();
  const address = await past.reach(branch, { kind: 'lsn', lsn: points[0]!.lsn }, day());
  const client = await connectAs(address, 'alice', 'shop');
  const [id] = engine.supervisor.running().filter((endpointId) => past.holds(endpointId));
  await past.leave(branch);
  expect(engine.supervisor.address(id!)).toBeUndefined();
  await expect(client.query('select 1')).rejects.toThrow();
});

test('a point that is not in the window is refused, and nothing is left', async () => {
  const past = pastComputes();
  const { branch } = await branchWithPast();
  const running = engine.supervisor.running().length;
  const future = new Date(Date.now() + 3_600_000).toISOString().replace('Z', '000Z');
  await expect(past.reach(branch, { kind: 'time', time: future }, day())).rejects.toMatchObject({
    kind: 'unprocessable',
    message: expect.stringContaining('future'),
  });
  expect(engine.supervisor.running().length).toBe(running);
});
