/**
 * What the reconcilers ask and record, for all rows of one node at a time.
 */
import type { EndpointRow, EndpointType, Queryable } from './types.ts';

const UNFINISHED = `('scheduling', 'running', 'cancelling')`;

export interface WatchedEndpoint {
  id: string;
  projectId: string;
  branchId: string;
  type: EndpointType;
  currentState: EndpointRow['currentState'];
  pendingState: EndpointRow['pendingState'];
  suspendTimeoutSeconds: number;
  pgVersion: number;
  /** The endpoint, its branch or its project. */
  deleted: boolean;
  /** It has an unfinished operation, which knows better than any reconciler. */
  busy: boolean;
}

const WATCHED = `
  select e.id, e.project_id, e.branch_id, e.type, e.current_state, e.pending_state, e.suspend_timeout_seconds, p.pg_version,
    (e.deleted_at is not null or b.deleted_at is not null or p.deleted_at is not null) as deleted,
    exists (select 1 from operations o where o.branch_id = e.branch_id and o.status in ${UNFINISHED}) as busy
  from endpoints e join branches b on b.id = e.branch_id join projects p on p.id = e.project_id`;

export async function endpointsByIds(db: Queryable, ids: readonly string[]): Promise<WatchedEndpoint[]> {
  if (ids.length === 0) return [];
  return db.query<WatchedEndpoint>(`${WATCHED} where e.id = any ($1)`, [ids], 'endpoints_watched');
}

/** Of every branch of the node that is there. */
export async function historyWindows(
  db: Queryable,
  nodeId: string,
): Promise<{ projectId: string; branchId: string; windowSeconds: number }[]> {
  return db.query(
    `select b.project_id, b.id as branch_id, p.history_retention_seconds as window_seconds
     from branches b join projects p on p.id = b.project_id
     where p.node_id = $1 and b.deleted_at is null and b.current_state <> 'init' order by b.created_at`,
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

/** Of the given branches, those whose rows are deleted and that no operation will remove any more. */
export async function deletedBranches(
  db: Queryable,
  branchIds: readonly string[],
): Promise<{ id: string; projectId: string }[]> {
  return db.query<{ id: string; projectId: string }>(
    `select b.id, b.project_id from branches b join projects p on p.id = b.project_id
     where b.id = any ($1) and (b.deleted_at is not null or p.deleted_at is not null)
       and not exists (select 1 from operations o where o.branch_id = b.id and o.status in ${UNFINISHED})`,
    [branchIds],
  );
}

/** Of the given branches, those that have a row at all. */
export async function knownBranches(db: Queryable, branchIds: readonly string[]): Promise<string[]> {
  const rows = await db.query<{ id: string }>('select id from branches where id = any ($1)', [branchIds]);
  return rows.map((row) => row.id);
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
