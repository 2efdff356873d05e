/**
 * What survives a power cut: the pool is a file system in an image on a file system with reflinks, the image is cloned
 * at one moment, and the clone is mounted as the machine would find it after the power came back.
 *
 * The other half proves that the first half can fail: each sync that storage does is left out once, and then
 * something that was promised is gone.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeEngine, ref } from '../../test/support/engine.ts';
import type { Engine } from '../../test/support/engine.ts';
import { cutPower, makePool, missingFor } from '../../test/support/pool.ts';
import type { PoolKind, TestPool } from '../../test/support/pool.ts';
import { durable, durableWithout } from '../lib/durable.ts';
import type { Durable, SyncStep } from '../lib/durable.ts';

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

  const fill = (engine: Engine, branchId: string) =>
    engine.sql(branchId, `create table public.facts as select generate_series(1, ${ROWS}) as n; select 1`);

  async function rowsOf(engine: Engine, branchId: string): Promise<string> {
    const record = await engine.storage.readTimeline(ref(branchId));
    if (!record) return 'no timeline';
    try {
      await engine.start(branchId);
      return (await engine.sql(branchId, 'select count(*) from public.facts'))[0]![0]!;
    } catch (error) {
      return `does not start: ${String(error)}`;
    } finally {
      await engine.stop(branchId);
    }
  }

  const scenarios: Record<string, { work: (engine: Engine) => Promise<unknown>; branchId: string }> = {
    root: { work: (engine) => engine.root('main'), branchId: 'main' },
    'child of a suspended parent': {
      work: async (engine) => {
        await parentAtRest(engine);
        await engine.child('child', 'main');
      },
      branchId: 'child',
    },
    'child of a running parent': {
      work: async (engine) => {
        await parentAtRest(engine);
        await engine.start('main');
        await engine.sql('main', 'delete from public.facts where n <= 1000');
        await engine.sql('main', 'insert into public.facts select generate_series(5001, 6000)');
        await engine.child('child', 'main');
      },
      branchId: 'child',
    },
    'recovered child of a running parent': {
      work: async (engine) => {
        await parentAtRest(engine);
        await engine.start('main');
        await engine.sql('main', 'create table public.more as select generate_series(1, 50000) as n');
        await engine.child('child', 'main');
        await engine.syncPool();
        await engine.start('child');
      },
      branchId: 'child',
    },
  };

  describe.each(['xfs', 'btrfs'] as const)('on %s', (kind) => {
    test.each(Object.keys(scenarios))('%s', async (name) => {
      const { work, branchId } = scenarios[name]!;
      const rows = await afterCut(kind, durable, work, async (engine) => {
        if (branchId !== 'main') return rowsOf(engine, branchId);
        await engine.start('main');
        await fill(engine, 'main');
        return (await engine.sql('main', 'select count(*) from public.facts'))[0]![0];
      });
      expect(rows).toBe(String(ROWS));
    });
  });

  describe('a sync left out is found', () => {
    const steps: { kind: PoolKind; step: SyncStep; scenario: string }[] = [
      { kind: 'xfs', step: 'timeline-record', scenario: 'child of a suspended parent' },
      { kind: 'xfs', step: 'written-file', scenario: 'child of a running parent' },
      { kind: 'xfs', step: 'recovered-file', scenario: 'recovered child of a running parent' },
      { kind: 'btrfs', step: 'timeline-record', scenario: 'child of a suspended parent' },
      { kind: 'btrfs', step: 'written-file', scenario: 'child of a running parent' },
      { kind: 'btrfs', step: 'cloned-directory', scenario: 'child of a suspended parent' },
      { kind: 'btrfs', step: 'timeline-directory', scenario: 'child of a suspended parent' },
      { kind: 'btrfs', step: 'recovered-file', scenario: 'recovered child of a running parent' },
    ];
    test.each(steps)('$step of a $scenario on $kind', async ({ kind, step, scenario }) => {
      const { work, branchId } = scenarios[scenario]!;
      const rows = await afterCut(kind, durableWithout([step]), work, (engine) => rowsOf(engine, branchId));
      expect(rows).not.toBe(String(ROWS));
    });
  });
});
