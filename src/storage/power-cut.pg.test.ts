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
import { MAJOR, makeEngine, ref } from '../../test/support/engine.ts';
import type { Engine } from '../../test/support/engine.ts';
import { cutPower, makePool, missingFor } from '../../test/support/pool.ts';
import type { PoolKind, TestPool } from '../../test/support/pool.ts';
import { waitFor } from '../../test/support/wait.ts';
import { durable, durableWithout } from '../lib/durable.ts';
import type { Durable, SyncStep } from '../lib/durable.ts';
import type { AppError } from '../lib/errors.ts';
import { scanWal } from '../postgres/wal.ts';

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

  interface Scenario {
    work: (engine: Engine) => Promise<unknown>;
    /** What is done with what is left before `timelineId` is looked at. */
    after?: (engine: Engine) => Promise<unknown>;
    timelineId: string;
    rows: number;
  }

  const lsnOf = async (engine: Engine, timelineId: string) =>
    (await engine.sql(timelineId, 'select pg_current_wal_flush_lsn()'))[0]![0]!;
  /** More WAL than a replay shall ever go through: the next base is due. */
  const writeMuch = (engine: Engine, timelineId: string) =>
    engine.sql(timelineId, `insert into public.bulk select repeat(md5(n::text), 20) from generate_series(1, 30000) n`);
  /** The moment before the rows went, to which a test goes back. */
  let past = '';

  async function parentWithAPast(engine: Engine): Promise<void> {
    await parentAtRest(engine);
    await engine.start('main');
    past = await lsnOf(engine, 'main');
    await engine.sql('main', 'delete from public.facts');
    await engine.sql('main', 'create table public.bulk (filler text)');
  }

  const scenarios: Record<string, Scenario> = {
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
    'child at a point in the past': {
      work: async (engine) => {
        await parentWithAPast(engine);
        await engine.child('child', 'main', past);
      },
      timelineId: 'child',
      rows: ROWS,
    },
    'snapshot, and a branch of it': {
      work: async (engine) => {
        await parentWithAPast(engine);
        const point = { kind: 'lsn', lsn: past } as const;
        const spec = { ...ref('snapshot'), parentTimelineId: 'main', owner: engine.owner, point };
        await engine.storage.createChildTimeline({ ...spec, kind: 'snapshot' });
      },
      after: (engine) => engine.child('child', 'snapshot'),
      timelineId: 'child',
      rows: ROWS,
    },
    'point within a window that was trimmed': {
      work: async (engine) => {
        await parentAtRest(engine);
        await engine.start('main');
        await engine.sql('main', 'create table public.bulk (filler text)');
        await writeMuch(engine, 'main');
        await engine.child('due', 'main');
        past = await lsnOf(engine, 'main');
        await engine.sql('main', 'delete from public.facts');
        await writeMuch(engine, 'main');
        await engine.storage.trimHistory(ref('main'), { startMs: Date.now(), pinned: [past] });
        await engine.syncPool();
        await engine.sql('main', 'insert into public.bulk select pg_switch_wal()::text');
      },
      after: (engine) => engine.child('child', 'main', past),
      timelineId: 'child',
      rows: ROWS,
    },
    'past of a branch whose origin was deleted': {
      work: async (engine) => {
        await parentAtRest(engine);
        await engine.child('branch', 'main');
        await engine.start('branch');
        past = await lsnOf(engine, 'branch');
        await engine.sql('branch', 'delete from public.facts');
        await engine.syncPool();
        await engine.storage.deleteTimeline(ref('main'));
      },
      after: (engine) => engine.child('child', 'branch', past),
      timelineId: 'child',
      rows: ROWS,
    },
  };

  describe.each(['xfs', 'btrfs'] as const)('on %s', (kind) => {
    test.each(Object.keys(scenarios))('%s', async (name) => {
      const { work, after, timelineId, rows } = scenarios[name]!;
      const look = async (engine: Engine) => {
        await after?.(engine);
        return rowsOf(engine, timelineId);
      };
      expect(await afterCut(kind, durable, work, look)).toBe(String(rows));
    });

    test('archived WAL is whole', async () => {
      const work = async (engine: Engine) => {
        await parentWithAPast(engine);
        for (let n = 0; n < 3; n += 1) await writeMuch(engine, 'main');
        await waitFor('segments to be archived', async () => (await segmentsOf(engine)).length >= 8);
      };
      const segmentsOf = async (engine: Engine) =>
        (await readdir(engine.storage.walDirectory(ref('main')))).filter((name) => /^[0-9A-F]{24}$/.test(name));
      const records = await afterCut(kind, durable, work, async (engine) => {
        const directory = engine.storage.walDirectory(ref('main'));
        const names = (await segmentsOf(engine)).toSorted();
        const segmentSizeBytes = 4 * 1024 * 1024;
        const first = Number.parseInt(names[0]!.slice(16), 16);
        const readSegment = async (number: number) => {
          const name = names[number - first];
          return name === undefined ? undefined : readFile(path.join(directory, name));
        };
        const source = { major: MAJOR, segmentSizeBytes, readSegment };
        const fromLsn = BigInt(first) * BigInt(segmentSizeBytes);
        const scan = await scanWal(source, { fromLsn, verify: true });
        // The last record of the last segment may go on in one that was not archived yet.
        return { names: names.length, whole: Number(scan.endLsn - fromLsn) / segmentSizeBytes };
      });
      expect(records.whole).toBeGreaterThan(records.names - 1);
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
        await engine.sql('child', 'create table public.bulk (filler text)');
        await writeMuch(engine, 'child');
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
