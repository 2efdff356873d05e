/**
 * Storage when something goes wrong or runs out: a failure at every sync, leftovers of a crash, a pool without space,
 * files in too many pieces; and what it refuses.
 */
import { mkdir, open, readdir, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PROJECT, makeEngine, ref } from '../../test/support/engine.ts';
import type { Engine } from '../../test/support/engine.ts';
import { makePool, missingFor } from '../../test/support/pool.ts';
import type { TestPool } from '../../test/support/pool.ts';
import { durable } from '../lib/durable.ts';
import type { Durable, SyncStep } from '../lib/durable.ts';
import { fragmentation } from './size.ts';
import { EXTENT_BUDGET } from './rest-work.ts';

const missing = missingFor('xfs');

/** What making a timeline and keeping its history sync, but for the contents of a copy. */
const OTHER_STEPS: SyncStep[] = ['base', 'timeline-directory', 'timeline-record'];
/** A pool that copies syncs a thousand files one by one, and their directories: about every so-manieth is tried. */
const SAMPLED = { 'written-file': 300, 'cloned-directory': 15 } as const;
const SEED = 20_261_128;
const COPYING_TIMEOUT_MS = 600_000;

/** Happens once: at the n-th sync from when it is armed, or at the n-th of a step. */
interface Fault {
  at: number;
  step: SyncStep | undefined;
}

interface Meanwhile {
  step: SyncStep;
  work: () => Promise<unknown>;
}

function failing() {
  let armed: Fault | undefined;
  let passed = 0;
  let meanwhile: Meanwhile | undefined;
  const pass = async (step: SyncStep) => {
    if (meanwhile?.step === step) {
      const { work } = meanwhile;
      meanwhile = undefined;
      await work();
    }
    if (armed?.step !== undefined && armed.step !== step) return;
    passed += 1;
    if (passed === armed?.at) throw new Error('simulated crash');
  };
  const files: Durable = {
    file: async (step, file) => pass(step).then(() => durable.file(step, file)),
    directory: async (step, directory) => pass(step).then(() => durable.directory(step, directory)),
    commit: async (step, work) => pass(step).then(() => durable.commit(step, work)),
  };
  return {
    files,
    arm(fault: Fault) {
      armed = fault;
      passed = 0;
    },
    /** Has something done at the next sync of a step. */
    once(step: SyncStep, work: () => Promise<unknown>) {
      meanwhile = { step, work };
    },
    /** True: the fault has happened. */
    disarm() {
      const reached = armed !== undefined && passed >= armed.at;
      armed = undefined;
      return reached;
    },
  };
}

/**
 * Runs `work` with one fault after the other until there are no more syncs to fail: at every sync; where the pool
 * copies, at a sample of those of the copy and every other. `work` answers whether its fault happened.
 */
async function withEachFault(copies: boolean, work: (fault: Fault) => Promise<boolean>): Promise<void> {
  const all = async (step?: SyncStep, gaps?: Iterator<number>) => {
    let at = 0;
    do at += gaps?.next().value ?? 1;
    while (await work({ at, step }));
  };
  if (!copies) return all();
  for (const step of OTHER_STEPS) await all(step);
  for (const step of ['written-file', 'cloned-directory'] as const) {
    const gap = fc.noBias(fc.integer({ min: 1, max: 2 * SAMPLED[step] }));
    await all(step, fc.sample(gap, { seed: SEED, numRuns: 1000 }).values());
  }
}

