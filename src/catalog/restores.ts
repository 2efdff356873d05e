/**
 * Restoring a branch, as rows. From the request on the branch is `resetting` and stands where it will stand: parent,
 * point and children are already moved. Its data stays what it was until the new timeline is there; only then the
 * branch and its backup change timelines, in one transaction. Giving up puts everything back.
 *
 * There is always a backup, because something has to stand for the data that is replaced: one that nobody asked to
 * preserve is deleted from birth. Until the end it names the timeline that is still to be made.
 */
import type { BranchRow, Queryable, Timestamp } from './types.ts';

const UNFINISHED = `('scheduling', 'running', 'cancelling')`;

/**
 * What the branch's rows of roles and databases become. `keep`: they are read from the data. `source`: they are those
 * of the source. `own`: databases and roles of the source, passwords of the branch, which are put into the data.
 * `own-keep`: as `keep`, but its passwords are put into the data.
 */
export type RestoredRows = 'keep' | 'own-keep' | 'source' | 'own';

/** Part of the payload of `create_branch`. */
export interface RestorePayload {
  /** The one that is to be made. */
  timelineId: string;
  backupId: string;
  preserved: boolean;
  sourceBranchId: string;
  rows: RestoredRows;
  before: Pick<BranchRow, 'currentState' | 'parentId' | 'parentLsn' | 'parentTimestamp' | 'expiresAt' | 'lastResetAt'>;
}

export async function beginRestore(
  tx: Queryable,
  id: string,
  place: { parentId: string | null; parentLsn: string | null; parentTimestamp: Timestamp | null },
): Promise<BranchRow> {
  const rows = await tx.query<BranchRow>(
    `update branches set current_state = 'resetting', pending_state = 'ready', state_changed_at = now(),
       updated_at = now(), last_reset_at = now(), parent_id = $2, parent_lsn = $3, parent_timestamp = $4,
       expires_at = case when ttl_interval_seconds is null then expires_at
         else date_trunc('second', now()) + ttl_interval_seconds * interval '1 second' end
     where id = $1 returning *`,
    [id, place.parentId, place.parentLsn, place.parentTimestamp],
  );
  return rows[0]!;
}

/** Takes the place of the branch in its lineage. `name` null: nobody asked for it. Call it before beginRestore. */
export async function insertBackup(
  tx: Queryable,
  branch: BranchRow,
  backup: { id: string; timelineId: string; name: string | null; createdBy: string },
): Promise<void> {
  await tx.query(
    `insert into branches (id, project_id, timeline_id, parent_id, name, current_state, is_default, protected,
       init_source, parent_lsn, parent_timestamp, logical_size_bytes, restored_from, created_by, deleted_at)
     select $2, project_id, $3, parent_id, coalesce($4, $2), 'ready', false, false,
       init_source, parent_lsn, parent_timestamp, logical_size_bytes, restored_from, $5,
       case when $4::text is null then now() end
     from branches where id = $1`,
    [branch.id, backup.id, backup.timelineId, backup.name, backup.createdBy],
  );
  if (backup.name === null) return;
  await moveChildren(tx, branch.id, backup.id);
  await copyRows(tx, branch.id, backup.id);
}

/** All of them, deleted ones too: what they were made from is now found there. */
async function moveChildren(tx: Queryable, from: string, to: string): Promise<void> {
  await tx.query('update branches set parent_id = $2 where parent_id = $1 and id <> $2', [from, to]);
}

const ROLE_COLUMNS = 'name, state, verifier, sealed_password, no_login, protected, plain, created_at, updated_at';
const DATABASE_COLUMNS = 'name, owner_name, state, applied_name, created_at, updated_at';

/** Roles and databases; those of the same name stay. */
async function copyRows(tx: Queryable, from: string, to: string): Promise<void> {
  await tx.query(
    `insert into roles (project_id, branch_id, ${ROLE_COLUMNS})
     select project_id, $2, ${ROLE_COLUMNS} from roles where branch_id = $1 on conflict (branch_id, name) do nothing`,
    [from, to],
  );
  await tx.query(
    `insert into databases (project_id, branch_id, ${DATABASE_COLUMNS})
     select project_id, $2, ${DATABASE_COLUMNS} from databases where branch_id = $1 order by id
     on conflict (branch_id, name) do nothing`,
    [from, to],
  );
}

/**
 * The restore that is under way for the branch, or that has it as its backup.
 */
export async function pendingRestore(
  db: Queryable,
  branch: Pick<BranchRow, 'id' | 'projectId'>,
): Promise<{ branchId: string; restore: RestorePayload } | undefined> {
  const [row] = await db.query<{ branchId: string; restore: RestorePayload }>(
    `select branch_id, payload -> 'restore' as restore from operations
     where status in ${UNFINISHED} and project_id = $1 and action = 'create_branch' and payload ? 'restore'
       and (branch_id = $2 or payload #>> '{restore,backupId}' = $2) limit 1`,
    [branch.projectId, branch.id],
    'pending_restore',
  );
  return row;
}

/**
 * Nothing that was pending (before `asked`, if given) is to be done to data of another time; what has been asked for since is.
 */
