/**
 * Deletion of branches and projects. What is deleted keeps its data for a week and can be had back (`recoverable_until`);
 * `purged_at` says that the data is gone, or goes by an operation.
 *
 * The endpoints of a deleted branch carry its own deleted_at, by which they are found again. The rows of a deleted
 * project's branches and endpoints are left as they are: the project's deleted_at hides them all.
 */
import type { ProjectWithOwner } from './projects.ts';
import type { BranchRow, EndpointRow, ProjectRow, Queryable } from './types.ts';

const UNFINISHED = `('scheduling', 'running', 'cancelling')`;
const RECOVERABLE = `interval '7 days'`;

/** Marks the branch with its endpoints. `forGood`: it cannot be had back. */
export async function markBranchDeleted(
  tx: Queryable,
  id: string,
  how: { method: 'user' | 'ttl'; forGood: boolean },
): Promise<BranchRow> {
  await tx.query('update endpoints set deleted_at = now() where branch_id = $1 and deleted_at is null', [id]);
  const rows = await tx.query<BranchRow>(
    `update branches set deleted_at = now(), updated_at = now(), pending_state = 'storage_deleted',
       state_changed_at = now(), deletion_method = $2,
       recoverable_until = case when not $3 then now() + ${RECOVERABLE} end, purged_at = case when $3 then now() end
     where id = $1 returning *`,
    [id, how.method, how.forGood],
  );
  return rows[0]!;
}

/** Deleted, and not yet past recovery. Keeps the row as it is until the transaction ends. */
export async function findDeletedBranch(db: Queryable, projectId: string, id: string): Promise<BranchRow | undefined> {
  const rows = await db.query<BranchRow>(
    `select * from branches where project_id = $1 and id = $2 and deleted_at is not null and purged_at is null
       and recoverable_until > now() for no key update`,
    [projectId, id],
  );
  return rows[0];
}

/** The next above it whose data has not been removed; its own data does not need what was. Undefined: none. */
export async function nearestAncestor(
  tx: Queryable,
  id: string,
): Promise<Pick<BranchRow, 'id' | 'deletedAt'> | undefined> {
  const rows = await tx.query<Pick<BranchRow, 'id' | 'deletedAt'>>(
    `with recursive lineage as (
       select p.*, 1 as distance from branches b join branches p on p.id = b.parent_id where b.id = $1
       union all
       select p.*, l.distance + 1 from lineage l join branches p on p.id = l.parent_id where l.purged_at is not null)
     select id, deleted_at from lineage where purged_at is null order by distance limit 1`,
    [id],
  );
  return rows[0];
}

/** Its endpoints come back with it, asleep (or on their way there). It does not expire any more. */
export async function recoverBranch(
  tx: Queryable,
  id: string,
  parentId: string | null,
): Promise<{ branch: BranchRow; endpoints: EndpointRow[] }> {
  const endpoints = await tx.query<EndpointRow>(
    `update endpoints e set deleted_at = null, updated_at = now(),
       current_state = case when e.current_state = 'init' then 'idle' else e.current_state end,
       pending_state = case when e.current_state = 'active' then 'idle' end
     from branches b where b.id = $1 and e.branch_id = b.id and e.deleted_at = b.deleted_at returning e.*`,
    [id],
  );
  const rows = await tx.query<BranchRow>(
    `update branches set deleted_at = null, recoverable_until = null, deletion_method = null, pending_state = null,
       expires_at = null, ttl_interval_seconds = null, state_changed_at = now(), updated_at = now(), parent_id = $2
     where id = $1 returning *`,
    [id, parentId],
  );
  return { branch: rows[0]!, endpoints };
}

export async function markProjectDeleted(tx: Queryable, id: string): Promise<ProjectRow> {
  const rows = await tx.query<ProjectRow>(
    `update projects set deleted_at = now(), recoverable_until = now() + ${RECOVERABLE}, updated_at = now()
     where id = $1 returning *`,
    [id],
  );
  return rows[0]!;
}

/** Deleted, and not yet past recovery. Keeps the row as it is until the transaction ends. */
export async function lockDeletedProject(tx: Queryable, id: string): Promise<ProjectWithOwner | undefined> {
  const rows = await tx.query<ProjectWithOwner>(
    `select p.*, u.name as owner_name, u.email as owner_email from projects p join users u on u.id = p.owner_id
     where p.id = $1 and p.deleted_at is not null and p.purged_at is null and p.recoverable_until > now()
     for no key update of p`,
    [id],
  );
  return rows[0];
}

/** With everything that was in it; what expired meanwhile stays. */
export async function recoverProject(tx: Queryable, id: string): Promise<void> {
  await tx.query(
    `update branches set expires_at = null, ttl_interval_seconds = null
     where project_id = $1 and deleted_at is null and expires_at <= now()`,
    [id],
  );
  await tx.query('update projects set deleted_at = null, recoverable_until = null, updated_at = now() where id = $1', [
    id,
  ]);
}

export interface DueBranch {
  id: string;
  projectId: string;
}

