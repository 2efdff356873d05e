/**
 * Endpoints: made, changed, started, suspended, deleted. What is asked for while something else is under way is queued:
 * operations of one branch run in order.
 */
import type {
  CreateProjectEndpointResponses,
  DeleteProjectEndpointResponses,
  EndpointCreateRequest,
  EndpointSettingsData,
  EndpointUpdateRequest,
  GetProjectEndpointResponses,
  ListProjectEndpointsResponses,
  StartProjectEndpointResponses,
  UpdateProjectEndpointResponses,
} from '@neon/sdk/raw';
import { findBranch } from '../catalog/branches.ts';
import {
  findEndpoint,
  insertEndpoint,
  listBranchEndpoints,
  listProjectEndpoints,
  lockEndpoint,
  markEndpointDeleted,
  setEndpointPendingState,
  updateEndpoint,
  type EndpointChanges,
} from '../catalog/endpoints.ts';
import type { EndpointRow, JsonObject, OperationRow, ProjectRow, Queryable } from '../catalog/types.ts';
import type { Caller } from './caller.ts';
import { resolveComputeSize, resolveEndpointSettings, validateSuspendTimeout } from './compute-settings.ts';
import { changeProject, readProject, type Context } from './context.ts';
import { assertMayHave, isAwake, planEndpoint, replicasFirst } from './endpoint-rules.ts';
import { branchNotFound, endpointNotFound, invalidRequest, notImplemented, unprocessable } from './errors.ts';
import { validateDisplayName } from './names.ts';
import { assertNotBackup } from './points.ts';
import { presentEndpoint, presentOperation } from './present.ts';

type Changed = StartProjectEndpointResponses[200];

export interface Endpoints {
  list(caller: Caller, projectId: string): Promise<ListProjectEndpointsResponses[200]>;
  listOfBranch(caller: Caller, projectId: string, branchId: string): Promise<ListProjectEndpointsResponses[200]>;
  create(caller: Caller, projectId: string, body: EndpointCreateRequest): Promise<CreateProjectEndpointResponses[201]>;
  get(caller: Caller, projectId: string, id: string): Promise<GetProjectEndpointResponses[200]>;
  update(
    caller: Caller,
    projectId: string,
    id: string,
    body: EndpointUpdateRequest,
  ): Promise<UpdateProjectEndpointResponses[200]>;
  /** Undefined: there is no such endpoint any more. */
  delete(caller: Caller, projectId: string, id: string): Promise<DeleteProjectEndpointResponses[200] | undefined>;
  start(caller: Caller, projectId: string, id: string): Promise<Changed>;
  suspend(caller: Caller, projectId: string, id: string): Promise<Changed>;
  restart(caller: Caller, projectId: string, id: string): Promise<Changed>;
}

export function createEndpoints(context: Context): Endpoints {
  const change = changeEndpoint(context);
  return {
    list: async (caller, projectId) => {
      const project = await readProject(context, caller, projectId);
      const rows = await listProjectEndpoints(context.catalog, projectId);
      return { endpoints: rows.map((row) => presentEndpoint(row, project.provisioner, context.config)) };
    },
    listOfBranch: async (caller, projectId, branchId) => {
      const project = await readProject(context, caller, projectId);
      if (!(await findBranch(context.catalog, projectId, branchId))) throw branchNotFound();
      const rows = await listBranchEndpoints(context.catalog, branchId);
      return { endpoints: rows.map((row) => presentEndpoint(row, project.provisioner, context.config)) };
    },
    create: (caller, projectId, body) => create(context, caller, projectId, body),
    get: async (caller, projectId, id) => {
      const project = await readProject(context, caller, projectId);
      const row = await findEndpoint(context.catalog, projectId, id);
      if (!row) throw endpointNotFound();
      return { endpoint: presentEndpoint(row, project.provisioner, context.config) };
    },
    update: (caller, projectId, id, body) => update(context, caller, projectId, id, body),
    delete: (caller, projectId, id) => remove(context, caller, projectId, id),
    start: (caller, projectId, id) =>
      change(caller, projectId, id, async (tx, endpoint) => {
        assertEnabled(endpoint);
        return {
          row: isAwake(endpoint) ? endpoint : await setEndpointPendingState(tx, id, 'active'),
          operations: await append(context, tx, endpoint, ['start_compute']),
        };
      }),
    suspend: (caller, projectId, id) =>
      change(caller, projectId, id, async (tx, endpoint) => ({
        row: isAwake(endpoint) ? await setEndpointPendingState(tx, id, 'idle') : endpoint,
        operations: await append(context, tx, endpoint, ['suspend_compute']),
      })),
    restart: (caller, projectId, id) =>
      change(caller, projectId, id, async (tx, endpoint) => {
        assertEnabled(endpoint);
        return {
          row: await setEndpointPendingState(tx, id, 'active'),
          operations: await append(context, tx, endpoint, ['suspend_compute', 'start_compute']),
        };
      }),
  };
}

interface EndpointChange {
  row: EndpointRow;
  operations: OperationRow[];
}

type EndpointWork = (tx: Queryable, endpoint: EndpointRow, project: ProjectRow) => Promise<EndpointChange>;

