/**
 * What actions and reconcilers read and write beside the queue: the rows behind a compute, and the facts that the
 * engine reports. Each function is one statement and idempotent; those that settle pending work only touch rows that
 * are still as they were read, so that a request that came in between is not lost.
 */
import type {
  BranchState,
  EndpointRow,
  EndpointType,
  JsonObject,
  PendingState,
  Queryable,
  Timestamp,
} from './types.ts';

export interface PendingRole {
  name: string;
  state: PendingState;
  verifier: string | null;
  noLogin: boolean;
  plain: boolean;
}

export interface PendingDatabase {
  id: number;
  name: string;
  ownerName: string;
  state: PendingState;
  appliedName: string | null;
}

/** All that starting or configuring a compute needs to know. */
export interface ComputeWork {
  endpointId: string;
  projectId: string;
  branchId: string;
  /** Of the branch, now. */
  timelineId: string;
  /** What the branch's data says of roles and databases has not been read since it was put in place. */
  factsDue: boolean;
  type: EndpointType;
  currentState: EndpointRow['currentState'];
  /** Null: the endpoint has never run. */
  startedAt: Timestamp | null;
  autoscalingLimitMinCu: number;
  autoscalingLimitMaxCu: number;
  settings: JsonObject;
  branchState: BranchState;
  /** The branch has passwords of its own: those in the data may be its parent's. */
  parentProtected: boolean;
  projectNumber: number;
  pgVersion: number;
  projectSettings: JsonObject;
  /** The branch's read-write endpoint. */
  primary: { minCu: number; maxCu: number; settings: JsonObject } | null;
  /** Those that a JWT may log in as. */
  jwtRoles: string[];
  /** Not `ready` ones only. */
  roles: PendingRole[];
  databases: PendingDatabase[];
}

const COMPUTE_WORK = `
  select e.id as endpoint_id, e.project_id, e.branch_id, e.type, e.current_state, e.started_at,
    e.autoscaling_limit_min_cu, e.autoscaling_limit_max_cu, e.settings,
    b.current_state as branch_state, b.timeline_id, b.facts_due, p.number as project_number,
    p.pg_version, p.settings as project_settings,
    exists (select 1 from branches parent where parent.id = b.parent_id and parent.protected) as parent_protected,
    (select jsonb_build_object('minCu', w.autoscaling_limit_min_cu, 'maxCu', w.autoscaling_limit_max_cu, 'settings', w.settings)
      from endpoints w where w.branch_id = e.branch_id and w.type = 'read_write' and w.deleted_at is null) as primary,
    (select coalesce(jsonb_agg(distinct n.name order by n.name), '[]')
      from project_jwks j cross join unnest(j.role_names) as n (name)
      where j.project_id = e.project_id and (j.branch_id is null or j.branch_id = e.branch_id)) as jwt_roles,
    (select coalesce(jsonb_agg(jsonb_build_object('name', r.name, 'state', r.state, 'verifier', r.verifier,
        'noLogin', r.no_login, 'plain', r.plain) order by r.created_at, r.name), '[]')
      from roles r where r.branch_id = e.branch_id and r.state <> 'ready') as roles,
    (select coalesce(jsonb_agg(jsonb_build_object('id', d.id, 'name', d.name, 'ownerName', d.owner_name,
        'state', d.state, 'appliedName', d.applied_name) order by d.id), '[]')
      from databases d where d.branch_id = e.branch_id and d.state <> 'ready') as databases
  from endpoints e join branches b on b.id = e.branch_id join projects p on p.id = e.project_id`;

/** Undefined when there is no such endpoint. Deleted ones are found: their compute may still have to be stopped. */
export async function computeWork(db: Queryable, endpointId: string): Promise<ComputeWork | undefined> {
  const [row] = await db.query<ComputeWork>(`${COMPUTE_WORK} where e.id = $1`, [endpointId], 'compute_work');
  return row;
}

/** The same for the read-write endpoint of a branch. */
export async function computeWorkOfBranch(db: Queryable, branchId: string): Promise<ComputeWork | undefined> {
  const [row] = await db.query<ComputeWork>(
    `${COMPUTE_WORK} where e.branch_id = $1 and e.type = 'read_write' and e.deleted_at is null`,
    [branchId],
    'compute_work_of_branch',
  );
  return row;
}

/** Of the branch, in whatever state. */
export async function roleNames(db: Queryable, branchId: string): Promise<Set<string>> {
  const rows = await db.query<{ name: string }>(
    'select name from roles where branch_id = $1',
    [branchId],
    'role_names',
  );
  return new Set(rows.map((row) => row.name));
}

