/**
 * A month of a project in a minute: the clock is moved on, branches, snapshots and restores happen at random, and every
 * night history is kept and trimmed. After each day everything within the window can be reached, exactly, and nothing
 * that is out of it uses space.
 */
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeEngine, PROJECT, ref } from '../../test/support/engine.ts';
import type { Engine } from '../../test/support/engine.ts';
import { makePool, missingFor } from '../../test/support/pool.ts';
import type { TestPool } from '../../test/support/pool.ts';
import { parseLsn } from '../lib/lsn.ts';
import { segmentNumberOf } from '../postgres/wal.ts';
import { timelineLayout } from './layout.ts';
import { readBases, readTimelineRecord } from './records.ts';

const DAYS = 30;
const DAY_MS = 24 * 3_600_000;
const WINDOW_MS = 7 * DAY_MS;
const SEGMENT_BYTES = 4 * 1024 * 1024;
const MOST_BRANCHES = 4;
const SEED = Number(process.env['BALLAST_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31));

/** What the ledger held between two writes. */
interface State {
  count: number;
  /** Any LSN between these is that state. */
  fromLsn: string;
  untilLsn: string | undefined;
  /** When the next write ended it, by the moved clock. */
  endedAtMs: number;
}

interface Branch {
  id: string;
  /** Its own states; what it had from its parent is the first. */
  states: State[];
}

const missing = missingFor('xfs');
let pool: TestPool;
let engine: Engine;
let nowMs = Date.UTC(2030, 0, 1);
let made = 0;
const branches: Branch[] = [];
const snapshots = new Map<string, number>();

/** A small generator with a seed (mulberry32), so that a failure can be repeated. */
let state = SEED;
function random(): number {
  state = (state + 0x6d2b79f5) | 0;
  let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
}
const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
const layoutOf = (id: string) => timelineLayout(pool.directory, { projectId: PROJECT, timelineId: id });

beforeAll(async () => {
  if (missing !== '') return;
  pool = await makePool('xfs', { sizeBytes: 8 * 1024 ** 3 });
  engine = await makeEngine({ pool: pool.directory, storage: { now: () => new Date(nowMs) } });
});
afterAll(async () => {
  await engine?.close();
  await pool?.remove();
});

async function lsnOf(id: string): Promise<string> {
  return (await engine.sql(id, 'select pg_current_wal_flush_lsn()'))[0]![0]!;
}

async function write(branch: Branch): Promise<void> {
  const current = branch.states.at(-1)!;
  const fillerBytes = random() < 0.3 ? 10 * 1024 * 1024 : 1000;
  current.untilLsn = await lsnOf(branch.id);
  await engine.sql(
    branch.id,
    `insert into public.ledger select (select count(*) from public.ledger), string_agg(md5(random()::text), '')
       from generate_series(1, ${Math.ceil(fillerBytes / 32)})`,
  );
  current.endedAtMs = nowMs;
  const fromLsn = await lsnOf(branch.id);
  branch.states.push({ count: current.count + 1, fromLsn, untilLsn: undefined, endedAtMs: Number.POSITIVE_INFINITY });
}

/** The states that were still current at some time of the window. */
const reachable = (branch: Branch) => branch.states.filter(({ endedAtMs }) => endedAtMs > nowMs - WINDOW_MS);

async function begin(id: string, count: number): Promise<Branch> {
  await engine.start(id);
  const fromLsn = await lsnOf(id);
  return { id, states: [{ count, fromLsn, untilLsn: undefined, endedAtMs: Number.POSITIVE_INFINITY }] };
}

async function branchOff(from: Branch): Promise<Branch> {
  const point = pick(reachable(from));
  const id = `branch-${(made += 1)}`;
  await engine.child(id, from.id, point.untilLsn);
  return begin(id, point.count);
}

async function remove(branch: Branch): Promise<void> {
  await engine.stop(branch.id);
  await engine.storage.deleteTimeline(ref(branch.id));
  branches.splice(branches.indexOf(branch), 1);
}

async function takeSnapshot(from: Branch): Promise<void> {
  const point = pick(reachable(from));
  const id = `snapshot-${(made += 1)}`;
  const at = point.untilLsn === undefined ? ({ kind: 'head' } as const) : { kind: 'lsn' as const, lsn: point.untilLsn };
  const spec = { ...ref(id), parentTimelineId: from.id, owner: engine.owner, point: at };
  await engine.storage.createChildTimeline({ ...spec, kind: 'snapshot' });
  snapshots.set(id, point.count);
}

async function countOf(id: string): Promise<number> {
  await engine.start(id);
  const [row] = await engine.sql(id, 'select count(*)::text from public.ledger');
  await engine.stop(id);
  await engine.storage.deleteTimeline(ref(id));
  return Number(row![0]);
}

async function checkReach(branch: Branch): Promise<void> {
  const states = reachable(branch);
  for (const point of new Set([states[0]!, pick(states)])) {
    const id = `probe-${(made += 1)}`;
    await engine.child(id, branch.id, point.untilLsn);
    expect(await countOf(id), `${branch.id} at ${point.untilLsn}`).toBe(point.count);
  }
}

async function checkSpace(): Promise<void> {
  const there = (await readdir(path.dirname(layoutOf('x').root))).toSorted();
  expect(there).toEqual([...branches.map(({ id }) => id), ...snapshots.keys()].toSorted());
  expect((await engine.storage.listTimelines()).garbage).toEqual([]);
  for (const { id } of branches) {
    const layout = layoutOf(id);
    const record = (await readTimelineRecord(layout))!;
    const bases = await readBases(layout);
    const before = bases.filter((base) => Date.parse(base.createdAt) <= nowMs - WINDOW_MS);
    // The one that the window begins with, and none older.
    expect(before.length, `${id}: bases before the window`).toBeLessThanOrEqual(1);
    if (record.historyStart === null) continue;
    const start = bases.find((base) => base.stopLsn === record.historyStart)!;
    const firstNeeded = segmentNumberOf(parseLsn(start.startLsn), SEGMENT_BYTES);
    for (const name of (await readdir(layout.wal)).filter((file) => /^[0-9A-F]{24}/.test(file))) {
      const number = parseInt(name.slice(8, 16), 16) * (2 ** 32 / SEGMENT_BYTES) + parseInt(name.slice(16, 24), 16);
      expect(number, `${id}: ${name}`).toBeGreaterThanOrEqual(firstNeeded);
    }
  }
}

test.skipIf(missing !== '')(
  `${DAYS} days, seed ${SEED} ${missing}`,
  async () => {
    await engine.root('main');
    const main = await begin('main', 0);
    branches.push(main);
    await engine.sql('main', 'create table public.ledger (number bigint, filler text)');
    main.states[0]!.fromLsn = await lsnOf('main');
    for (let day = 1; day <= DAYS; day += 1) {
      for (const branch of branches) if (random() < 0.8) await write(branch);
      nowMs += DAY_MS / 2;
      const branch = pick(branches);
      const what = random();
      if (what < 0.4 && branches.length < MOST_BRANCHES) branches.push(await branchOff(branch));
      else if (what < 0.6) await takeSnapshot(branch);
      else if (what < 0.8) {
        // A restore without a backup: another timeline takes its place, and the old one goes, children or not.
        branches.push(await branchOff(branch));
        await remove(branch);
      } else if (branches.length > 2) await remove(branch);
      else if (snapshots.size > 0) {
        const [id, count] = pick([...snapshots]);
        const restored = `branch-${(made += 1)}`;
        await engine.child(restored, id);
        branches.push(await begin(restored, count));
      }
      if (snapshots.size > 3) {
        const [oldest] = snapshots.keys();
        await engine.storage.deleteTimeline(ref(oldest!));
        snapshots.delete(oldest!);
      }
      nowMs += DAY_MS / 2;
      for (const { id } of branches) {
        await engine.storage.keepHistory(ref(id), { windowMs: WINDOW_MS });
        await engine.storage.trimHistory(ref(id), { startMs: nowMs - WINDOW_MS, pinned: [] });
      }
      for (const one of branches) await checkReach(one);
      if (snapshots.size > 0) {
        const [id, count] = pick([...snapshots]);
        const probe = `probe-${(made += 1)}`;
        await engine.child(probe, id);
        expect(await countOf(probe)).toBe(count);
      }
      await checkSpace();
    }
  },
  900_000,
);
