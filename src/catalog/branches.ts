/**
 * Queries on `branches`. Deleted branches are invisible to every query here, but for lists that ask for those that can
 * be had back (deletion.ts has the rest).
 */
import type { BranchRow, Queryable, Timestamp } from './types.ts';

/** Rows for readers carry the name of the user who made the branch. */
export interface BranchWithCreator extends BranchRow {
  creatorName: string | null;
}

export interface NewBranch {
  id: string;
  projectId: string;
  /** Default: one of its own, named after it. */
  timelineId?: string;
  parentId: string | null;
  name: string;
  isDefault: boolean;
  protected: boolean;
  annotation: Record<string, string> | null;
  createdBy: string;
  /** Where it leaves its parent, as far as that is known. */
  parentLsn?: string | null;
  parentTimestamp?: Timestamp | null;
  expiresAt?: Timestamp | null;
  ttlIntervalSeconds?: number | null;
  /** Default: 'parent-data'. */
  initSource?: 'parent-data' | 'schema-only';
}

export type BranchSortColumn = 'name' | 'created_at' | 'updated_at';

export interface BranchListOptions {
  search: string | undefined;
  sortBy: BranchSortColumn;
  descending: boolean;
  /** The last branch of the page before: its id and its value of the sort column. */
  after: { id: string; value: string } | undefined;
  limit: number;
  /** Deleted ones that can still be had back, too. */
  includeDeleted: boolean;
}

/** A new branch is in state `init` until its create operation has finished. */
export async function insertBranch(tx: Queryable, branch: NewBranch): Promise<BranchRow> {
  const rows = await tx.query<BranchRow>(
    `insert into branches (id, project_id, parent_id, name, current_state, pending_state, is_default, protected,
       annotation, annotation_updated_at, created_by, timeline_id, parent_lsn, parent_timestamp, expires_at,
       ttl_interval_seconds, init_source)
     values ($1, $2, $3, $4, 'init', 'ready', $5, $6, $7::jsonb, case when $7::jsonb is null then null else now() end, $8,
       $9, $10, $11, $12, $13, $14)
     returning *`,
    [
      branch.id,
      branch.projectId,
      branch.parentId,
      branch.name,
      branch.isDefault,
      branch.protected,
      branch.annotation === null ? null : JSON.stringify(branch.annotation),
      branch.createdBy,
      branch.timelineId ?? branch.id,
      branch.parentLsn ?? null,
      branch.parentTimestamp ?? null,
      branch.expiresAt ?? null,
      branch.ttlIntervalSeconds ?? null,
      branch.initSource ?? 'parent-data',
    ],
  );
  return rows[0]!;
}

const WITH_CREATOR = `select b.*, u.name as creator_name from branches b left join users u on u.id = b.created_by`;

export async function findBranch(db: Queryable, projectId: string, id: string): Promise<BranchWithCreator | undefined> {
  const rows = await db.query<BranchWithCreator>(
    `${WITH_CREATOR} where b.id = $2 and b.project_id = $1 and b.deleted_at is null`,
    [projectId, id],
    'find_branch',
  );
  return rows[0];
}

export async function findDefaultBranch(db: Queryable, projectId: string): Promise<BranchRow | undefined> {
  const rows = await db.query<BranchRow>(
    'select * from branches where project_id = $1 and is_default and deleted_at is null',
    [projectId],
    'find_default_branch',
  );
  return rows[0];
}

export async function findBranchByName(db: Queryable, projectId: string, name: string): Promise<BranchRow | undefined> {
  const rows = await db.query<BranchRow>(
    'select * from branches where project_id = $1 and name = $2 and deleted_at is null',
    [projectId, name],
  );
  return rows[0];
}

export async function listBranches(
  db: Queryable,
  projectId: string,
  options: BranchListOptions,
): Promise<BranchWithCreator[]> {
  const column = `b.${options.sortBy}`;
  const type = options.sortBy === 'name' ? 'text' : 'timestamptz';
  const direction = options.descending ? 'desc' : 'asc';
  return db.query<BranchWithCreator>(
    `${WITH_CREATOR} where b.project_id = $1
       and (b.deleted_at is null or ($6 and b.purged_at is null and b.recoverable_until > now()))
       and ($2::text is null or ${SEARCH})
       and ($3::text is null or (${column}, b.id) ${options.descending ? '<' : '>'} ($4::${type}, $3))
     order by ${column} ${direction}, b.id ${direction} limit $5`,
    [
      projectId,
      options.search ?? null,
      options.after?.id ?? null,
      options.after?.value ?? null,
      options.limit,
      options.includeDeleted,
    ],
    `list_branches_${options.sortBy}_${direction}`,
  );
}

const SEARCH = 'position(lower($2) in lower(b.name)) > 0 or position(lower($2) in b.id) > 0';

export async function countBranches(db: Queryable, projectId: string, search: string | undefined): Promise<number> {
  const rows = await db.query<{ count: number }>(
    `select count(*) as count from branches b
     where b.project_id = $1 and b.deleted_at is null and ($2::text is null or ${SEARCH})`,
    [projectId, search ?? null],
    'count_branches',
  );
  return rows[0]!.count;
}

export async function listAllBranches(db: Queryable, projectId: string): Promise<BranchRow[]> {
  return db.query<BranchRow>(
    'select * from branches where project_id = $1 and deleted_at is null order by created_at, id',
    [projectId],
  );
}

export async function findFirstChild(db: Queryable, id: string): Promise<BranchRow | undefined> {
  const rows = await db.query<BranchRow>(
    'select * from branches where parent_id = $1 and deleted_at is null order by created_at, id limit 1',
    [id],
  );
  return rows[0];
}

/** Roots that are not deleted. */
export async function countRoots(db: Queryable, projectId: string): Promise<number> {
  const rows = await db.query<{ count: number }>(
    'select count(*) as count from branches where project_id = $1 and parent_id is null and deleted_at is null',
    [projectId],
  );
  return rows[0]!.count;
}

export async function updateBranch(
  tx: Queryable,
  id: string,
  changes: { name: string; protected: boolean; expiresAt: Timestamp | null; ttlIntervalSeconds: number | null },
): Promise<BranchRow> {
  const rows = await tx.query<BranchRow>(
    `update branches set name = $2, protected = $3, expires_at = $4, ttl_interval_seconds = $5, updated_at = now()
     where id = $1 returning *`,
    [id, changes.name, changes.protected, changes.expiresAt, changes.ttlIntervalSeconds],
  );
  return rows[0]!;
}

/** Two statements, because the unique index would see two defaults in the middle of one. */
export async function makeBranchDefault(tx: Queryable, projectId: string, id: string): Promise<BranchRow> {
  await tx.query('update branches set is_default = false, updated_at = now() where project_id = $1 and is_default', [
    projectId,
  ]);
  const rows = await tx.query<BranchRow>(
    'update branches set is_default = true, updated_at = now() where id = $1 returning *',
    [id],
  );
  return rows[0]!;
}
