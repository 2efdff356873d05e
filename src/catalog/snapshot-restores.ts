/**
 * Restoring snapshots, as rows. A snapshot becomes a branch of its own; finalizing lets that branch take the place of
 * another one: computes, name, flags and backup schedule move, data stays where it is.
 *
 * They move with the request, so that whoever connects from then on waits for the new data. When that cannot be made,
 * everything moves back and the new branch is gone.
 */
import { moveBackupSchedule } from './backup-schedules.ts';
import type { BranchRow, EndpointRow, Queryable } from './types.ts';

const UNFINISHED = `('scheduling', 'running', 'cancelling')`;

/** Part of the payload of the `create_branch` whose branch takes the place of another one. */
export interface Replacement {
  replacedBranchId: string;
  /** The name that it got. */
  oldName: string;
  before: Pick<BranchRow, 'name' | 'isDefault' | 'protected' | 'expiresAt' | 'ttlIntervalSeconds'>;
  endpointIds: string[];
}

/** A root in state `init` until its data is there. */
export async function insertRestoredBranch(
  tx: Queryable,
  branch: {
    id: string;
    projectId: string;
    name: string;
    snapshotId: string;
    targetId: string | null;
    logicalSizeBytes: number | null;
    createdBy: string;
  },
): Promise<BranchRow> {
  const rows = await tx.query<BranchRow>(
    `insert into branches (id, timeline_id, project_id, name, current_state, pending_state, restored_from, restored_as,
       restore_status, logical_size_bytes, created_by)
     values ($1, $1, $2, $3, 'init', 'ready', $4, $5, 'restored', $6, $7) returning *`,
    [
      branch.id,
      branch.projectId,
      branch.name,
      branch.snapshotId,
      branch.targetId,
      branch.logicalSizeBytes,
      branch.createdBy,
    ],
  );
  return rows[0]!;
}

/**
 * Roles and databases that the snapshot's source has, until the first start reads what the snapshot has. What is still
 * pending there is not to be done to data of another time.
 */
export async function copySettledRows(tx: Queryable, from: string, to: string): Promise<void> {
  await tx.query(
    `insert into roles (project_id, branch_id, name, verifier, sealed_password, no_login, protected, created_at,
       updated_at)
     select project_id, $2, name, verifier, sealed_password, no_login, protected, created_at, updated_at
     from roles where branch_id = $1 and state <> 'creating'`,
    [from, to],
  );
  await tx.query(
    `insert into databases (project_id, branch_id, name, owner_name, created_at, updated_at)
     select project_id, $2, coalesce(applied_name, name), owner_name, created_at, updated_at
     from databases where branch_id = $1 and state <> 'creating' order by id
     on conflict (branch_id, name) do nothing`,
    [from, to],
  );
}

/** Whether anything is under way on one of the branches, or on an endpoint of theirs. */
export async function isUnderWay(tx: Queryable, branchIds: readonly string[]): Promise<boolean> {
  const rows = await tx.query(
    `select 1 from operations where status in ${UNFINISHED} and (branch_id = any ($1)
       or endpoint_id in (select id from endpoints where branch_id = any ($1))) limit 1`,
    [branchIds],
  );
  return rows.length > 0;
}

/** Name, flags, expiration, annotation and schedule of the one branch become those of the other. */
export async function replaceBranch(
  tx: Queryable,
  replaced: BranchRow,
  by: { branchId: string; oldName: string },
): Promise<BranchRow> {
  const { id, name, isDefault, protected: isProtected, expiresAt, ttlIntervalSeconds, annotation } = replaced;
  // Both unique indexes (names, the default) would see two of them in the middle of one statement.
  await tx.query(
    `update branches set name = $2, is_default = false, protected = false, expires_at = null,
       ttl_interval_seconds = null, updated_at = now() where id = $1`,
    [id, by.oldName],
  );
  const rows = await tx.query<BranchRow>(
    `update branches set name = $2, is_default = $3, protected = $4, expires_at = $5, ttl_interval_seconds = $6,
       annotation = coalesce(annotation, $7::jsonb), restore_status = 'finalized', restored_as = $8, facts_due = true,
       updated_at = now()
     where id = $1 returning *`,
    [
      by.branchId,
      name,
      isDefault,
      isProtected,
      expiresAt,
      ttlIntervalSeconds,
      annotation === null ? null : JSON.stringify(annotation),
      id,
    ],
  );
  await moveBackupSchedule(tx, id, by.branchId);
  return rows[0]!;
}

/** All endpoints of a branch; the rows as they are afterwards, in the order in which they were made. */
export async function moveEndpoints(tx: Queryable, from: string, to: string): Promise<EndpointRow[]> {
  const rows = await tx.query<EndpointRow>(
    `update endpoints set branch_id = $2, updated_at = now(),
       pending_state = case when coalesce(pending_state, current_state) = 'active' then 'active' else pending_state end
     where branch_id = $1 and deleted_at is null returning *`,
    [from, to],
  );
  return rows.sort((a, b) => (a.createdAt < b.createdAt ? -1 : 1));
}

/**
 * Everything is as it was before the request, but for what users have changed since. What was to be done to the new
 * branch is not done any more: its computes go on where they are.
 */
export async function undoReplacement(
  tx: Queryable,
  undone: { branchId: string; operationId: string; replacement: Replacement },
): Promise<void> {
  const { branchId, operationId, replacement } = undone;
  const { replacedBranchId, oldName, before, endpointIds } = replacement;
  await tx.query(
    `update operations set status = 'skipped', updated_at = now(), finished_at = clock_timestamp()
     where branch_id = $1 and id <> $2 and status in ${UNFINISHED}`,
    [branchId, operationId],
  );
  await tx.query(
    `update endpoints set branch_id = $2, pending_state = null, updated_at = now()
     where branch_id = $1 and id = any ($3)`,
    [branchId, replacedBranchId, endpointIds],
  );
  await tx.query('update endpoints set deleted_at = now() where branch_id = $1 and deleted_at is null', [branchId]);
  await moveBackupSchedule(tx, branchId, replacedBranchId);
  const [gone] = await tx.query<{ name: string; isDefault: boolean }>(
    `with before as (select id, name, is_default from branches where id = $1)
     update branches b set name = b.id, is_default = false, protected = false, pending_state = null,
       restore_status = null, deleted_at = coalesce(deleted_at, now()), purged_at = now(), updated_at = now(),
       state_changed_at = now()
     from before where b.id = before.id returning before.name, before.is_default`,
    [branchId],
  );
  await tx.query(
    `update branches set is_default = is_default or $2, protected = protected or $3,
       expires_at = coalesce(expires_at, $4), ttl_interval_seconds = coalesce(ttl_interval_seconds, $5),
       name = case when name = $6 then $7 else name end, updated_at = now()
     where id = $1`,
    [
      replacedBranchId,
      gone?.isDefault ?? false,
      before.protected,
      before.expiresAt,
      before.ttlIntervalSeconds,
      oldName,
      gone?.name ?? before.name,
    ],
  );
}
