/**
 * Takes the snapshots that backup schedules ask for. Times are UTC. After a pause (Ballast was off, the pool was full)
 * what was missed is made up for by one snapshot, however much it was; what is due at the same time by several entries
 * is one snapshot, too, kept for the longest of their times.
 */
import { backupSchedules, readSchedule, recordScheduleRun, type WatchedSchedule } from '../catalog/backup-schedules.ts';
import type { CatalogDatabase } from '../catalog/database.ts';
import { lockProject } from '../catalog/projects.ts';
import { pendingRestore } from '../catalog/restores.ts';
import { insertSnapshot, snapshotPayload } from '../catalog/snapshots.ts';
import { newSnapshotId } from '../lib/ids.ts';
import type { Logger } from '../lib/log.ts';
import { lastOccurrence, type Recurrence } from '../lib/schedule.ts';
import type { OperationQueue } from '../operations/types.ts';
import type { Storage } from '../storage/types.ts';
import type { Reconciler } from './reconciler.ts';

export interface BackupSchedulesOptions {
  catalog: CatalogDatabase;
  queue: OperationQueue;
  storage: Pick<Storage, 'assertRoomForTimeline'>;
  nodeId: string;
  logger: Logger;
  now?: () => Date;
}

/** Of entries that do not say for how long: 35 days. */
const DEFAULT_RETENTION_SECONDS = 3_024_000;

type Entry = Recurrence & { retention_seconds?: number };

export function runBackupSchedules(options: BackupSchedulesOptions): Reconciler {
  const { catalog, nodeId, logger, now = () => new Date() } = options;
  return {
    name: 'run-backup-schedules',
    everyMs: 10_000,
    run: async () => {
      const at = now();
      for (const schedule of await backupSchedules(catalog, nodeId)) {
        if (!due(schedule, at)) continue;
        try {
          await runOne(options, schedule, at);
        } catch (error) {
          // It stays due. One that cannot be backed up must not keep the others from it.
          logger.warn({ err: error, branch: schedule.branchId }, 'a backup could not be taken');
        }
      }
    },
  };
}

async function runOne(options: BackupSchedulesOptions, seen: WatchedSchedule, at: Date): Promise<void> {
  const { catalog, queue, storage, logger } = options;
  await storage.assertRoomForTimeline();
  const { branchId, projectId } = seen;
  const id = newSnapshotId();
  const taken = await catalog.transaction(async (tx) => {
    if (!(await lockProject(tx, projectId))) return false;
    const schedule = await readSchedule(tx, branchId);
    const entry = schedule && due(schedule, at);
    // Its data is about to be another: the next run takes that.
    if (!schedule || !entry || (await pendingRestore(tx, { id: branchId, projectId }))) return false;
    const retentionMs = retentionOf(entry) * 1_000;
    const snapshot = await insertSnapshot(tx, {
      id,
      projectId,
      sourceBranchId: branchId,
      name: `${schedule.branchName} ${at.toISOString().slice(0, 19)}Z (${entry.frequency})`,
      slug: null,
      manual: false,
      lsn: null,
      pointTimestamp: null,
      expiresAt: new Date(at.getTime() + retentionMs).toISOString(),
      createdBy: null,
    });
    const payload = snapshotPayload(snapshot, { parentTimelineId: schedule.timelineId });
    await queue.append(tx, [{ projectId, branchId, action: 'create_branch', payload }]);
    await recordScheduleRun(tx, branchId, at.toISOString());
    return true;
  });
  if (!taken) return;
  logger.info({ snapshot: id, branch: branchId }, 'taking a scheduled snapshot');
  queue.poke();
}

/** Of the entries whose time has come since the last run, the one that keeps for longest. */
function due(schedule: WatchedSchedule, at: Date): Entry | undefined {
  const lastRunMs = Date.parse(schedule.lastRunAt ?? schedule.updatedAt);
  const entries = (schedule.schedule as unknown as Entry[]).filter(
    (entry) => lastOccurrence(entry, at.getTime()) > lastRunMs,
  );
  return entries.toSorted((a, b) => retentionOf(b) - retentionOf(a))[0];
}

const retentionOf = (entry: Entry): number => entry.retention_seconds ?? DEFAULT_RETENTION_SECONDS;
