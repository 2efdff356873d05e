/**
 * What the proxy asks for each connection: few columns, named statements.
 */
import type { EndpointRow, OperationAction, Queryable } from './types.ts';

export interface EndpointLookup {
  endpointId: string;
  projectId: string;
  branchId: string;
  disabled: boolean;
  protected: boolean;
  allowedIps: string[];
  protectedBranchesOnly: boolean;
  blockPublicConnections: boolean;
}

/** Undefined for what is deleted, its branch and its project included. */
export async function lookUpEndpoint(db: Queryable, endpointId: string): Promise<EndpointLookup | undefined> {
  const [row] = await db.query<EndpointLookup>(
    `select e.id as endpoint_id, e.project_id, e.branch_id, e.disabled, b.protected,
       coalesce(p.settings #> '{allowed_ips,ips}', '[]') as allowed_ips,
       coalesce((p.settings #>> '{allowed_ips,protected_branches_only}')::boolean, false) as protected_branches_only,
       coalesce((p.settings ->> 'block_public_connections')::boolean, false) as block_public_connections
     from endpoints e join branches b on b.id = e.branch_id join projects p on p.id = e.project_id
     where e.id = $1 and e.deleted_at is null and b.deleted_at is null and p.deleted_at is null`,
    [endpointId],
    'proxy_endpoint',
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
  disabled: boolean;
  deleted: boolean;
  currentState: EndpointRow['currentState'];
  /** The newest unfinished operation on the endpoint. */
  operationId: string | null;
  operationAction: OperationAction | null;
}

/** Holds the endpoint's row until the transaction ends, so that one wake at a time decides. */
export async function lockForWake(tx: Queryable, endpointId: string): Promise<WakeState | undefined> {
  const [row] = await tx.query<WakeState>(
    `select e.disabled, e.current_state,
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