/** Branches of the node whose time is up. One that must stay for a reason stays until the reason is gone. */
export async function expiredBranches(db: Queryable, nodeId: string): Promise<DueBranch[]> {
  return db.query<DueBranch>(
    `select b.id, b.project_id from branches b join projects p on p.id = b.project_id
     where p.node_id = $1 and p.deleted_at is null and b.deleted_at is null and b.expires_at <= now() and ${MAY_GO}
     order by b.expires_at`,
    [nodeId],
  );
}

const MAY_GO = `not b.protected and not b.is_default and b.current_state <> 'resetting'
  and not exists (select 1 from branches c where c.parent_id = b.id and c.deleted_at is null)
  and not exists (select 1 from operations o where o.status in ${UNFINISHED} and o.project_id = b.project_id
    and o.payload #>> '{restore,backupId}' = b.id)`;

export async function isExpired(tx: Queryable, id: string): Promise<boolean> {
  const rows = await tx.query(
    `select 1 from branches b where b.id = $1 and b.deleted_at is null and b.expires_at <= now() and ${MAY_GO}`,
    [id],
  );
  return rows.length > 0;
}

/**
 * Deleted branches whose data is to go. Without `early` those past recovery, with it the one deleted longest ago that
 * could still be had back.
 */
export async function branchesToPurge(db: Queryable, nodeId: string, early: boolean): Promise<DueBranch[]> {
  return db.query<DueBranch>(
    `select b.id, b.project_id from branches b join projects p on p.id = b.project_id
     where p.node_id = $1 and p.purged_at is null and b.deleted_at is not null and b.purged_at is null
       and b.recoverable_until is not null and ($2 or b.recoverable_until <= now())
     order by b.deleted_at limit case when $2 then 1 else 100 end`,
    [nodeId, early],
  );
}

/** As branchesToPurge. */
export async function projectsToPurge(db: Queryable, nodeId: string, early: boolean): Promise<string[]> {
  const rows = await db.query<{ id: string }>(
    `select id from projects where node_id = $1 and deleted_at is not null and purged_at is null
       and ($2 or recoverable_until <= now())
     order by deleted_at limit case when $2 then 1 else 100 end`,
    [nodeId, early],
  );
  return rows.map((row) => row.id);
}

/** False: somebody has it back, or was faster. */
export async function purgeBranch(tx: Queryable, id: string): Promise<boolean> {
  const rows = await tx.query(
    `update branches set purged_at = now() where id = $1 and deleted_at is not null and purged_at is null returning id`,
    [id],
  );
  return rows.length > 0;
}

/** The timelines that go with the project, each with a branch on whose behalf. */
export async function purgeProject(
  tx: Queryable,
  id: string,
): Promise<{ branchId: string; timelineId: string | null }[]> {
  const gone = await tx.query(
    'update projects set purged_at = now() where id = $1 and deleted_at is not null and purged_at is null returning id',
    [id],
  );
  if (gone.length === 0) return [];
  const branches = await tx.query<{ branchId: string; timelineId: null }>(
    `update branches set purged_at = now(), deleted_at = coalesce(deleted_at, now())
     where project_id = $1 and purged_at is null returning id as branch_id, null as timeline_id`,
    [id],
  );
  const snapshots = await tx.query<{ branchId: string; timelineId: string }>(
    `update snapshots set deleted_at = now() where project_id = $1 and deleted_at is null
     returning source_branch_id as branch_id, timeline_id`,
    [id],
  );
  return [...branches, ...snapshots];
}

/** True while data of the node is still on its way out: what it frees is not known yet. */
export async function isPurging(db: Queryable, nodeId: string): Promise<boolean> {
  const rows = await db.query(
    `select 1 from operations o join projects p on p.id = o.project_id
     where o.status in ${UNFINISHED} and o.action = 'delete_timeline' and p.node_id = $1 limit 1`,
    [nodeId],
  );
  return rows.length > 0;
}

/** Branches that nobody has used for a day, two weeks after they were made. Returns how many were archived. */
export async function archiveUnused(db: Queryable, nodeId: string): Promise<number> {
  const rows = await db.query(
    `update branches b set current_state = 'archived', state_changed_at = now()
     from projects p
     where p.id = b.project_id and p.node_id = $1 and p.deleted_at is null and b.deleted_at is null
       and b.current_state = 'ready' and not b.protected and not b.is_default
       and b.created_at < now() - interval '14 days'
       and not exists (select 1 from endpoints e where e.branch_id = b.id and e.deleted_at is null
         and (e.current_state <> 'idle' or e.pending_state is not null
           or greatest(e.last_active, e.suspended_at) > now() - interval '24 hours'))
       and not exists (select 1 from branches c where c.parent_id = b.id and c.deleted_at is null
         and c.current_state <> 'archived')
       and not exists (select 1 from operations o where o.branch_id = b.id and o.status in ${UNFINISHED})
     returning b.id`,
    [nodeId],
  );
  return rows.length;
}
