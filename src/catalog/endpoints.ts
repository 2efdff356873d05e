/**
 * Queries on `endpoints` for the control plane. Deleted endpoints are invisible to every query here.
 *
 * The states belong to the operations; what is written here is what users set, and the state that was asked for
 * (`pending_state`).
 */
import type { EndpointRow, EndpointType, JsonObject, Queryable } from './types.ts';

export interface NewEndpoint {
  id: string;
  projectId: string;
  branchId: string;
  type: EndpointType;
  name: string | null;
  /** `init` with pending `active` when it starts at once; `idle` when it is made disabled. */
  starts: boolean;
  autoscalingLimitMinCu: number;
  autoscalingLimitMaxCu: number;
  suspendTimeoutSeconds: number;
  settings: JsonObject;
  poolerEnabled: boolean;
  disabled: boolean;
  passwordlessAccess: boolean;
  regionId: string;
}

export async function insertEndpoint(tx: Queryable, endpoint: NewEndpoint): Promise<EndpointRow> {
  const rows = await tx.query<EndpointRow>(
    `insert into endpoints (id, project_id, branch_id, type, name, current_state, pending_state,
       autoscaling_limit_min_cu, autoscaling_limit_max_cu, suspend_timeout_seconds, settings, pooler_enabled, disabled,
       passwordless_access, region_id)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) returning *`,
    [
      endpoint.id,
      endpoint.projectId,
      endpoint.branchId,
      endpoint.type,
      endpoint.name,
      endpoint.starts ? 'init' : 'idle',
      endpoint.starts ? 'active' : null,
      endpoint.autoscalingLimitMinCu,
      endpoint.autoscalingLimitMaxCu,
      endpoint.suspendTimeoutSeconds,
      JSON.stringify(endpoint.settings),
      endpoint.poolerEnabled,
      endpoint.disabled,
      endpoint.passwordlessAccess,
      endpoint.regionId,
    ],
  );
  return rows[0]!;
}

export async function findEndpoint(db: Queryable, projectId: string, id: string): Promise<EndpointRow | undefined> {
  const rows = await db.query<EndpointRow>(
    'select * from endpoints where id = $2 and project_id = $1 and deleted_at is null',
    [projectId, id],
    'find_endpoint',
  );
  return rows[0];
}

/** Keeps the endpoint's state as it is read until the end of the transaction. */
export async function lockEndpoint(tx: Queryable, projectId: string, id: string): Promise<EndpointRow | undefined> {
  const rows = await tx.query<EndpointRow>(
    'select * from endpoints where id = $2 and project_id = $1 and deleted_at is null for no key update',
    [projectId, id],
    'lock_endpoint',
  );
  return rows[0];
}

/** The branch's read-write endpoint, its state held as by lockEndpoint. */
export async function lockReadWriteEndpoint(tx: Queryable, branchId: string): Promise<EndpointRow | undefined> {
  const rows = await tx.query<EndpointRow>(
    `select * from endpoints where branch_id = $1 and type = 'read_write' and deleted_at is null for no key update`,
    [branchId],
    'lock_read_write_endpoint',
  );
  return rows[0];
}

export async function listProjectEndpoints(db: Queryable, projectId: string): Promise<EndpointRow[]> {
  return db.query<EndpointRow>(
    'select * from endpoints where project_id = $1 and deleted_at is null order by created_at, id',
    [projectId],
    'list_project_endpoints',
  );
}

export async function listBranchEndpoints(db: Queryable, branchId: string): Promise<EndpointRow[]> {
  return db.query<EndpointRow>(
    'select * from endpoints where branch_id = $1 and deleted_at is null order by created_at, id',
    [branchId],
    'list_branch_endpoints',
  );
}

export interface EndpointChanges {
  name: string | null;
  autoscalingLimitMinCu: number;
  autoscalingLimitMaxCu: number;
  suspendTimeoutSeconds: number;
  settings: JsonObject;
  poolerEnabled: boolean;
  disabled: boolean;
  passwordlessAccess: boolean;
}

/** The row must be locked: every column that users can change is written. */
export async function updateEndpoint(tx: Queryable, id: string, changes: EndpointChanges): Promise<EndpointRow> {
  const rows = await tx.query<EndpointRow>(
    `update endpoints set name = $2, autoscaling_limit_min_cu = $3, autoscaling_limit_max_cu = $4,
       suspend_timeout_seconds = $5, settings = $6, pooler_enabled = $7, disabled = $8, passwordless_access = $9,
       updated_at = now()
     where id = $1 returning *`,
    [
      id,
      changes.name,
      changes.autoscalingLimitMinCu,
      changes.autoscalingLimitMaxCu,
      changes.suspendTimeoutSeconds,
      JSON.stringify(changes.settings),
      changes.poolerEnabled,
      changes.disabled,
      changes.passwordlessAccess,
    ],
  );
  return rows[0]!;
}

export async function setEndpointPendingState(
  tx: Queryable,
  id: string,
  pendingState: 'active' | 'idle',
): Promise<EndpointRow> {
  const rows = await tx.query<EndpointRow>(
    'update endpoints set pending_state = $2, updated_at = now() where id = $1 returning *',
    [id, pendingState],
  );
  return rows[0]!;
}

export async function markEndpointDeleted(tx: Queryable, id: string): Promise<EndpointRow> {
  const rows = await tx.query<EndpointRow>(
    'update endpoints set deleted_at = now(), updated_at = now() where id = $1 returning *',
    [id],
  );
  return rows[0]!;
}
