/**
 * What the proxy asks for each connection: few columns, named statements.
 */
import type { EndpointRow, EndpointType, OperationAction, Queryable } from './types.ts';

export interface EndpointLookup {
  endpointId: string;
  type: EndpointType;
  /** Of the same branch. */
  readWriteEndpointId: string | null;
  projectId: string;
  branchId: string;
  disabled: boolean;
  protected: boolean;
  allowedIps: string[];
  protectedBranchesOnly: boolean;
  blockPublicConnections: boolean;
  minCu: number;
  maxCu: number;
  jwks: { jwksUrl: string; audience: string | null; roleNames: string[] }[];
}

const LOOKUP = `
     select e.id as endpoint_id, e.type, b.project_id, b.id as branch_id, coalesce(e.disabled, false) as disabled, b.protected,
       (select w.id from endpoints w where w.branch_id = b.id and w.type = 'read_write' and w.deleted_at is null)
         as read_write_endpoint_id,
       coalesce(p.settings #> '{allowed_ips,ips}', '[]') as allowed_ips,
       coalesce((p.settings #>> '{allowed_ips,protected_branches_only}')::boolean, false) as protected_branches_only,
       coalesce((p.settings ->> 'block_public_connections')::boolean, false) as block_public_connections,
       coalesce(e.autoscaling_limit_min_cu, 0.25)::float8 as min_cu,
       coalesce(e.autoscaling_limit_max_cu, 0.25)::float8 as max_cu,
       (select coalesce(jsonb_agg(jsonb_build_object('jwksUrl', j.jwks_url, 'audience', j.jwt_audience,
            'roleNames', to_jsonb(j.role_names)) order by j.created_at, j.id), '[]')
         from project_jwks j where j.project_id = b.project_id and (j.branch_id is null or j.branch_id = b.id)) as jwks`;

/** Undefined for what is deleted, its branch and its project included. */
export async function lookUpEndpoint(db: Queryable, endpointId: string): Promise<EndpointLookup | undefined> {
  const [row] = await db.query<EndpointLookup>(
    `${LOOKUP} from endpoints e join branches b on b.id = e.branch_id join projects p on p.id = e.project_id
     where e.id = $1 and e.deleted_at is null and b.deleted_at is null and p.deleted_at is null`,
    [endpointId],
    'proxy_endpoint',
  );
  return row;
}

/** The oldest endpoint of the branch that is of the type. */
export async function lookUpBranchEndpoint(
  db: Queryable,
  branchId: string,
  type: EndpointType,
): Promise<EndpointLookup | undefined> {
  const [row] = await db.query<EndpointLookup>(
    `${LOOKUP} from endpoints e join branches b on b.id = e.branch_id join projects p on p.id = e.project_id
     where b.id = $1 and e.type = $2 and e.deleted_at is null and b.deleted_at is null and p.deleted_at is null
     order by e.created_at, e.id limit 1`,
    [branchId, type],
    'proxy_branch_endpoint',
  );
  return row;
}

/** The branch of an endpoint or branch id, as an endpoint of its past, which no endpoint stands for. */
export async function lookUpPast(db: Queryable, id: string): Promise<Omit<EndpointLookup, 'type'> | undefined> {
  const [row] = await db.query<Omit<EndpointLookup, 'type'>>(
    `select found.branch_id as endpoint_id, found.project_id, found.branch_id, found.disabled, found.protected,
       found.read_write_endpoint_id, found.allowed_ips, found.protected_branches_only, found.block_public_connections,
       found.min_cu, found.max_cu, found.jwks
     from (${LOOKUP}
       from branches b join projects p on p.id = b.project_id
       left join endpoints e on e.id = $1 and e.branch_id = b.id and e.deleted_at is null
       where b.id = coalesce((select n.branch_id from endpoints n where n.id = $1 and n.deleted_at is null), $1)
         and b.deleted_at is null and p.deleted_at is null) found`,
    [id],
    'proxy_past',
  );
  return row;
}

/** What it takes to start a compute in the past of a branch. */
export interface PastWork {
  projectId: string;
  projectNumber: number;
  timelineId: string;
  pgVersion: number;
  historyRetentionSeconds: number;
  /** Of the read-write endpoint. */
  minCu: number | null;
  maxCu: number | null;
}

export async function pastWork(db: Queryable, branchId: string): Promise<PastWork | undefined> {
  const [row] = await db.query<PastWork>(
    `select b.project_id, p.number as project_number, b.timeline_id, p.pg_version, p.history_retention_seconds,
       e.autoscaling_limit_min_cu as min_cu, e.autoscaling_limit_max_cu as max_cu
     from branches b join projects p on p.id = b.project_id
     left join endpoints e on e.branch_id = b.id and e.type = 'read_write' and e.deleted_at is null
     where b.id = $1 and b.deleted_at is null and p.deleted_at is null and b.current_state <> 'init'`,
    [branchId],
    'proxy_past_work',
  );
  return row;
}

/** Undefined: no such role, or it cannot log in with a password. */
export async function lookUpVerifier(db: Queryable, branchId: string, role: string): Promise<string | undefined> {
  const [row] = await db.query<{ verifier: string }>(
    `select verifier from roles
     where branch_id = $1 and name = $2 and not no_login and verifier is not null and state <> 'deleting'`,
    [branchId, role],
    'proxy_verifier',
  );
  return row?.verifier;
}

export interface WakeState {
  /** Now; an endpoint may move. */
  branchId: string;
  disabled: boolean;
  deleted: boolean;
  currentState: EndpointRow['currentState'];
  /** The newest unfinished operation on the endpoint. */
  operationId: string | null;
  operationAction: OperationAction | null;
}

/**
 * Holds the endpoint's row until the transaction ends, so that one wake at a time decides. Undefined: there is none, or
 * it moved to another branch while its row was waited for (then ask again).
 */
export async function lockForWake(tx: Queryable, endpointId: string): Promise<WakeState | undefined> {
  const [row] = await tx.query<WakeState>(
    `select e.branch_id, e.disabled, e.current_state,
       (e.deleted_at is not null or b.deleted_at is not null or p.deleted_at is not null) as deleted,
       o.id as operation_id, o.action as operation_action
     from endpoints e join branches b on b.id = e.branch_id join projects p on p.id = e.project_id
     left join lateral (select u.id, u.action from operations u
       where u.endpoint_id = e.id and u.status in ('scheduling', 'running', 'cancelling')
       order by u.seq desc limit 1) o on true
     where e.id = $1 for no key update of e`,
    [endpointId],
    'proxy_lock_for_wake',
  );
  return row;
}

export async function markWaking(tx: Queryable, endpointId: string): Promise<void> {
  await tx.query(
    `update endpoints set pending_state = 'active', updated_at = now() where id = $1 and current_state <> 'active'`,
    [endpointId],
    'proxy_mark_waking',
  );
}