describe('on any file system', () => {
  let pool: TestPool;
  let engine: Engine;
  let copies: boolean;
  const fault = failing();

  beforeAll(async () => {
    pool = await makePool(missing === '' ? 'xfs' : 'plain');
    engine = await makeEngine({ pool: pool.directory, storage: { durable: fault.files } });
    copies = (await engine.storage.poolStatus()).cloneMode === 'copy';
    await engine.root('main');
    await engine.start('main');
    await engine.sql('main', 'create table public.notes as select generate_series(1, 100) as n');
  });
  afterAll(async () => {
    await engine?.close();
    await pool?.remove();
  });

  test('a parent that writes much while its base is made gets its child all the same', async () => {
    const write = (count: number) =>
      engine.sql(
        'main',
        `create table if not exists public.much (filler text);
         insert into public.much select repeat(md5(n::text), 20) from generate_series(1, ${count}) n`,
      );
    await write(30_000);
    let written = false;
    fault.once('base', async () => {
      await write(30_000);
      written = true;
    });
    await engine.child('late', 'main');
    expect(written).toBe(true);
    await engine.start('late');
    expect(await engine.sql('late', 'select count(*) from public.much')).toEqual([['60000']]);
    await engine.stop('late');
    await engine.storage.deleteTimeline(ref('late'));
    await engine.sql('main', 'drop table public.much');
  });

  test.each(['running', 'suspended'])(
    'a failure at any sync of branching a %s parent leaves nothing half visible',
    async (state) => {
      if (state === 'suspended') await engine.stop('main');
      await withEachFault(copies, async (each) => {
        fault.arm(each);
        const outcome = await engine.child('child', 'main').then(
          () => 'made',
          (error: unknown) => String(error),
        );
        const reached = fault.disarm();
        if (reached) {
          expect(outcome).toContain('simulated crash');
          expect(await engine.storage.readTimeline(ref('child'))).toBeUndefined();
          expect((await engine.storage.listTimelines()).garbage).toEqual([]);
        } else {
          expect(outcome).toBe('made');
          await engine.start('child');
          expect(await engine.sql('child', 'select count(*) from public.notes')).toEqual([['100']]);
          await engine.stop('child');
          await engine.storage.deleteTimeline(ref('child'));
        }
        return reached;
      });
    },
    COPYING_TIMEOUT_MS,
  );

  test(
    'a failure at any sync of keeping and trimming history loses no point of the window',
    async () => {
      await engine.start('main');
      await engine.sql('main', 'create table public.bulk (filler text)');
      await engine.child('heir', 'main');
      await engine.start('heir');
      const [[early]] = (await engine.sql('heir', 'select pg_current_wal_flush_lsn()')) as [[string]];
      await engine.sql('heir', 'delete from public.notes');
      let [past, rows] = ['', 0];
      let written = 30_000;
      const keepAndTrim = async () => {
        // More than a base serves for: the next child of the running parent makes another.
        written += 1;
        await engine.sql('main', 'truncate public.bulk');
        await engine.sql(
          'main',
          `insert into public.bulk select repeat(md5(n::text), 20) from generate_series(1, ${written}) n`,
        );
        await engine.child('passing', 'main');
        await engine.storage.deleteTimeline(ref('passing'));
        past = (await engine.sql('main', 'select pg_current_wal_flush_lsn()'))[0]![0]!;
        rows = Number((await engine.sql('main', 'select count(*) from public.bulk'))[0]![0]);
        await engine.storage.trimHistory(ref('main'), { startMs: Date.now(), pinned: [past] });
      };
      const holds = async (timelineId: string, from: string, lsn: string, question: string) => {
        await engine.child(timelineId, from, lsn);
        await engine.start(timelineId);
        const [[count]] = (await engine.sql(timelineId, question)) as [[string]];
        await engine.stop(timelineId);
        await engine.storage.deleteTimeline(ref(timelineId));
        return Number(count);
      };
      await withEachFault(copies, async (each) => {
        fault.arm(each);
        const outcome = await keepAndTrim().then(
          () => 'kept',
          (error: unknown) => String(error),
        );
        const reached = fault.disarm();
        if (reached) await engine.storage.deleteTimeline(ref('passing'));
        else expect(outcome).toBe('kept');
        if (past !== '') expect(await holds('probe', 'main', past, 'select count(*) from public.bulk')).toBe(rows);
        expect(await holds('probe', 'heir', early, 'select count(*) from public.notes')).toBe(100);
        // What was on its way out is swept at the next start.
        await engine.storage.removeGarbage((await engine.storage.listTimelines()).garbage);
        return reached;
      });
      expect((await engine.storage.listTimelines()).garbage).toEqual([]);
      await engine.stop('heir');
      await engine.storage.deleteTimeline(ref('heir'));
      await engine.stop('main');
    },
    COPYING_TIMEOUT_MS,
  );

  test('what a crash left behind is garbage, and a new try does not trip over it', async () => {
    const leftover = path.join(pool.directory, PROJECT, 'again');
    await mkdir(path.join(leftover, 'pgdata', 'base'), { recursive: true });
    await writeFile(path.join(leftover, 'timeline.json.tmp'), '{');
    await mkdir(path.join(pool.directory, 'trash', 'old-1'));
    const { garbage } = await engine.storage.listTimelines();
    expect(garbage.toSorted()).toEqual([leftover, path.join(pool.directory, 'trash', 'old-1')].toSorted());
    await engine.child('again', 'main');
    // Made in the meantime: no garbage any more, whatever the list says.
    await engine.storage.removeGarbage([...garbage, path.join(pool.directory, PROJECT, 'main'), '/etc']);
    expect(await engine.storage.readTimeline(ref('again'))).toBeDefined();
    expect(await engine.storage.readTimeline(ref('main'))).toBeDefined();
    expect((await engine.storage.listTimelines()).garbage).toEqual([]);
  });

  test('creating twice is creating once', async () => {
    const [first, second] = await Promise.all([engine.child('twice', 'main'), engine.child('twice', 'main')]);
    expect(second).toEqual(first);
    expect(await engine.root('main')).toEqual(await engine.storage.readTimeline(ref('main')));
  });

  test('children of one parent at once, while others are deleted', async () => {
    await Promise.all(Array.from({ length: 8 }, (_item, n) => engine.child(`crowd-${n}`, 'main')));
    await Promise.all([
      ...Array.from({ length: 4 }, (_item, n) => engine.storage.deleteTimeline(ref(`crowd-${n}`))),
      ...Array.from({ length: 4 }, (_item, n) => engine.child(`later-${n}`, `crowd-${n + 4}`)),
    ]);
    const { timelines } = await engine.storage.listTimelines();
    const names = timelines.map(({ timelineId }) => timelineId);
    expect(names).toEqual(expect.arrayContaining(['crowd-4', 'later-3']));
    expect(names).not.toContain('crowd-0');
  });

  test('points outside of the history are refused', async () => {
    const at = (lsn: string) =>
      engine.storage.createChildTimeline({
        ...ref('past'),
        parentTimelineId: 'main',
        owner: engine.owner,
        point: { kind: 'lsn', lsn },
      });
    await expect(at('0/1')).rejects.toMatchObject({ kind: 'unprocessable' });
    expect(await engine.storage.readTimeline(ref('past'))).toBeUndefined();
  });

  test('a point in the past that a base can serve is exact', async () => {
    await engine.start('main');
    await engine.sql('main', 'insert into public.notes values (1000)');
    const [[lsn]] = (await engine.sql('main', 'select pg_current_wal_flush_lsn()')) as [[string]];
    await engine.sql('main', 'insert into public.notes values (1001)');
    const point = { kind: 'lsn', lsn } as const;
    const record = await engine.storage.createChildTimeline({
      ...ref('then'),
      parentTimelineId: 'main',
      owner: engine.owner,
      point,
    });
    expect(record).toMatchObject({ recovery: 'replay', branchLsn: lsn });
    await engine.stop('main');
    await engine.start('then');
    expect(await engine.sql('then', 'select max(n) from public.notes')).toEqual([['1000']]);
    await engine.stop('then');
  });
});

