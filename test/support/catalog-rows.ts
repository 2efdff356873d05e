/**
 * Rows for tests of operations and reconcilers: projects, branches and endpoints without the rules of the control plane.
 */
import type { Queryable } from '../../src/catalog/types.ts';
import { newBranchId, newEndpointId, newOrganizationId, newProjectId, newUuid } from '../../src/lib/ids.ts';

export interface TestProject {
  projectId: string;
  nodeId: string;
}

export interface TestBranch {
  projectId: string;
  branchId: string;
  endpointId: string;
}

export async function insertProject(db: Queryable, nodeId = 'node-test'): Promise<TestProject> {
  const [userId, orgId, projectId] = [newUuid(), newOrganizationId(), newProjectId()];
  await db.query(`insert into users (id, email, name) values ($1, $2, 'Test')`, [userId, `${userId}@example.com`]);
  await db.query(`insert into organizations (id, name, handle) values ($1, 'Test', $1)`, [orgId]);
  await db.query(
    `insert into projects (id, node_id, org_id, owner_id, name, region_id, pg_version, default_endpoint_settings, settings)
     values ($1, $2, $3, $4, 'test', 'local', 17, '{}', '{}')`,
    [projectId, nodeId, orgId, userId],
  );
  return { projectId, nodeId };
}

/** A branch (a root unless `parentId` is given) with its read-write endpoint, both in the states given. */
export async function insertBranch(
  db: Queryable,
  projectId: string,
  options: { parentId?: string; branchState?: string; endpointState?: string; suspendTimeoutSeconds?: number } = {},
): Promise<TestBranch> {
  const [branchId, endpointId] = [newBranchId(), newEndpointId()];
  await db.query(
    `insert into branches (id, project_id, parent_id, name, current_state, timeline_id) values ($1, $2, $3, $1, $4, $1)`,
    [branchId, projectId, options.parentId ?? null, options.branchState ?? 'ready'],
  );
  await db.query(
    `insert into endpoints (id, project_id, branch_id, type, current_state, autoscaling_limit_min_cu,
       autoscaling_limit_max_cu, suspend_timeout_seconds, region_id)
     values ($1, $2, $3, 'read_write', $4, 0.25, 0.25, $5, 'local')`,
    [endpointId, projectId, branchId, options.endpointState ?? 'idle', options.suspendTimeoutSeconds ?? 0],
  );
  return { projectId, branchId, endpointId };
}
