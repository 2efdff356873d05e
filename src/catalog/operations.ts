/**
 * The operations table: the public record of work, and the queue that the runner takes it from.
 *
 * Life of a row: `scheduling`, or at once `running` without a lease when nothing is before it on its branch (that is
 * what clients are used to see); a runner claims it by taking the lease; it ends as finished, failed or skipped.
 * Order: of one branch (and of one endpoint) only the oldest unfinished row can be claimed, and only while no other
 * holds a lease; and a branch is created after its parent, one from a snapshot after that. Claiming reads the partial indexes of unfinished rows, so
 * finished ones cost nothing.
 * `status in (UNFINISHED)` must stay word for word what those indexes say, or they are not used.
 */
import type { JsonObject, OperationRow, OperationStatus, Queryable, Timestamp } from './types.ts';

const UNFINISHED = `('scheduling', 'running', 'cancelling')`;
const COLUMNS = `id, seq, project_id, branch_id, endpoint_id, action, status, payload, failures_count, error,
  retry_at, created_at, updated_at, started_at, finished_at`;

/** Notified with the sender's name when operations were appended. */
export const OPERATIONS_CHANNEL = 'ballast_operations';

export interface OperationToInsert {
  id: string;
  projectId: string;
  branchId: string;
  endpointId: string | null;
  action: string;
  payload: JsonObject;
}

/** An operation that this runner holds, and whether what it works on was deleted meanwhile. */
export interface ClaimedOperation extends OperationRow {
  branchDeleted: boolean;
  endpointDeleted: boolean;
}

const INSERT = `
  with new as (
    select * from jsonb_to_recordset($1::jsonb) as n
      (ordinal integer, id uuid, project_id text, branch_id text, endpoint_id text, action text, payload jsonb)
  ), added as (
    insert into operations (id, project_id, branch_id, endpoint_id, action, payload, status, created_at, updated_at)
    select n.id, n.project_id, n.branch_id, n.endpoint_id, n.action, n.payload,
      case when n.ordinal = min(n.ordinal) over (partition by n.branch_id)
        and not exists (select 1 from operations u where u.branch_id = n.branch_id and u.status in ${UNFINISHED})
        then 'running' else 'scheduling' end,
      t.time, t.time
    from new n, lateral (select clock.time + n.ordinal * interval '1 microsecond' as time
      from (select clock_timestamp() as time offset 0) clock) t
    order by n.ordinal
    returning ${COLUMNS}
  )
  select added.*, pg_notify('${OPERATIONS_CHANNEL}', $2) from added order by seq`;

/** Inserts in the order given; created_at rises with it, so that lists have one order. `sender` goes into the notification. */
export async function insertOperations(
  tx: Queryable,
  operations: readonly OperationToInsert[],
  sender: string,
): Promise<OperationRow[]> {
  const records = operations.map((operation, ordinal) => ({
    ordinal,
    id: operation.id,
    project_id: operation.projectId,
    branch_id: operation.branchId,
    endpoint_id: operation.endpointId,
    action: operation.action,
    payload: operation.payload,
  }));
  const rows = await tx.query<OperationRow & { pgNotify?: unknown }>(
    INSERT,
    [JSON.stringify(records), sender],
    'operations_insert',
  );
  for (const row of rows) delete row.pgNotify;
  return rows;
}