export async function forgetPending(tx: Queryable, branchId: string, asked?: Timestamp): Promise<void> {
  const values = [branchId, asked ?? 'infinity'];
  await tx.query(`delete from roles where branch_id = $1 and state = 'creating' and updated_at < $2`, values);
  await tx.query(
    `update roles set state = 'ready' where branch_id = $1 and state <> 'ready' and updated_at < $2`,
    values,
  );
  await tx.query(
    `delete from databases where branch_id = $1 and updated_at < $2 and (state = 'creating' or applied_name is not null)`,
    values,
  );
  await tx.query(
    `update databases set state = 'ready' where branch_id = $1 and state <> 'ready' and updated_at < $2`,
    values,
  );
}

/** The new timeline is there: from now on the branch has it, and the backup has the old one. */
export async function endRestore(
  tx: Queryable,
  end: {
    branchId: string;
    restore: RestorePayload;
    asked: Timestamp;
    parentLsn: string | null;
    parentTimestamp: Timestamp | null;
  },
): Promise<void> {
  const { branchId, restore } = end;
  const [branch] = await tx.query<{ timelineId: string }>(
    `select timeline_id from branches where id = $1 and current_state = 'resetting' for no key update`,
    [branchId],
  );
  if (!branch) return;
  // In three steps: the unique index would see two of one name in the middle of one.
  const rename = (id: string, timelineId: string) =>
    tx.query('update branches set timeline_id = $2 where id = $1', [id, timelineId]);
  await rename(restore.backupId, `${restore.backupId} changes`);
  await rename(branchId, restore.timelineId);
  await rename(restore.backupId, branch.timelineId);
  await tx.query(
    `update branches set current_state = 'ready', pending_state = null, state_changed_at = now(), updated_at = now(),
       facts_due = true, parent_lsn = coalesce($2, parent_lsn), parent_timestamp = coalesce($3, parent_timestamp)
     where id = $1`,
    [branchId, end.parentLsn, end.parentTimestamp],
  );
  if (restore.preserved) {
    await tx.query('delete from roles where branch_id = $1', [restore.backupId]);
    await tx.query('delete from databases where branch_id = $1', [restore.backupId]);
    await copyRows(tx, branchId, restore.backupId);
  } else {
    await tx.query('update branches set purged_at = now() where id = $1', [restore.backupId]);
  }
  await putRows(tx, branchId, restore, end.asked);
}

async function putRows(tx: Queryable, branchId: string, restore: RestorePayload, asked: Timestamp): Promise<void> {
  await forgetPending(tx, branchId, asked);
  const { rows, sourceBranchId } = restore;
  if (rows === 'source' || rows === 'own') {
    await tx.query(`delete from databases where branch_id = $1 and state = 'ready'`, [branchId]);
    await tx.query(
      `delete from roles r where r.branch_id = $1 and r.state = 'ready' and ($2 = 'source'
         or not exists (select 1 from roles s where s.branch_id = $3 and s.name = r.name and s.state <> 'deleting'))`,
      [branchId, rows, sourceBranchId],
    );
    if (rows === 'source') await copyRows(tx, sourceBranchId, branchId);
    else {
      // Roles that only the source has are found in the data, and get passwords of their own there.
      await tx.query(
        `insert into databases (project_id, branch_id, ${DATABASE_COLUMNS})
         select project_id, $2, ${DATABASE_COLUMNS} from databases where branch_id = $1 order by id
         on conflict (branch_id, name) do nothing`,
        [sourceBranchId, branchId],
      );
    }
  }
  if (rows === 'own' || rows === 'own-keep') {
    await tx.query(
      `update roles set state = 'updating' where branch_id = $1 and state = 'ready' and verifier is not null`,
      [branchId],
    );
  }
}

/** It could not be made: the branch is again what it was, where it was, and has its children back. */
export async function undoRestore(tx: Queryable, branchId: string, restore: RestorePayload): Promise<void> {
  const { before, backupId } = restore;
  const rows = await tx.query<{ timelineId: string }>(
    `update branches set current_state = $2, pending_state = null, state_changed_at = now(), updated_at = now(),
       parent_id = $3, parent_lsn = $4, parent_timestamp = $5, expires_at = $6, last_reset_at = $7
     where id = $1 and current_state = 'resetting' returning timeline_id`,
    [
      branchId,
      before.currentState,
      before.parentId,
      before.parentLsn,
      before.parentTimestamp,
      before.expiresAt,
      before.lastResetAt,
    ],
  );
  if (!rows[0]) return;
  await moveChildren(tx, backupId, branchId);
  await tx.query(
    `update branches set deleted_at = coalesce(deleted_at, now()), purged_at = now(), updated_at = now() where id = $1`,
    [backupId],
  );
  // Branches and restores that were asked for meanwhile, from what this branch was to become.
  await tx.query(
    `update operations set payload = jsonb_set(payload, '{parentTimelineId}', to_jsonb($2::text))
     where status in ${UNFINISHED} and payload ->> 'parentTimelineId' = $1`,
    [restore.timelineId, rows[0].timelineId],
  );
}

/** True when a branch above it in its lineage is protected: its passwords are not those of its data. */
export async function hasProtectedAncestor(db: Queryable, id: string): Promise<boolean> {
  const [row] = await db.query<{ found: boolean }>(
    `with recursive lineage as (
       select b.parent_id from branches b where b.id = $1
       union select b.parent_id from lineage l join branches b on b.id = l.parent_id)
     select exists (select 1 from lineage l join branches b on b.id = l.parent_id where b.protected) as found`,
    [id],
  );
  return row!.found;
}
