/**
 * What projects, branches, endpoints, roles and databases have to know about endpoints alike: whether one is awake, what
 * a new one looks like, and which operations bring a change into Postgres.
 */
import type { EndpointCreateRequest, EndpointSettingsData } from '@neon/sdk/raw';
import type { NewEndpoint } from '../catalog/endpoints.ts';
import type { EndpointRow, EndpointType, JsonObject, ProjectRow } from '../catalog/types.ts';
import { newEndpointId } from '../lib/ids.ts';
import type { NewOperation } from '../operations/types.ts';
import { resolveComputeSize, resolveEndpointSettings, validateSuspendTimeout } from './compute-settings.ts';
import { unprocessable } from './errors.ts';
import { LIMITS } from './limits.ts';
import { validateDisplayName } from './names.ts';

/** What a request may say about a new endpoint; `branch_id` is settled elsewhere. */
export type EndpointOptions = Omit<EndpointCreateRequest['endpoint'], 'branch_id'>;

/** Running, or asked to run: the state that the last request wanted counts. */
export function isAwake(endpoint: Pick<EndpointRow, 'currentState' | 'pendingState'>): boolean {
  return (endpoint.pendingState ?? endpoint.currentState) === 'active';
}

/**
 * A new endpoint with everything that the request leaves to the project's defaults. The defaults are copied, so that
 * later changes of them touch new endpoints only. Throws 'invalid' or 'not_implemented'.
 */
export function planEndpoint(project: ProjectRow, branchId: string, asked: EndpointOptions): NewEndpoint {
  const defaults = project.defaultEndpointSettings as {
    autoscaling_limit_min_cu: number;
    autoscaling_limit_max_cu: number;
    suspend_timeout_seconds: number;
    pg_settings?: Record<string, string>;
  };
  const size = resolveComputeSize(asked, {
    minCu: defaults.autoscaling_limit_min_cu,
    maxCu: defaults.autoscaling_limit_max_cu,
  });
  const presetSettings: EndpointSettingsData = defaults.pg_settings ? { pg_settings: defaults.pg_settings } : {};
  const disabled = asked.disabled ?? false;
  return {
    id: newEndpointId(),
    projectId: project.id,
    branchId,
    type: asked.type,
    name: asked.name === undefined ? null : validateDisplayName('endpoint', asked.name),
    starts: !disabled,
    autoscalingLimitMinCu: size.minCu,
    autoscalingLimitMaxCu: size.maxCu,
    suspendTimeoutSeconds: validateSuspendTimeout(asked.suspend_timeout_seconds ?? defaults.suspend_timeout_seconds),
    settings: (asked.settings
      ? resolveEndpointSettings(asked.settings, presetSettings, project.pgVersion)
      : presetSettings) as JsonObject,
    poolerEnabled: asked.pooler_enabled ?? false,
    disabled,
    passwordlessAccess: asked.passwordless_access ?? true,
    regionId: project.regionId,
  };
}

/** Throws 'unprocessable' when a branch would have more endpoints of a type than it may. */
export function assertMayHave(present: readonly EndpointRow[], type: EndpointType): void {
  const alike = present.filter((endpoint) => endpoint.type === type).length;
  if (type === 'read_write' && alike > 0) {
    throw unprocessable('read_write endpoint already exists', {}, 'ENDPOINTS_LIMIT_EXCEEDED');
  }
  if (type === 'read_only' && alike >= LIMITS.readOnlyEndpointsPerBranch) {
    throw unprocessable(
      'endpoints limit exceeded',
      { max_read_only: LIMITS.readOnlyEndpointsPerBranch },
      'ENDPOINTS_LIMIT_EXCEEDED',
    );
  }
}

/**
 * A read replica must not be smaller than its primary, whether that runs or not, so awake ones come before it when it
 * changes; those that sleep see what it is when they wake.
 */
export function replicasFirst(endpoints: readonly EndpointRow[]): NewOperation[] {
  return endpoints
    .filter((endpoint) => endpoint.type === 'read_only' && isAwake(endpoint))
    .map(({ projectId, branchId, id }) => ({ projectId, branchId, endpointId: id, action: 'apply_config' }));
}

/**
 * Brings pending roles and databases into Postgres. A sleeping compute is woken for it and put back, unless clients
 * have come by then.
 */
export function applyConfigOperations(endpoint: EndpointRow): NewOperation[] {
  const place = { projectId: endpoint.projectId, branchId: endpoint.branchId, endpointId: endpoint.id };
  const apply: NewOperation = { ...place, action: 'apply_config' };
  if (isAwake(endpoint)) return [apply];
  return [apply, { ...place, action: 'suspend_compute', payload: { idleOnly: true } }];
}
