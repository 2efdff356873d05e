import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openTestCatalog, type TestCatalog } from '../../test/support/catalog.ts';
import { insertBranch, insertProject, type TestBranch } from '../../test/support/catalog-rows.ts';
import { createFakeEngine, type FakeEngine } from '../../test/support/fake-engine.ts';
import { makeTestOperations, TEST_NODE, type TestOperations } from '../../test/support/operations.ts';
import { waitFor } from '../../test/support/wait.ts';
import { putBackupSchedule } from '../catalog/backup-schedules.ts';
import { insertSnapshot, listSnapshots, snapshotPayload } from '../catalog/snapshots.ts';
import type { JsonObject, SnapshotRow } from '../catalog/types.ts';
import { AppError } from '../lib/errors.ts';
import { newSnapshotId } from '../lib/ids.ts';
import { silentLogger } from '../lib/log.ts';
import { runBackupSchedules } from './backup-schedules.ts';
import { expireSnapshots, measureSnapshots } from './snapshots.ts';

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

let db: TestCatalog;
let engine: FakeEngine;
let operations: TestOperations;
let branch: TestBranch;
let nowMs: number;
let options: Parameters<typeof runBackupSchedules>[0] & Parameters<typeof expireSnapshots>[0];

beforeAll(async () => {
  db = await openTestCatalog();
});
afterAll(() => db.close());
beforeEach(async () => {
  engine = createFakeEngine();
  operations = makeTestOperations({ catalog: db.catalog, engine });
  nowMs = Date.parse('2026-01-01T00:30:00Z');
  options = {
    catalog: db.catalog,
    queue: operations.queue,
    storage: engine.storage,
    nodeId: TEST_NODE,
    logger: silentLogger(),
    now: () => new Date(nowMs),
  };
  // Rows of earlier tests would be due, too.
  await db.catalog.query(`update projects set node_id = 'another'`);
  const { projectId } = await insertProject(db.catalog, TEST_NODE);
  branch = await insertBranch(db.catalog, projectId);
  await engine.storage.createRootTimeline({
    projectId,
    timelineId: branch.branchId,
    pgVersion: 17,
    owner: undefined,
  });
});
afterEach(() => operations.stop());

const schedule = (items: JsonObject[]) =>
  putBackupSchedule(db.catalog, {
    branchId: branch.branchId,
    projectId: branch.projectId,
    items,
    now: new Date(nowMs).toISOString(),
  });
const snapshots = async () => (await listSnapshots(db.catalog, branch.projectId)).toReversed();
/** Names begin with the branch's, and tell when they were taken. */
const takenAt = (row: SnapshotRow) => row.name.split(' ')[1];
const atRest = () =>
  waitFor('the operations', async () => {
    const [row] = await db.catalog.query<{ count: number }>(
      `select count(*) as count from operations where project_id = $1 and finished_at is null`,
      [branch.projectId],
    );
    return row!.count === 0;
  });

