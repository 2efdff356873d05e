/**
 * Queries on `snapshots`. A snapshot that could not be made is deleted in the state `failed`; deleted ones are invisible
 * to every query of readers here.
 */
import type { JsonObject, Queryable, SnapshotRow, Timestamp } from './types.ts';

const UNFINISHED = `('scheduling', 'running', 'cancelling')`;

export interface NewSnapshot {
  /** The name of its timeline, too. */
  id: string;
  projectId: string;
  sourceBranchId: string;
  name: string;
  slug: string | null;
  manual: boolean;
  /** Of a point that is known already; the work finds out about a head. */
  lsn: string | null;
  pointTimestamp: Timestamp | null;
  expiresAt: Timestamp | null;
  createdBy: string | null;
}

/** In state `init` until its create operation has finished. */
export async function insertSnapshot(tx: Queryable, snapshot: NewSnapshot): Promise<SnapshotRow> {
  const rows = await tx.query<SnapshotRow>(
    `insert into snapshots (id, timeline_id, project_id, source_branch_id, name, slug, manual, lsn, point_timestamp,
       expires_at, created_by)
     values ($1, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10) returning *`,
    [
      snapshot.id,
      snapshot.projectId,
      snapshot.sourceBranchId,
      snapshot.name,
      snapshot.slug,
      snapshot.manual,
      snapshot.lsn,
      snapshot.pointTimestamp,
      snapshot.expiresAt,
      snapshot.createdBy,
    ],
  );
  return rows[0]!;
}

/** By id or slug. */
export async function findSnapshot(db: Queryable, projectId: string, id: string): Promise<SnapshotRow | undefined> {
  const rows = await db.query<SnapshotRow>(
    `select * from snapshots where project_id = $1 and (id = $2 or slug = $2) and deleted_at is null
     order by id = $2 desc limit 1`,
    [projectId, id],
  );
  return rows[0];
}

/** Newest first. */
export async function listSnapshots(db: Queryable, projectId: string): Promise<SnapshotRow[]> {
  return db.query<SnapshotRow>(
    'select * from snapshots where project_id = $1 and deleted_at is null order by created_at desc, id',
    [projectId],
    'list_snapshots',
  );
}

export async function countManualSnapshots(db: Queryable, projectId: string): Promise<number> {
  const rows = await db.query<{ count: number }>(
    'select count(*) as count from snapshots where project_id = $1 and manual and deleted_at is null',
    [projectId],
  );
  return rows[0]!.count;
}

export async function updateSnapshot(
  tx: Queryable,
  id: string,
  changes: { name: string; expiresAt: Timestamp | null },
): Promise<SnapshotRow> {
  const rows = await tx.query<SnapshotRow>(
    'update snapshots set name = $2, expires_at = $3, updated_at = now() where id = $1 returning *',
    [id, changes.name, changes.expiresAt],
  );
  return rows[0]!;
}

export async function markSnapshotDeleted(tx: Queryable, id: string): Promise<void> {
  await tx.query('update snapshots set deleted_at = now(), updated_at = now() where id = $1', [id]);
}

/** True while a restore that is under way still has to clone it. */
export async function isCloned(db: Queryable, timelineId: string): Promise<boolean> {
  const rows = await db.query(
    `select 1 from operations where status in ${UNFINISHED} and payload ->> 'parentTimelineId' = $1 limit 1`,
    [timelineId],
  );
  return rows.length > 0;
}

/** What the action that makes a snapshot needs to know. Deleted ones are found: then there is nothing to do. */
export interface SnapshotWork {
  id: string;
  projectId: string;
  timelineId: string;
  projectNumber: number;
  deleted: boolean;
}

export async function snapshotWork(db: Queryable, id: string): Promise<SnapshotWork | undefined> {
  const [row] = await db.query<SnapshotWork>(
    `select s.id, s.project_id, s.timeline_id, s.deleted_at is not null as deleted, p.number as project_number
     from snapshots s join projects p on p.id = s.project_id where s.id = $1`,
    [id],
  );
  return row;
}

/** The point is what the data says: a time that was asked for is the last commit before it. */
export async function snapshotReady(
  tx: Queryable,
  snapshot: { id: string; lsn: string | null; pointTimestamp: Timestamp | null },
): Promise<void> {
  await tx.query(
    `update snapshots set state = 'ready', lsn = coalesce($2, lsn), point_timestamp = coalesce($3, point_timestamp),
       updated_at = now()
     where id = $1 and state = 'init'`,
    [snapshot.id, snapshot.lsn, snapshot.pointTimestamp],
  );
}

/** It never was: nobody can restore it, so nobody sees it. What went wrong is on the operation. */
export async function snapshotFailed(tx: Queryable, id: string): Promise<void> {
  await tx.query(
    `update snapshots set state = 'failed', deleted_at = coalesce(deleted_at, now()), updated_at = now()
     where id = $1 and state = 'init'`,
    [id],
  );
}

export async function recordSnapshotSizes(
  db: Queryable,
  id: string,
  sizes: { fullBytes: number; ownBytes: number | undefined },
): Promise<void> {
  await db.query('update snapshots set full_size_bytes = $2, diff_size_bytes = $3 where id = $1', [
    id,
    sizes.fullBytes,
    sizes.ownBytes ?? null,
  ]);
}

/** Ready ones of the node after `afterId`, in the order of their ids. */
export async function snapshotsToMeasure(
  db: Queryable,
  measure: { nodeId: string; afterId: string; limit: number },
): Promise<Pick<SnapshotRow, 'id' | 'projectId' | 'timelineId'>[]> {
  return db.query(
    `select s.id, s.project_id, s.timeline_id from snapshots s join projects p on p.id = s.project_id
     where p.node_id = $1 and p.purged_at is null and s.deleted_at is null and s.state = 'ready' and s.id > $2
     order by s.id limit $3`,
    [measure.nodeId, measure.afterId, measure.limit],
  );
}

export interface DueSnapshot {
  id: string;
  projectId: string;
  sourceBranchId: string;
  timelineId: string;
}

/** Those of the node whose time is up by `now` and that nobody is restoring. */
export async function expiredSnapshots(db: Queryable, nodeId: string, now: Timestamp): Promise<DueSnapshot[]> {
  return db.query<DueSnapshot>(
    `select s.id, s.project_id, s.source_branch_id, s.timeline_id
     from snapshots s join projects p on p.id = s.project_id
     where p.node_id = $1 and p.deleted_at is null and s.deleted_at is null and s.state <> 'init' and s.expires_at <= $2
       and not exists (select 1 from operations o
         where o.status in ${UNFINISHED} and o.payload ->> 'parentTimelineId' = s.timeline_id)
     order by s.expires_at limit 500`,
    [nodeId, now],
  );
}

/** True while that still holds, in a transaction that has the project's row. */
export async function isSnapshotExpired(tx: Queryable, id: string, now: Timestamp): Promise<boolean> {
  const rows = await tx.query('select 1 from snapshots where id = $1 and deleted_at is null and expires_at <= $2', [
    id,
    now,
  ]);
  return rows.length > 0;
}

/** Of the operation that makes it. */
export function snapshotPayload(snapshot: SnapshotRow, source: { parentTimelineId: string; lsn?: string }): JsonObject {
  return { snapshotId: snapshot.id, ...source };
}

/** Of the operation that removes its data. */
export const removalPayload = (snapshot: Pick<SnapshotRow, 'timelineId'>): JsonObject => ({
  timelineIds: [snapshot.timelineId],
});