describe.skipIf(missing !== '')(`a small pool ${missing}`, () => {
  test('refuses new timelines first, frees its reserve when full, and recovers by itself', async () => {
    const pool = await makePool('xfs', { sizeBytes: 1024 ** 3 });
    const engine = await makeEngine({ pool: pool.directory });
    const filler = path.join(pool.directory, 'filler');
    const fillTo = async (freeBytes: number) => {
      const status = await engine.storage.poolStatus();
      const handle = await open(filler, 'a');
      const block = Buffer.alloc(1024 ** 2, 1);
      for (let left = status.freeBytes - freeBytes; left > 0; left -= block.length) await handle.write(block);
      await handle.sync();
      await handle.close();
    };
    try {
      await engine.root('main');
      const healthy = await engine.storage.poolStatus();
      expect(healthy.watermark).toBe('ok');
      await engine.storage.poolStatus();
      expect((await stat(path.join(pool.directory, 'reserve'))).size).toBeGreaterThan(0);
      await fillTo(healthy.totalBytes * 0.06);
      expect((await engine.storage.poolStatus()).watermark).toBe('high');
      await expect(engine.child('child', 'main')).rejects.toMatchObject({
        kind: 'unavailable',
        message: /almost full/,
      });
      await fillTo(healthy.totalBytes * 0.02);
      expect((await engine.storage.poolStatus()).watermark).toBe('full');
      expect(await readdir(pool.directory)).not.toContain('reserve');
      expect((await engine.storage.poolStatus()).watermark).toBe('full');
      await rm(filler);
      // XFS gives the blocks of a deleted file back in the background.
      await expect.poll(async () => (await engine.storage.poolStatus()).watermark).toBe('ok');
      await engine.child('child', 'main');
      expect(await readdir(pool.directory)).toContain('reserve');
    } finally {
      await engine.close();
      await pool.remove();
    }
  });

  test('rewrites fragmented files after suspend, beside clones, and gives way to a start', async () => {
    const pool = await makePool('xfs');
    const engine = await makeEngine({ pool: pool.directory });
    try {
      await engine.root('main');
      await engine.start('main');
      await engine.sql(
        'main',
        'create table public.wide as select n, repeat(md5(n::text), 20) as t from generate_series(1, 150000) n',
      );
      await engine.stop('main');
      await engine.child('keeper', 'main');
      const pgdata = engine.storage.dataDirectory(ref('main'));
      const largest = (await fragmentation(pgdata)).toSorted((a, b) => b.sizeBytes - a.sizeBytes)[0]!;
      await shatter(largest.file, largest.sizeBytes);
      expect((await engine.storage.size(ref('main'))).extents).toBeGreaterThan(EXTENT_BUDGET);
      const work = engine.storage.afterSuspend(ref('main'));
      await engine.storage.withDataDirectory(ref('main'), async () => undefined);
      await work;
      expect(await readdir(path.dirname(largest.file))).not.toContainEqual(expect.stringContaining('rewrite'));
      const again = engine.storage.afterSuspend(ref('main'));
      // Clones neither wait for it nor stop it.
      await engine.child('meanwhile', 'main');
      await again;
      expect((await engine.storage.size(ref('main'))).extents).toBeLessThan(EXTENT_BUDGET / 10);
      await engine.start('meanwhile');
      expect(await engine.sql('meanwhile', 'select count(*), sum(length(t)) from public.wide')).toEqual([
        ['150000', '96000000'],
      ]);
      await engine.stop('meanwhile');
      await engine.start('main');
      expect(await engine.sql('main', 'select count(*), sum(length(t)) from public.wide')).toEqual([
        ['150000', '96000000'],
      ]);
    } finally {
      await engine.close();
      await pool.remove();
    }
  });
});

/** Writes every second page of a shared file back to itself, as random updates would. */
async function shatter(file: string, sizeBytes: number): Promise<void> {
  const handle = await open(file, 'r+');
  const page = Buffer.alloc(4096);
  for (let offset = 0; offset + 8192 <= sizeBytes; offset += 8192) {
    await handle.read(page, 0, page.length, offset);
    await handle.write(page, 0, page.length, offset);
  }
  await handle.sync();
  await handle.close();
}
