/**
 * Queries on `backup_schedules`: which snapshots a branch gets by itself.
 */
import type { BackupScheduleRow, JsonObject, Queryable, Timestamp } from './types.ts';

export async function findBackupSchedule(db: Queryable, branchId: string): Promise<BackupScheduleRow | undefined> {
  const rows = await db.query<BackupScheduleRow>('select * from backup_schedules where branch_id = $1', [branchId]);
  return rows[0];
}

/** What was due before `now` is not made up for. An empty schedule is none. */
export async function putBackupSchedule(
  tx: Queryable,
  schedule: { branchId: string; projectId: string; items: readonly JsonObject[]; now: Timestamp },
): Promise<void> {
  if (schedule.items.length === 0) {
    await tx.query('delete from backup_schedules where branch_id = $1', [schedule.branchId]);
    return;
  }
  await tx.query(
    `insert into backup_schedules (branch_id, project_id, schedule, last_run_at) values ($1, $2, $3::jsonb, $4)
     on conflict (branch_id) do update set schedule = excluded.schedule, last_run_at = excluded.last_run_at,
       updated_at = now()`,
    [schedule.branchId, schedule.projectId, JSON.stringify(schedule.items), schedule.now],
  );
}

/** The branch that took the place of another one is backed up from then on. */
export async function moveBackupSchedule(tx: Queryable, from: string, to: string): Promise<void> {
  await tx.query(
    `update backup_schedules set branch_id = $2 where branch_id = $1
       and not exists (select 1 from backup_schedules where branch_id = $2)`,
    [from, to],
  );
}

export interface WatchedSchedule extends BackupScheduleRow {
  branchName: string;
  timelineId: string;
}

/** Of the branches of the node that are there and can be cloned. */
export async function backupSchedules(db: Queryable, nodeId: string): Promise<WatchedSchedule[]> {
  return db.query<WatchedSchedule>(
    `${WATCHED} where p.node_id = $1 and p.deleted_at is null and b.deleted_at is null
       and b.current_state in ('ready', 'archived') order by s.branch_id`,
    [nodeId],
  );
}

/** As it is now, in a transaction that has the project's row. */
export async function readSchedule(tx: Queryable, branchId: string): Promise<WatchedSchedule | undefined> {
  const [row] = await tx.query<WatchedSchedule>(
    `${WATCHED} where s.branch_id = $1 and b.deleted_at is null and b.current_state in ('ready', 'archived')`,
    [branchId],
  );
  return row;
}

const WATCHED = `select s.*, b.name as branch_name, b.timeline_id from backup_schedules s
  join branches b on b.id = s.branch_id join projects p on p.id = b.project_id`;

export async function recordScheduleRun(tx: Queryable, branchId: string, at: Timestamp): Promise<void> {
  await tx.query('update backup_schedules set last_run_at = $2 where branch_id = $1', [branchId, at]);
}
