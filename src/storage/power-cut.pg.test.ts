/**
 * What survives a power cut: the pool is a file system in an image on a file system with reflinks, the image is cloned
 * at one moment, and the clone is mounted as the machine would find it after the power came back.
 *
 * The other half proves that the first half can fail: each sync that storage does is left out once, and then
 * something that was promised is gone.
 */
import { readFile, readdir } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeEngine, ref } from '../../test/support/engine.ts';
import type { Engine } from '../../test/support/engine.ts';
import { cutPower, makePool, missingFor } from '../../test/support/pool.ts';
import type { PoolKind, TestPool } from '../../test/support/pool.ts';
import { durable, durableWithout } from '../lib/durable.ts';
import type { Durable, SyncStep } from '../lib/durable.ts';
import type { AppError } from '../lib/errors.ts';

const missing = missingFor('xfs') || missingFor('btrfs');
const ROWS = 2000;

describe.skipIf(missing !== '')(`power cut ${missing}`, () => {
  let outer: TestPool;

  beforeAll(async () => {
    outer = await makePool('xfs', { sizeBytes: 12 * 1024 ** 3 });
  });
  afterAll(async () => {
    await outer?.remove();
  });

  async function engineOn(kind: PoolKind, files: Durable): Promise<{ pool: TestPool; engine: Engine; shared: string }> {
    const pool = await makePool(kind, { parent: outer.directory, sizeBytes: 2 * 1024 ** 3 });
    const shared = `${outer.directory}/postgres`;
    const engine = await makeEngine({ pool: pool.directory, shared, storage: { durable: files } });
    return { pool, engine, shared };
  }

  /** Runs `work` on a pool, cuts the power right after, and returns an engine on what is left. */
  async function afterCut<T>(
    kind: PoolKind,
    files: Durable,
    work: (engine: Engine) => Promise<unknown>,
    look: (engine: Engine) => Promise<T>,
  ): Promise<T> {
    const { pool, engine, shared } = await engineOn(kind, files);
    try {
      await work(engine);
      const left = await cutPower(pool);
      const later = await makeEngine({ pool: left.directory, shared });
      try {
        return await look(later);
      } finally {
        await later.close();
        await left.remove();
      }
    } finally {
      await engine.close();
      await pool.remove();
    }
  }

  /** A parent that is at rest and durable, whatever steps are left out afterwards. */
  async function parentAtRest(engine: Engine): Promise<void> {
    await engine.root('main');
    await engine.start('main');
    await fill(engine, 'main');
    await engine.stop('main');
    await engine.syncPool();
  }

  const fill = (engine: Engine, timelineId: string) =>
    engine.sql(timelineId, `create table public.facts as select generate_series(1, ${ROWS}) as n; select 1`);

  async function rowsOf(engine: Engine, timelineId: string): Promise<string> {
    const record = await engine.storage.readTimeline(ref(timelineId));
    if (!record) return 'no timeline';
    try {
      await engine.start(timelineId);
      await engine.sql(timelineId, 'create table if not exists public.facts (n int)');
      return (await engine.sql(timelineId, 'select count(*) from public.facts'))[0]![0]!;
    } catch (error) {
      return `does not start: ${String(error)} ${(error as AppError).internal ?? ''}`;
    } finally {
      await engine.stop(timelineId);
    }
  }

  const scenarios: Record<string, { work: (engine: Engine) => Promise<unknown>; timelineId: string; rows: number }> = {
    'new root': { work: (engine) => engine.root('main'), timelineId: 'main', rows: 0 },
    'child of a suspended parent': {
      work: async (engine) => {
        await parentAtRest(engine);
        await engine.child('child', 'main');
      },
      timelineId: 'child',
      rows: ROWS,
    },
    'child of a running parent': {
      work: async (engine) => {
        await parentAtRest(engine);
        await engine.start('main');
        await engine.sql('main', 'delete from public.facts where n <= 1000');
        await engine.sql('main', 'insert into public.facts select generate_series(5001, 6000)');
        await engine.child('child', 'main');
      },
      timelineId: 'child',
      rows: ROWS,
    },
    'recovered child of a running parent': {
      work: async (engine) => {
        await parentAtRest(engine);
        await engine.start('main');
        await engine.sql('main', 'create table public.more as select generate_series(1, 50000) as n');
        await engine.child('child', 'main');
        await engine.syncPool();
        await engine.start('child');
        // Once a client is in, what it commits must not be lost with the recovery beneath.
        await engine.sql('child', 'insert into public.facts values (0)');
      },
      timelineId: 'child',
      rows: ROWS + 1,
    },
  };

  describe.each(['xfs', 'btrfs'] as const)('on %s', (kind) => {
    test.each(Object.keys(scenarios))('%s', async (name) => {
      const { work, timelineId, rows } = scenarios[name]!;
      expect(await afterCut(kind, durable, work, (engine) => rowsOf(engine, timelineId))).toBe(String(rows));
    });
  });

  test('random moments: what was reported is there, the rest leaves nothing half visible', async () => {
    const { pool, engine, shared } = await engineOn('xfs', durable);
    try {
      await parentAtRest(engine);
      await engine.start('main');
      const finished = new Map<string, number>();
      let committed = ROWS;
      let stop = false;
      const writing = (async () => {
        while (!stop) {
          await engine.sql('main', `insert into public.facts values (${committed + 1})`);
          committed += 1;
        }
      })();
      const branching = (async () => {
        for (let n = 1; !stop; n += 1) {
          const atLeast = committed;
          await engine.child(`child-${n}`, 'main');
          finished.set(`child-${n}`, atLeast);
        }
      })();
      for (let moment = 1; moment <= 3; moment += 1) {
        await sleep(200 + Math.random() * 600);
        const reported = new Map(finished);
        const mainHad = committed;
        const left = await cutPower(pool);
        await checkAfterCut(left, shared, reported, mainHad);
      }
      stop = true;
      await Promise.all([writing, branching]);
    } finally {
      await engine.close();
      await pool.remove();
    }
  });

  async function checkAfterCut(
    left: TestPool,
    shared: string,
    reported: Map<string, number>,
    mainHad: number,
  ): Promise<void> {
    const engine = await makeEngine({ pool: left.directory, shared });
    try {
      const { timelines, garbage } = await engine.storage.listTimelines();
      await engine.storage.removeGarbage(garbage);
      const there = timelines.map(({ timelineId }) => timelineId);
      expect(there).toEqual(expect.arrayContaining([...reported.keys()]));
      for (const [timelineId, atLeast] of [...reported, ['main', mainHad] as const].slice(-3)) {
        expect(Number(await rowsOf(engine, timelineId))).toBeGreaterThanOrEqual(atLeast);
      }
      expect((await engine.storage.listTimelines()).garbage).toEqual([]);
    } finally {
      await engine.close();
      await left.remove();
    }
  }

  test.each(['xfs', 'btrfs'] as const)('a first start that was interrupted on %s begins again', async (kind) => {
    const { pool, engine, shared } = await engineOn(kind, durable);
    try {
      await parentAtRest(engine);
      await engine.start('main');
      await engine.sql('main', 'create table public.more as select generate_series(1, 50000) as n');
      await engine.child('child', 'main');
      await engine.syncPool();
      // Recovery ends, a checkpoint without fsync claims that all is well, and the control file alone gets to the disk.
      await engine.startUnfinished('child');
      await durable.file(
        'recovered-file',
        path.join(engine.storage.dataDirectory(ref('child')), 'global', 'pg_control'),
      );
      const left = await cutPower(pool);
      const later = await makeEngine({ pool: left.directory, shared, storage: { bootId: 'another' } });
      try {
        expect(await later.child('grandchild', 'child')).toMatchObject({ recovery: 'replay' });
        for (const timelineId of ['child', 'grandchild']) {
          expect(await rowsOf(later, timelineId)).toBe(String(ROWS));
          await later.start(timelineId);
          expect(await later.sql(timelineId, 'select count(*) from public.more')).toEqual([['50000']]);
          await later.stop(timelineId);
        }
        const names = await readdir(path.dirname(later.storage.dataDirectory(ref('child'))));
        expect(names.toSorted()).toEqual(['bases', 'pgdata', 'timeline.json', 'wal']);
      } finally {
        await later.close();
        await left.remove();
      }
    } finally {
      await engine.close();
      await pool.remove();
    }
  });

  describe('a sync left out is found', () => {
    test.each([
      { left: 'nothing', files: durable, usable: 1 },
      { left: 'base', files: durableWithout(['base']), usable: 0 },
    ])('bases that can be used when $left was left out', async ({ files, usable }) => {
      const work = async (engine: Engine) => {
        await parentAtRest(engine);
        await engine.child('child', 'main');
        // Only a timeline without a template of its own needs a base.
        await engine.start('child');
        await engine.child('grandchild', 'child');
      };
      const look = async (engine: Engine) => {
        const root = path.dirname(engine.storage.dataDirectory(ref('child')));
        const files = await readdir(path.join(root, 'bases'));
        const records = await Promise.all(
          files.map((name) => readFile(path.join(root, 'bases', name, 'base.json'), 'utf8')),
        );
        return records.filter((record) => record.trim() !== '').length;
      };
      expect(await afterCut('xfs', files, work, look)).toBe(usable);
    });

    const steps: { kind: PoolKind; step: SyncStep; scenario: string }[] = [
      { kind: 'xfs', step: 'timeline-record', scenario: 'child of a suspended parent' },
      { kind: 'xfs', step: 'written-file', scenario: 'child of a running parent' },
      { kind: 'xfs', step: 'recovered-file', scenario: 'recovered child of a running parent' },
      { kind: 'btrfs', step: 'timeline-record', scenario: 'child of a suspended parent' },
      { kind: 'btrfs', step: 'cloned-directory', scenario: 'new root' },
      { kind: 'btrfs', step: 'recovered-file', scenario: 'recovered child of a running parent' },
    ];
    test.each(steps)('$step of a $scenario on $kind', async ({ kind, step, scenario }) => {
      const { work, timelineId, rows } = scenarios[scenario]!;
      const found = await afterCut(kind, durableWithout([step]), work, (engine) => rowsOf(engine, timelineId));
      expect(found).not.toBe(String(rows));
    });
  });
});
