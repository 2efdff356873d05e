/**
 * What the reconcilers ask and record, for all rows of one node at a time.
 */
import type { EndpointRow, EndpointType, OperationAction, Queryable, Timestamp } from './types.ts';

const UNFINISHED = `('scheduling', 'running', 'cancelling')`;

export interface WatchedEndpoint {
  id: string;
  projectId: string;
  branchId: string;
  timelineId: string;
  type: EndpointType;
  currentState: EndpointRow['currentState'];
  pendingState: EndpointRow['pendingState'];
  suspendTimeoutSeconds: number;
  pgVersion: number;
  historyRetentionSeconds: number;
  /** The endpoint, its branch or its project. */
  deleted: boolean;
  /** It has an unfinished operation, which knows better than any reconciler. */
  busy: boolean;
}

const WATCHED = `
  select e.id, e.project_id, e.branch_id, b.timeline_id, e.type, e.current_state, e.pending_state, e.suspend_timeout_seconds, p.pg_version,
    p.history_retention_seconds,
    (e.deleted_at is not null or b.deleted_at is not null or p.deleted_at is not null) as deleted,
    exists (select 1 from operations o where o.branch_id = e.branch_id and o.status in ${UNFINISHED}) as busy
  from endpoints e join branches b on b.id = e.branch_id join projects p on p.id = e.project_id`;

export async function endpointsByIds(db: Queryable, ids: readonly string[]): Promise<WatchedEndpoint[]> {
  if (ids.length === 0) return [];
  return db.query<WatchedEndpoint>(`${WATCHED} where e.id = any ($1)`, [ids], 'endpoints_watched');
}

export interface NamedEndpoint extends WatchedEndpoint {
  branchName: string;
  projectName: string;
  suspendedAt: Timestamp | null;
  /** The action of the oldest unfinished operation of its branch. */
  operation: OperationAction | null;
}

/** Those that have the name, or are of the branch or project that has it; ids are names. Without one: all of the node. */
export async function endpointsNamed(db: Queryable, nodeId: string, name?: string): Promise<NamedEndpoint[]> {
  return db.query<NamedEndpoint>(
    `select w.*, e.suspended_at, b.name as branch_name, p.name as project_name,
       (select o.action from operations o where o.branch_id = w.branch_id and o.status in ${UNFINISHED} order by o.seq limit 1)
         as operation
     from (${WATCHED}) w join endpoints e on e.id = w.id join branches b on b.id = w.branch_id join projects p on p.id = w.project_id
     where p.node_id = $1 and not w.deleted and ($2::text is null or $2 in (e.id, b.id, b.name, p.id, p.name))
     order by p.name, p.id, b.name, w.type desc, w.id`,
    [nodeId, name ?? null],
  );
}

export interface HistoryToTrim {
  projectId: string;
  timelineId: string;
  windowSeconds: number;
  /** LSNs of it that operations under way still need. */
  pinned: string[];
}

/** Of every branch of the node whose data is there, deleted ones that can be had back included. */
export async function historiesToTrim(db: Queryable, nodeId: string): Promise<HistoryToTrim[]> {
  return db.query<HistoryToTrim>(
    `select b.project_id, b.timeline_id, p.history_retention_seconds as window_seconds,
       (select coalesce(jsonb_agg(o.payload ->> 'lsn'), '[]') from operations o
         where o.project_id = b.project_id and o.status in ${UNFINISHED}
           and o.payload ->> 'parentTimelineId' = b.timeline_id and o.payload ? 'lsn') as pinned
     from branches b join projects p on p.id = b.project_id
     where p.node_id = $1 and b.purged_at is null and p.purged_at is null and b.current_state <> 'init'
       -- A backup names a timeline that is not there yet until the restore has ended.
       and not exists (select 1 from operations o where o.project_id = b.project_id and o.status in ${UNFINISHED}
         and o.payload #>> '{restore,backupId}' = b.id)
     order by b.created_at`,
    [nodeId],
  );
}

/** Those of the node whose rows say that something runs or is on its way. */
export async function endpointsAwake(db: Queryable, nodeId: string): Promise<WatchedEndpoint[]> {
  return db.query<WatchedEndpoint>(
    `${WATCHED} where p.node_id = $1 and e.deleted_at is null and (e.current_state <> 'idle' or e.pending_state is not null)`,
    [nodeId],
  );
}