// `offset 0` has the parent looked up for each row: all at once, the plan would read every branch there is.
// The usual wake, in one round trip: the endpoint sleeps and nothing is under way on its branch. Another process may do
// the same at the same moment; the second start then finds the compute running. Losing the row in a crash is harmless:
// whoever waited for it is gone as well.
const INSERT_START = `
  with relaxed as (select set_config('synchronous_commit', 'off', true) as setting),
  target as (
    select e.id, e.project_id, e.branch_id
    from relaxed, endpoints e join branches b on b.id = e.branch_id join projects p on p.id = e.project_id
    where relaxed.setting = 'off' and e.id = $2 and e.current_state = 'idle' and not e.disabled
      and e.deleted_at is null and b.deleted_at is null and p.deleted_at is null
      and not exists (select 1 from operations u where u.branch_id = e.branch_id and u.status in ${UNFINISHED})
    for no key update of e),
  waking as (
    update endpoints e set pending_state = 'active', updated_at = now() from target t where e.id = t.id),
  added as (
    insert into operations (id, project_id, branch_id, endpoint_id, action, status)
    select $1, t.project_id, t.branch_id, t.id, 'start_compute', 'running' from target t returning id)
  select added.id, pg_notify('${OPERATIONS_CHANNEL}', $3) from added`;

/** Undefined, and nothing done, when it is not that simple. */
export async function insertStart(
  db: Queryable,
  start: { id: string; endpointId: string; sender: string },
): Promise<string | undefined> {
  const values = [start.id, start.endpointId, start.sender];
  const [row] = await db.query<{ id: string }>(INSERT_START, values, 'operations_insert_start');
  return row?.id;
}

// Taking a lease need not reach the disk: after a crash the row is as it was before, which is right.
const CLAIM = `
  with relaxed as (select set_config('synchronous_commit', 'off', true) as setting)
  update operations o
  set status = 'running', lease_owner = $1, lease_until = now() + $2 * interval '1 millisecond',
    started_at = coalesce(o.started_at, now()), updated_at = now(), retry_at = null
  from relaxed
  where relaxed.setting = 'off' and o.id = any (array(
    select c.id from operations c
    where c.status in ${UNFINISHED}
      and (c.status = 'scheduling' or c.lease_until is null or c.lease_until < now())
      and (c.retry_at is null or c.retry_at <= now())
      and c.action = any ($4)
      and exists (select 1 from projects p where p.id = c.project_id and p.node_id = $3)
      and not exists (select 1 from operations e
        where e.branch_id = c.branch_id and e.status in ${UNFINISHED} and e.id <> c.id
          and (e.seq < c.seq or e.lease_until > now()))
      and not exists (select 1 from operations e
        where e.endpoint_id = c.endpoint_id and e.status in ${UNFINISHED} and e.id <> c.id
          and (e.seq < c.seq or e.lease_until > now()))
      and (c.action <> 'create_branch' or not exists (select 1
        from branches b join operations e on e.branch_id = b.parent_id
        where b.id = c.branch_id and e.status in ${UNFINISHED} and e.action in ('create_timeline', 'create_branch')
        offset 0))
      and (c.action <> 'create_branch' or not exists (select 1 from operations e
        where e.payload ->> 'snapshotId' = c.payload ->> 'parentTimelineId' and e.status in ${UNFINISHED}))
    order by c.seq limit $5
    for update of c skip locked))
  returning ${COLUMNS.replace(/(\w+)(,|$)/g, 'o.$1$2')},
    exists (select 1 from branches b where b.id = o.branch_id and b.deleted_at is not null) as branch_deleted,
    exists (select 1 from endpoints e where e.id = o.endpoint_id and e.deleted_at is not null) as endpoint_deleted`;

/** Takes up to `limit` runnable operations of the node, oldest first. */
export async function claimOperations(
  db: Queryable,
  claim: { owner: string; leaseMs: number; nodeId: string; actions: readonly string[]; limit: number },
): Promise<ClaimedOperation[]> {
  const rows = await db.query<ClaimedOperation>(
    CLAIM,
    [claim.owner, claim.leaseMs, claim.nodeId, claim.actions, claim.limit],
    'operations_claim',
  );
  return rows.sort((a, b) => a.seq - b.seq);
}

/** Renews every lease of the owner; returns the ids that it still holds. */
export async function renewLeases(db: Queryable, owner: string, leaseMs: number): Promise<string[]> {
  const rows = await db.query<{ id: string }>(
    `update operations set lease_until = now() + $2 * interval '1 millisecond'
     where lease_owner = $1 and status in ${UNFINISHED} and status = 'running' returning id`,
    [owner, leaseMs],
    'operations_renew',
  );
  return rows.map((row) => row.id);
}