/** Changes one endpoint whose row is locked, and presents it with its operations. */
function changeEndpoint(context: Context) {
  return (caller: Caller, projectId: string, id: string, work: EndpointWork): Promise<Changed> =>
    changeProject(context, caller, projectId, async (tx, project) => {
      const endpoint = await lockEndpoint(tx, projectId, id);
      if (!endpoint) throw endpointNotFound();
      return present(context, project, await work(tx, endpoint, project));
    });
}

function present(context: Context, project: ProjectRow, change: EndpointChange): Changed {
  const now = context.now();
  return {
    endpoint: presentEndpoint(change.row, project.provisioner, context.config),
    operations: change.operations.map((operation) => presentOperation(operation, now)),
  };
}

function append(
  context: Context,
  tx: Queryable,
  endpoint: EndpointRow,
  actions: readonly ('start_compute' | 'suspend_compute' | 'apply_config')[],
): Promise<OperationRow[]> {
  const place = { projectId: endpoint.projectId, branchId: endpoint.branchId, endpointId: endpoint.id };
  return context.queue.append(
    tx,
    actions.map((action) => ({ ...place, action })),
  );
}

async function create(context: Context, caller: Caller, projectId: string, body: EndpointCreateRequest) {
  const asked = body.endpoint;
  return changeProject(context, caller, projectId, async (tx, project) => {
    const branch = await findBranch(tx, projectId, asked.branch_id);
    if (!branch) throw branchNotFound();
    await assertNotBackup(tx, branch);
    if (asked.region_id !== undefined && asked.region_id !== project.regionId) {
      throw invalidRequest('an endpoint is in the region of its project', { region_id: project.regionId });
    }
    const plan = planEndpoint(project, branch.id, asked);
    const others = await listBranchEndpoints(tx, branch.id);
    assertMayHave(others, plan.type);
    const row = await insertEndpoint(tx, plan);
    const replicas = plan.type === 'read_write' ? await context.queue.append(tx, replicasFirst(others)) : [];
    return present(context, project, {
      row,
      operations: [...replicas, ...(plan.starts ? await append(context, tx, row, ['start_compute']) : [])],
    });
  });
}

async function update(
  context: Context,
  caller: Caller,
  projectId: string,
  id: string,
  body: EndpointUpdateRequest,
): Promise<Changed> {
  const asked = body.endpoint;
  return changeEndpoint(context)(caller, projectId, id, async (tx, endpoint, project) => {
    if (asked.branch_id !== undefined && asked.branch_id !== endpoint.branchId) {
      throw notImplemented('moving an endpoint to another branch');
    }
    const changes = planChanges(asked, endpoint, project);
    const row = await updateEndpoint(tx, id, changes);
    const replicas =
      endpoint.type === 'read_write' && changesCompute(endpoint, changes)
        ? await context.queue.append(tx, replicasFirst(await listBranchEndpoints(tx, endpoint.branchId)))
        : [];
    if (!isAwake(endpoint)) return { row, operations: replicas };
    if (changes.disabled) {
      return {
        row: await setEndpointPendingState(tx, id, 'idle'),
        operations: [...replicas, ...(await append(context, tx, row, ['suspend_compute']))],
      };
    }
    const operations = changesCompute(endpoint, changes) ? await append(context, tx, row, ['apply_config']) : [];
    return { row, operations: [...replicas, ...operations] };
  });
}

function planChanges(
  asked: EndpointUpdateRequest['endpoint'],
  endpoint: EndpointRow,
  project: ProjectRow,
): EndpointChanges {
  const present = { minCu: endpoint.autoscalingLimitMinCu, maxCu: endpoint.autoscalingLimitMaxCu };
  const size = resolveComputeSize(asked, present);
  return {
    name: asked.name === undefined ? endpoint.name : validateDisplayName('endpoint', asked.name),
    autoscalingLimitMinCu: size.minCu,
    autoscalingLimitMaxCu: size.maxCu,
    suspendTimeoutSeconds: validateSuspendTimeout(asked.suspend_timeout_seconds ?? endpoint.suspendTimeoutSeconds),
    settings: (asked.settings
      ? resolveEndpointSettings(asked.settings, endpoint.settings as EndpointSettingsData, project.pgVersion)
      : endpoint.settings) as JsonObject,
    poolerEnabled: asked.pooler_enabled ?? endpoint.poolerEnabled,
    disabled: asked.disabled ?? endpoint.disabled,
    passwordlessAccess: asked.passwordless_access ?? endpoint.passwordlessAccess,
  };
}

/** True for what only reaches a running Postgres by configuring it. */
function changesCompute(before: EndpointRow, after: EndpointChanges): boolean {
  return (
    before.autoscalingLimitMinCu !== after.autoscalingLimitMinCu ||
    before.autoscalingLimitMaxCu !== after.autoscalingLimitMaxCu ||
    before.settings !== after.settings
  );
}

async function remove(context: Context, caller: Caller, projectId: string, id: string) {
  return changeProject(context, caller, projectId, async (tx, project) => {
    const endpoint = await lockEndpoint(tx, projectId, id);
    if (!endpoint) return undefined;
    const branch = await findBranch(tx, projectId, endpoint.branchId);
    if (branch?.protected) throw unprocessable('cannot delete endpoint of a protected branch');
    const row = await markEndpointDeleted(tx, id);
    return present(context, project, { row, operations: await append(context, tx, row, ['suspend_compute']) });
  });
}

function assertEnabled(endpoint: EndpointRow): void {
  if (endpoint.disabled) throw unprocessable('endpoint is disabled');
}