describe('run-backup-schedules', () => {
  test('a year of every frequency: each time once, at its time, for as long as it says', async () => {
    await schedule([
      { frequency: 'daily', hour: 3, retention_seconds: (7 * DAY_MS) / 1_000 },
      { frequency: 'weekly', day: 7, hour: 5, retention_seconds: (28 * DAY_MS) / 1_000 },
      { frequency: 'monthly', day: 31, hour: 3, retention_seconds: (90 * DAY_MS) / 1_000 },
      { frequency: 'yearly', month: 7, day: 1, hour: 3 },
    ]);
    const reconciler = runBackupSchedules(options);
    const expiry = expireSnapshots(options);
    const end = nowMs + 365 * DAY_MS;
    const seen = new Map<string, SnapshotRow>();
    for (; nowMs < end; nowMs += HOUR_MS) {
      // Nothing is due in the other hours, and a year is long.
      if (new Date(nowMs).getUTCHours() > 5) continue;
      await reconciler.run();
      // Looking again at the same time finds nothing to do.
      if (new Date(nowMs).getUTCHours() === 3) await reconciler.run();
      for (const row of await snapshots()) seen.set(row.id, row);
      await db.catalog.query(`update snapshots set state = 'ready' where state = 'init'`);
      await db.catalog.query(
        `update operations set status = 'finished', finished_at = now() where finished_at is null`,
      );
      await expiry.run();
      for (const row of await snapshots()) expect(Date.parse(row.expiresAt!)).toBeGreaterThan(nowMs);
    }
    const rows = [...seen.values()];
    // 365 days at 3 o'clock, 52 Sundays at 5; the ends of months and July 1 coincide with a day's.
    expect(rows.filter((row) => takenAt(row)!.includes('T03:30'))).toHaveLength(365);
    expect(rows.filter((row) => takenAt(row)!.includes('T05:30'))).toHaveLength(52);
    expect(rows).toHaveLength(417);
    const monthly = rows.filter((row) => row.name.endsWith('(monthly)')).map((row) => takenAt(row)!.slice(5, 10));
    expect(monthly).toEqual([
      ...['01-31', '02-28', '03-31', '04-30', '05-31', '06-30'],
      ...['07-31', '08-31', '09-30', '10-31', '11-30', '12-31'],
    ]);
    const [yearly, ...more] = rows.filter((row) => row.name.endsWith('(yearly)'));
    expect([takenAt(yearly!), more]).toEqual(['2026-07-01T03:30:00Z', []]);
    expect(Date.parse(yearly!.expiresAt!) - Date.parse('2026-07-01T03:30:00Z')).toBe(35 * DAY_MS);
    expect(rows.every((row) => !row.manual)).toBe(true);
    // What is there at the end is what is kept at the end: a week of days, four weeks, three months.
    const left = await snapshots();
    expect(left.filter((row) => row.name.endsWith('(daily)')).length).toBeLessThanOrEqual(7);
    expect(left.filter((row) => row.name.endsWith('(weekly)'))).toHaveLength(4);
    expect(left.filter((row) => row.name.endsWith('(monthly)'))).toHaveLength(3);
  }, 300_000);

  test('hourly, and after a downtime exactly one', async () => {
    await schedule([{ frequency: 'hourly' }]);
    const reconciler = runBackupSchedules(options);
    await reconciler.run();
    // What was due before the schedule is not made up for.
    expect(await snapshots()).toEqual([]);
    nowMs += HOUR_MS / 2;
    await reconciler.run();
    nowMs += 47.6 * HOUR_MS;
    await reconciler.run();
    await reconciler.run();
    expect((await snapshots()).map(takenAt)).toEqual(['2026-01-01T01:00:00Z', '2026-01-03T00:36:00Z']);
    nowMs += 0.4 * HOUR_MS;
    await reconciler.run();
    expect(await snapshots()).toHaveLength(3);
  });

  test('the snapshots are made by the runner', async () => {
    await operations.runner.start();
    await schedule([{ frequency: 'hourly' }]);
    nowMs += HOUR_MS;
    await runBackupSchedules(options).run();
    await atRest();
    const [row] = await snapshots();
    expect(row).toMatchObject({ state: 'ready', lsn: '0/1964258' });
    expect(engine.timelines.get(row!.id)).toMatchObject({ kind: 'snapshot', parentTimelineId: branch.branchId });
  });

  test('a pool without room: it stays due; branches that cannot be cloned are left alone', async () => {
    await schedule([{ frequency: 'hourly' }]);
    nowMs += HOUR_MS;
    let full = true;
    const storage = {
      assertRoomForTimeline: async () => {
        if (full) throw new AppError('unavailable', 'full');
      },
    };
    const reconciler = runBackupSchedules({ ...options, storage });
    await reconciler.run();
    expect(await snapshots()).toEqual([]);
    full = false;
    await db.catalog.query(`update branches set current_state = 'resetting' where id = $1`, [branch.branchId]);
    await reconciler.run();
    expect(await snapshots()).toEqual([]);
    await db.catalog.query(`update branches set current_state = 'ready' where id = $1`, [branch.branchId]);
    await reconciler.run();
    expect(await snapshots()).toHaveLength(1);
    await db.catalog.query(`update branches set deleted_at = now() where id = $1`, [branch.branchId]);
    nowMs += HOUR_MS;
    await reconciler.run();
    expect(await snapshots()).toHaveLength(1);
  });
});

describe('expire-snapshots and measure-snapshots', () => {
  const take = async (expiresAt: string | null) => {
    const snapshot = await insertSnapshot(db.catalog, {
      id: newSnapshotId(),
      projectId: branch.projectId,
      sourceBranchId: branch.branchId,
      name: 'x',
      slug: null,
      manual: true,
      lsn: null,
      pointTimestamp: null,
      expiresAt,
      createdBy: null,
    });
    const payload = snapshotPayload(snapshot, { parentTimelineId: branch.branchId });
    const place = { projectId: branch.projectId, branchId: branch.branchId };
    await db.catalog.transaction((tx) => operations.queue.append(tx, [{ ...place, action: 'create_branch', payload }]));
    operations.queue.poke();
    return snapshot.id;
  };

  test('the data goes with the row, and not before', async () => {
    await operations.runner.start();
    const soon = await take(new Date(nowMs + HOUR_MS).toISOString());
    const never = await take(null);
    await atRest();
    const reconciler = expireSnapshots(options);
    await reconciler.run();
    expect(engine.timelines.has(soon)).toBe(true);
    nowMs += HOUR_MS;
    await reconciler.run();
    await atRest();
    expect(engine.timelines.has(soon)).toBe(false);
    expect((await snapshots()).map(({ id }) => id)).toEqual([never]);
    expect(engine.timelines.has(never)).toBe(true);
  });

  test('one that is being restored waits', async () => {
    const id = await take(new Date(nowMs).toISOString());
    await db.catalog.query(`update snapshots set state = 'ready'`);
    await db.catalog.query(`update operations set status = 'finished', finished_at = now()`);
    const other = await insertBranch(db.catalog, branch.projectId, { branchState: 'init' });
    const restoring = { projectId: branch.projectId, branchId: other.branchId, action: 'create_branch' } as const;
    await db.catalog.transaction((tx) =>
      operations.queue.append(tx, [{ ...restoring, payload: { parentTimelineId: id } }]),
    );
    const reconciler = expireSnapshots(options);
    await reconciler.run();
    expect(await snapshots()).toHaveLength(1);
    await db.catalog.query(`update operations set status = 'finished', finished_at = now()`);
    await reconciler.run();
    expect(await snapshots()).toEqual([]);
  });

  test('sizes are measured when it is made, and again later', async () => {
    await operations.runner.start();
    await take(null);
    const sizes = async () => (await snapshots()).map((row) => [row.fullSizeBytes, row.diffSizeBytes]);
    await waitFor('sizes', async () => (await sizes())[0]![0] !== null);
    expect(await sizes()).toEqual([[30_000_000, 1_000_000]]);
    const storage = { size: async () => ({ logicalBytes: 5, extents: 1 }), ownBytes: async () => undefined };
    await measureSnapshots({ ...options, storage }).run();
    expect(await sizes()).toEqual([[5, null]]);
  });
});