/** The compute is not there: the row becomes idle, unless an operation is on its way. Returns true when it changed. */
export async function endpointLost(db: Queryable, endpointId: string): Promise<boolean> {
  const rows = await db.query(
    `update endpoints e set current_state = 'idle', pending_state = null, suspended_at = now(), updated_at = now()
     where e.id = $1 and (e.current_state <> 'idle' or e.pending_state is not null)
       and not exists (select 1 from operations o where o.branch_id = e.branch_id and o.status in ${UNFINISHED})
     returning e.id`,
    [endpointId],
    'endpoint_lost',
  );
  return rows.length > 0;
}

/** The compute runs though the row says otherwise. */
export async function endpointFound(db: Queryable, endpointId: string): Promise<void> {
  await db.query(
    `update endpoints e set current_state = 'active', pending_state = null, started_at = coalesce(e.started_at, now()),
       suspended_at = null, updated_at = now()
     where e.id = $1 and (e.current_state <> 'active' or e.pending_state is not null)
       and not exists (select 1 from operations o where o.branch_id = e.branch_id and o.status in ${UNFINISHED})`,
    [endpointId],
  );
}

/** Marks a suspend as under way; false when the endpoint is not plainly active any more. Call it before appending. */
export async function beginSuspend(tx: Queryable, endpointId: string): Promise<boolean> {
  const rows = await tx.query(
    `update endpoints e set pending_state = 'idle', updated_at = now()
     where e.id = $1 and e.current_state = 'active' and e.pending_state is null and e.deleted_at is null
       and not exists (select 1 from operations o where o.branch_id = e.branch_id and o.status in ${UNFINISHED})
     returning e.id`,
    [endpointId],
    'endpoint_begin_suspend',
  );
  return rows.length > 0;
}

/** What a timeline of the pool is to the rows. */
export interface TimelineOwner {
  timelineId: string;
  projectId: string;
  /** Of a snapshot: its source. */
  branchId: string;
  /** The row is deleted for good and no operation will remove the data any more. */
  abandoned: boolean;
}

/** Of the given timelines, those that belong to the row of a branch or snapshot. */
export async function timelineOwners(db: Queryable, timelineIds: readonly string[]): Promise<TimelineOwner[]> {
  return db.query<TimelineOwner>(
    `with owners as (
       select b.timeline_id, b.project_id, b.id as branch_id, b.purged_at is not null or p.purged_at is not null as gone
       from branches b join projects p on p.id = b.project_id where b.timeline_id = any ($1)
       union all
       select s.timeline_id, s.project_id, s.source_branch_id, s.deleted_at is not null or p.purged_at is not null
       from snapshots s join projects p on p.id = s.project_id where s.timeline_id = any ($1))
     select timeline_id, min(project_id) as project_id, min(branch_id) as branch_id,
       bool_and(gone) and not exists (select 1 from operations o
         where o.branch_id = min(owners.branch_id) and o.status in ${UNFINISHED}) as abandoned
     from owners group by timeline_id`,
    [timelineIds],
  );
}

/** `activeAt` is how many milliseconds ago a client last did something. */
export async function recordActivity(
  db: Queryable,
  seen: readonly { endpointId: string; idleMs: number }[],
): Promise<void> {
  if (seen.length === 0) return;
  await db.query(
    `with seen as (select * from jsonb_to_recordset($1::jsonb) as s ("endpointId" text, "idleMs" double precision)),
     touched as (update endpoints e set last_active = now() - s."idleMs" * interval '1 millisecond' from seen s
       where e.id = s."endpointId" and (e.last_active is null or e.last_active < now() - s."idleMs" * interval '1 millisecond')
       returning e.project_id, e.last_active)
     update projects p set compute_last_active_at = t.last_active
     from (select project_id, max(last_active) as last_active from touched group by project_id) t where p.id = t.project_id`,
    [JSON.stringify(seen)],
  );
}

export async function recordLogicalSize(db: Queryable, branchId: string, sizeBytes: number): Promise<void> {
  await db.query(
    'update branches set logical_size_bytes = $2 where id = $1 and logical_size_bytes is distinct from $2',
    [branchId, sizeBytes],
    'branch_logical_size',
  );
}
