/**
 * What projects, branches, endpoints, roles and databases have to know about endpoints alike: whether one is awake, what
 * a new one looks like, and which operations bring a change into Postgres.
 */
import type { EndpointCreateRequest, EndpointSettingsData } from '@neon/sdk/raw';
import type { NewEndpoint } from '../catalog/endpoints.ts';
import type { EndpointRow, JsonObject, ProjectRow } from '../catalog/types.ts';
import { newEndpointId } from '../lib/ids.ts';
import type { NewOperation } from '../operations/types.ts';
import { resolveComputeSize, resolveEndpointSettings, validateSuspendTimeout } from './compute-settings.ts';
import { notImplemented } from './errors.ts';
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
  if (asked.type !== 'read_write') throw notImplemented('an endpoint of type read_only');
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