/** What making or deleting a timeline needs to know. */
export interface TimelineWork {
  branchId: string;
  projectId: string;
  timelineId: string;
  parentTimelineId: string | null;
  parentId: string | null;
  parentState: BranchState | null;
  projectNumber: number;
  pgVersion: number;
  endpointIds: string[];
}

export async function timelineWork(db: Queryable, branchId: string): Promise<TimelineWork | undefined> {
  const [row] = await db.query<TimelineWork>(
    `select b.id as branch_id, b.project_id, b.timeline_id, b.parent_id, p.number as project_number, p.pg_version,
       (select parent.current_state from branches parent where parent.id = b.parent_id) as parent_state,
       (select parent.timeline_id from branches parent where parent.id = b.parent_id) as parent_timeline_id,
       (select coalesce(jsonb_agg(e.id), '[]') from endpoints e where e.branch_id = b.id) as endpoint_ids
     from branches b join projects p on p.id = b.project_id where b.id = $1`,
    [branchId],
    'timeline_work',
  );
  return row;
}

/** True while the row of a branch or snapshot that is to stay stands for it. */
export async function timelineInUse(db: Queryable, timelineId: string): Promise<boolean> {
  const [row] = await db.query<{ used: boolean }>(
    `select exists (select 1 from branches where timeline_id = $1 and purged_at is null)
       or exists (select 1 from snapshots where timeline_id = $1 and deleted_at is null) as used`,
    [timelineId],
  );
  return row!.used;
}

export async function branchReady(
  tx: Queryable,
  branch: { branchId: string; parentLsn: string | null; parentTimestamp: Timestamp | null; archived?: boolean },
): Promise<void> {
  await tx.query(
    `update branches set current_state = case when $4 then 'archived' else 'ready' end, pending_state = null, state_changed_at = now(), updated_at = now(),
       parent_lsn = coalesce($2, parent_lsn), parent_timestamp = coalesce($3, parent_timestamp)
     where id = $1 and current_state = 'init'`,
    [branch.branchId, branch.parentLsn, branch.parentTimestamp, branch.archived ?? false],
    'branch_ready',
  );
}

/** The branch could not be made: it stays `init` and nothing is pending any more. */
export async function branchFailed(tx: Queryable, branchId: string): Promise<void> {
  await tx.query(
    `update branches set pending_state = null, state_changed_at = now(), updated_at = now()
     where id = $1 and current_state = 'init'`,
    [branchId],
  );
}

/** `pending_state` survives when it names another state: then a later operation is already on its way. */
export async function endpointActive(tx: Queryable, endpointId: string): Promise<void> {
  await tx.query(
    `with endpoint as (
       update endpoints set
         started_at = case when current_state = 'active' then started_at else now() end,
         last_active = case when current_state = 'active' then last_active else now() end,
         current_state = 'active', pending_state = nullif(pending_state, 'active'), suspended_at = null, updated_at = now()
       where id = $1 returning project_id, branch_id),
     unarchived as (
       update branches b set current_state = 'ready', state_changed_at = now() from endpoint e
       where b.id = e.branch_id and b.current_state = 'archived')
     update projects p set compute_last_active_at = now() from endpoint e where p.id = e.project_id`,
    [endpointId],
    'endpoint_active',
  );
}

export async function endpointIdle(tx: Queryable, endpointId: string): Promise<void> {
  await tx.query(
    `update endpoints set current_state = 'idle', pending_state = nullif(pending_state, 'idle'), updated_at = now(),
       suspended_at = case when current_state = 'idle' then suspended_at else now() end
     where id = $1`,
    [endpointId],
    'endpoint_idle',
  );
}

/** Whatever was pending has failed: the row says what is. */
export async function endpointIs(tx: Queryable, endpointId: string, state: 'active' | 'idle'): Promise<void> {
  await (state === 'active' ? endpointActive(tx, endpointId) : endpointIdle(tx, endpointId));
  await tx.query('update endpoints set pending_state = null where id = $1', [endpointId], 'endpoint_settled');
}