/** Ends the leases that an earlier process of this node left behind; only sound while this is its one process. */
export async function takeOverLeases(db: Queryable, nodeId: string, owner: string): Promise<void> {
  await db.query(
    `update operations o set lease_owner = null, lease_until = null from projects p
     where p.id = o.project_id and p.node_id = $1 and o.status in ${UNFINISHED} and o.lease_owner <> $2`,
    [nodeId, owner],
  );
}

/**
 * Ends an operation that `owner` holds. Undefined: the lease was lost, nothing was written, and the caller must roll
 * back what it did in the same transaction.
 */
export async function endOperation(
  tx: Queryable,
  end: { id: string; owner: string; status: OperationStatus; error: string | null; failed: boolean },
): Promise<OperationRow | undefined> {
  const [row] = await tx.query<OperationRow>(
    `update operations set status = $3, error = $4, failures_count = failures_count + $5::integer,
       lease_owner = null, lease_until = null, updated_at = now(), finished_at = clock_timestamp()
     where id = $1 and lease_owner = $2 and status = 'running' returning ${COLUMNS}`,
    [end.id, end.owner, end.status, end.error, end.failed ? 1 : 0],
    'operations_end',
  );
  return row;
}

/** Puts an operation back after a failed try; it becomes runnable at `now + delayMs`. */
export async function retryOperation(
  db: Queryable,
  retry: { id: string; owner: string; error: string; delayMs: number },
): Promise<void> {
  await db.query(
    `update operations set status = 'scheduling', error = $3, failures_count = failures_count + 1,
       retry_at = now() + $4 * interval '1 millisecond', lease_owner = null, lease_until = null, updated_at = now()
     where id = $1 and lease_owner = $2 and status = 'running'`,
    [retry.id, retry.owner, retry.error, retry.delayMs],
    'operations_retry',
  );
}

/** Gives the owner's operations back untried, at shutdown. */
export async function releaseOperations(db: Queryable, owner: string): Promise<void> {
  await db.query(
    `update operations set lease_owner = null, lease_until = null where lease_owner = $1 and status in ${UNFINISHED}`,
    [owner],
  );
}

export async function readOperations(db: Queryable, ids: readonly string[]): Promise<OperationRow[]> {
  return db.query<OperationRow>(`select ${COLUMNS} from operations where id = any ($1)`, [ids], 'operations_by_ids');
}

/** Newest first. `before` is the created_at of the last row of the page before. */
export async function listOperations(
  db: Queryable,
  list: { projectId: string; limit: number; before?: Timestamp | undefined },
): Promise<OperationRow[]> {
  return db.query<OperationRow>(
    `select ${COLUMNS} from operations
     where project_id = $1 and ($2::timestamptz is null or created_at < $2) order by created_at desc, id desc limit $3`,
    [list.projectId, list.before ?? null, list.limit],
    'operations_list',
  );
}

/** The newest unfinished operation that starts, stops or configures the endpoint's compute. */
export async function lastUnfinishedOfEndpoint(db: Queryable, endpointId: string): Promise<OperationRow | undefined> {
  const [row] = await db.query<OperationRow>(
    `select ${COLUMNS} from operations where endpoint_id = $1 and status in ${UNFINISHED} order by seq desc limit 1`,
    [endpointId],
    'operations_last_of_endpoint',
  );
  return row;
}

/** Removes what ended long ago; returns how many. */
export async function pruneOperations(db: Queryable, olderThanDays: number): Promise<number> {
  const rows = await db.query(
    `delete from operations where id = any (array(
       select id from operations where finished_at < now() - $1 * interval '1 day' limit 10000)) returning id`,
    [olderThanDays],
  );
  return rows.length;
}