/** Pending changes that are done now: `deleting` rows go, the others become ready unless they changed meanwhile. */
export async function settlePending(
  tx: Queryable,
  branchId: string,
  seen: { roles: readonly PendingRole[]; databases: readonly PendingDatabase[] },
): Promise<void> {
  if (seen.roles.length > 0) {
    await tx.query(
      `with seen as (select * from jsonb_to_recordset($2::jsonb) as s (name text, state text, verifier text)),
       gone as (delete from roles r using seen s
         where r.branch_id = $1 and r.name = s.name and r.state = 'deleting' and s.state = 'deleting')
       update roles r set state = 'ready' from seen s
       where r.branch_id = $1 and r.name = s.name and r.state = s.state and s.state <> 'deleting'
         and r.verifier is not distinct from s.verifier`,
      [branchId, JSON.stringify(seen.roles)],
      'settle_roles',
    );
  }
  if (seen.databases.length > 0) {
    await tx.query(
      `with seen as (select * from jsonb_to_recordset($2::jsonb) as s
         (id bigint, name text, "ownerName" text, state text, "appliedName" text)),
       gone as (delete from databases d using seen s
         where d.branch_id = $1 and d.id = s.id and d.state = 'deleting' and s.state = 'deleting')
       update databases d set state = 'ready', applied_name = null from seen s
       where d.branch_id = $1 and d.id = s.id and d.state = s.state and s.state <> 'deleting' and d.name = s.name
         and d.owner_name = s."ownerName" and d.applied_name is not distinct from s."appliedName"`,
      [branchId, JSON.stringify(seen.databases)],
      'settle_databases',
    );
  }
}

/** Roles and databases as a branch's Postgres has them. */
export interface BranchFacts {
  roles: readonly { name: string; verifier: string | null; canLogin: boolean }[];
  databases: readonly { name: string; owner: string }[];
}

/** Makes the `ready` rows of a branch equal to the facts. A password that SQL changed is not known any more. */
export async function recordFacts(
  tx: Queryable,
  branch: { projectId: string; branchId: string },
  facts: BranchFacts,
): Promise<void> {
  await tx.query('update branches set facts_due = false where id = $1 and facts_due', [branch.branchId], 'facts_read');
  const values = [branch.projectId, branch.branchId, JSON.stringify(facts.roles)];
  await tx.query(
    `with facts as (select * from jsonb_to_recordset($3::jsonb) as f (name text, verifier text, "canLogin" boolean)),
     gone as (delete from roles r where r.branch_id = $2 and r.state = 'ready'
       and not exists (select 1 from facts f where f.name = r.name)),
     changed as (update roles r set verifier = f.verifier, no_login = not f."canLogin", updated_at = now(),
         sealed_password = case when r.verifier is distinct from f.verifier then null else r.sealed_password end
       from facts f where r.branch_id = $2 and r.name = f.name and r.state = 'ready'
         and (r.verifier is distinct from f.verifier or r.no_login = f."canLogin"))
     insert into roles (project_id, branch_id, name, verifier, no_login)
     select $1, $2, f.name, f.verifier, not f."canLogin" from facts f on conflict (branch_id, name) do nothing`,
    values,
    'record_roles',
  );
  // A database that is being renamed is known to Postgres by its old name until the rename is applied.
  await tx.query(
    `with facts as (select * from jsonb_to_recordset($3::jsonb) as f (name text, owner text)),
     gone as (delete from databases d where d.branch_id = $2 and d.state = 'ready'
       and not exists (select 1 from facts f where f.name = d.name)),
     changed as (update databases d set owner_name = f.owner, updated_at = now() from facts f
       where d.branch_id = $2 and d.name = f.name and d.state = 'ready' and d.owner_name <> f.owner)
     insert into databases (project_id, branch_id, name, owner_name)
     select $1, $2, f.name, f.owner from facts f
     where not exists (select 1 from databases d where d.branch_id = $2 and d.applied_name = f.name)
     on conflict (branch_id, name) do nothing`,
    [branch.projectId, branch.branchId, JSON.stringify(facts.databases)],
    'record_databases',
  );
}

/** True when recordFacts would change something. */
export async function differsFromFacts(db: Queryable, branchId: string, facts: BranchFacts): Promise<boolean> {
  const [row] = await db.query<{ differs: boolean }>(
    `with role_facts as (select * from jsonb_to_recordset($2::jsonb) as f (name text, verifier text, "canLogin" boolean)),
     database_facts as (select * from jsonb_to_recordset($3::jsonb) as f (name text, owner text))
     select exists (select 1 from role_facts f where not exists (select 1 from roles r
           where r.branch_id = $1 and r.name = f.name
             and (r.state <> 'ready' or (r.verifier is not distinct from f.verifier and r.no_login <> f."canLogin"))))
       or exists (select 1 from roles r where r.branch_id = $1 and r.state = 'ready'
           and not exists (select 1 from role_facts f where f.name = r.name))
       or exists (select 1 from database_facts f where not exists (select 1 from databases d
           where d.branch_id = $1 and (d.name = f.name or d.applied_name = f.name)
             and (d.state <> 'ready' or d.owner_name = f.owner)))
       or exists (select 1 from databases d where d.branch_id = $1 and d.state = 'ready'
           and not exists (select 1 from database_facts f where f.name = d.name)) as differs`,
    [branchId, JSON.stringify(facts.roles), JSON.stringify(facts.databases)],
    'differs_from_facts',
  );
  return row!.differs;
}
