/**
 * Catalog rows to the shapes of the API: field names and order, what is omitted, times with second precision.
 * Counters of consumption are zero: nothing measures them yet.
 */
import type {
  AnnotationData,
  ApiKeysListResponseItem,
  Branch,
  ConnectionDetails,
  Database,
  DefaultEndpointSettings,
  Endpoint,
  EndpointSettingsData,
  Jwks,
  Operation,
  Organization,
  Project,
  ProjectListItem,
  ProjectSettingsData,
  Role,
  Snapshot,
} from '@neon/sdk/raw';
import type { ApiKeyListRow } from '../catalog/api-keys.ts';
import type { BranchWithCreator } from '../catalog/branches.ts';
import type { ProjectListRow, ProjectWithOwner } from '../catalog/projects.ts';
import type {
  BranchRow,
  DatabaseRow,
  EndpointRow,
  JwksRow,
  OperationRow,
  OrganizationRow,
  ProjectRow,
  RoleRow,
  SnapshotRow,
  Timestamp,
} from '../catalog/types.ts';
import type { ControlPlaneConfig } from './context.ts';
import { connectionUri, endpointHost, poolerHost, proxyHost, type ConnectionTarget } from './hosts.ts';
import { LIMITS } from './limits.ts';

/** Where a time is required and there is none yet. */
const ZERO_TIME = '0001-01-01T00:00:00Z';
/** What `last_active` says before the first use. */
const NEVER_ACTIVE = '2000-01-01T00:00:00Z';
const SUBSCRIPTION = 'scale';

export function presentTime(time: Timestamp): string {
  return `${time.slice(0, 19)}Z`;
}

function optionalTime(time: Timestamp | null): string | undefined {
  return time === null ? undefined : presentTime(time);
}

/** As answers to changes have it: without owner and period. */
export function presentProject(row: ProjectRow, config: ControlPlaneConfig): Project & { slug: string } {
  return {
    data_storage_bytes_hour: 0,
    data_transfer_bytes: 0,
    written_data_bytes: 0,
    compute_time_seconds: 0,
    active_time_seconds: 0,
    cpu_used_sec: 0,
    id: row.id,
    platform_id: platformOf(row.regionId),
    region_id: row.regionId,
    name: row.name,
    slug: row.id,
    provisioner: row.provisioner,
    default_endpoint_settings: presentDefaultSettings(row),
    settings: presentProjectSettings(row),
    pg_version: row.pgVersion,
    proxy_host: proxyHost(config),
    branch_logical_size_limit: LIMITS.branchLogicalSizeBytes / 2 ** 20,
    branch_logical_size_limit_bytes: LIMITS.branchLogicalSizeBytes,
    store_passwords: row.storePasswords,
    creation_source: row.creationSource,
    history_retention_seconds: row.historyRetentionSeconds,
    created_at: presentTime(row.createdAt),
    updated_at: presentTime(row.updatedAt),
    consumption_period_start: ZERO_TIME,
    consumption_period_end: ZERO_TIME,
    owner_id: row.ownerId,
    org_id: row.orgId,
  };
}

/** As reading a single project has it. */
export function presentProjectDetails(row: ProjectWithOwner, config: ControlPlaneConfig, now: Date): Project {
  return {
    ...presentProject(row, config),
    synthetic_storage_size: 0,
    consumption_period_start: monthStart(now, 0),
    consumption_period_end: monthStart(now, 1),
    owner: {
      email: row.ownerEmail,
      name: row.ownerName,
      branches_limit: LIMITS.branchesPerProject,
      subscription_type: SUBSCRIPTION,
    },
    compute_last_active_at: optionalTime(row.computeLastActiveAt),
  };
}

export function presentProjectListItem(
  row: ProjectListRow,
  config: ControlPlaneConfig,
  now: Date,
): ProjectListItem & { slug: string } {
  return {
    id: row.id,
    platform_id: platformOf(row.regionId),
    region_id: row.regionId,
    name: row.name,
    slug: row.id,
    provisioner: row.provisioner,
    default_endpoint_settings: presentDefaultSettings(row),
    settings: presentProjectSettings(row),
    pg_version: row.pgVersion,
    proxy_host: proxyHost(config),
    branch_logical_size_limit: LIMITS.branchLogicalSizeBytes / 2 ** 20,
    branch_logical_size_limit_bytes: LIMITS.branchLogicalSizeBytes,
    store_passwords: row.storePasswords,
    active_time: 0,
    cpu_used_sec: 0,
    creation_source: row.creationSource,
    created_at: presentTime(row.createdAt),
    updated_at: presentTime(row.updatedAt),
    synthetic_storage_size: 0,
    quota_reset_at: monthStart(now, 1),
    owner_id: row.ownerId,
    compute_last_active_at: optionalTime(row.computeLastActiveAt),
    org_id: row.orgId,
    org_name: row.orgName,
    history_retention_seconds: row.historyRetentionSeconds,
    deleted_at: optionalTime(row.deletedAt),
    recoverable_until: optionalTime(row.recoverableUntil),
  };
}

/** The catalog keeps JSON without an order of keys, so known keys are put into theirs. */
function presentDefaultSettings(row: ProjectRow): DefaultEndpointSettings {
  const settings = row.defaultEndpointSettings as DefaultEndpointSettings;
  return {
    autoscaling_limit_min_cu: settings.autoscaling_limit_min_cu,
    autoscaling_limit_max_cu: settings.autoscaling_limit_max_cu,
    suspend_timeout_seconds: settings.suspend_timeout_seconds,
    pg_settings: settings.pg_settings,
  };
}

function presentProjectSettings(row: ProjectRow): ProjectSettingsData {
  const settings = row.settings as ProjectSettingsData;
  return {
    quota: settings.quota,
    allowed_ips: {
      ips: settings.allowed_ips?.ips ?? [],
      protected_branches_only: settings.allowed_ips?.protected_branches_only ?? false,
    },
    enable_logical_replication: settings.enable_logical_replication ?? false,
    maintenance_window: settings.maintenance_window ?? { weekdays: [1], start_time: '04:00', end_time: '05:00' },
    block_public_connections: settings.block_public_connections ?? false,
    block_vpc_connections: settings.block_vpc_connections ?? false,
    audit_log_level: settings.audit_log_level,
    hipaa: false,
    preload_libraries: settings.preload_libraries,
  };
}

/** `created_by` appears when the row says who that is: in lists and single reads. */
export function presentBranch(row: BranchRow | BranchWithCreator): Branch & { slug: string } {
  const creator = 'creatorName' in row ? row.creatorName : null;
  return {
    id: row.id,
    project_id: row.projectId,
    parent_id: row.parentId ?? undefined,
    parent_lsn: row.parentLsn ?? undefined,
    parent_timestamp: optionalTime(row.parentTimestamp),
    name: row.name,
    slug: row.id,
    current_state: row.currentState,
    pending_state: row.pendingState ?? undefined,
    state_changed_at: presentTime(row.stateChangedAt),
    logical_size: row.logicalSizeBytes ?? undefined,
    creation_source: row.creationSource,
    primary: row.isDefault,
    default: row.isDefault,
    protected: row.protected,
    cpu_used_sec: 0,
    compute_time_seconds: 0,
    active_time_seconds: 0,
    written_data_bytes: 0,
    data_transfer_bytes: 0,
    created_at: presentTime(row.createdAt),
    updated_at: presentTime(row.updatedAt),
    ttl_interval_seconds: row.ttlIntervalSeconds ?? undefined,
    expires_at: optionalTime(row.expiresAt),
    last_reset_at: optionalTime(row.lastResetAt),
    created_by: creator === null ? undefined : { name: creator, image: '' },
    init_source: row.parentId === null && row.initSource === 'parent-data' ? undefined : row.initSource,
    restore_status: row.restoreStatus ?? undefined,
    restored_from: row.restoredFrom ?? undefined,
    restored_as: row.restoredAs ?? undefined,
    restricted_actions: restrictedActions(row),
    recovery: presentRecovery(row),
  };
}

/** Undefined when there are none. */
function restrictedActions(row: BranchRow): Branch['restricted_actions'] {
  if (row.protected) {
    return ['restore', 'delete-rw-endpoint'].map((name) => ({ name, reason: 'the branch is protected' }));
  }
  if (row.currentState === 'resetting') return [{ name: 'restore', reason: 'the branch is being restored' }];
  return undefined;
}

/** Only a branch that can be had back has one. */
function presentRecovery(row: BranchRow): Branch['recovery'] {
  const { deletedAt, recoverableUntil, deletionMethod, purgedAt } = row;
  if (deletedAt === null || recoverableUntil === null || purgedAt !== null) return undefined;
  return {
    deleted_at: presentTime(deletedAt),
    recoverable_until: presentTime(recoverableUntil),
    deletion_method: deletionMethod ?? 'user',
  };
}

/** A branch without an annotation shows one without values: the document requires the field. */
export function presentAnnotation(row: BranchRow): AnnotationData {
  return {
    object: { type: 'console/branch', id: row.id },
    value: row.annotation ?? {},
    created_at: optionalTime(row.annotationUpdatedAt),
    updated_at: optionalTime(row.annotationUpdatedAt),
  };
}

export function presentEndpoint(
  row: EndpointRow,
  provisioner: string,
  config: ControlPlaneConfig,
): Endpoint & { slug: string; branch_slug: string; project_slug: string; hosts: Record<string, string> } {
  const host = endpointHost(config, row.id);
  const pooledHost = poolerHost(config, row.id);
  return {
    host,
    hosts:
      row.type === 'read_write'
        ? { read_write_host: host, read_write_pooled_host: pooledHost }
        : { read_only_host: host, read_only_pooled_host: pooledHost },
    id: row.id,
    slug: row.id,
    name: row.name ?? undefined,
    project_id: row.projectId,
    project_slug: row.projectId,
    branch_id: row.branchId,
    branch_slug: row.branchId,
    autoscaling_limit_min_cu: row.autoscalingLimitMinCu,
    autoscaling_limit_max_cu: row.autoscalingLimitMaxCu,
    region_id: row.regionId,
    type: row.type,
    current_state: row.currentState,
    pending_state: row.pendingState ?? undefined,
    settings: row.settings as EndpointSettingsData,
    pooler_enabled: row.poolerEnabled,
    pooler_mode: 'transaction',
    disabled: row.disabled,
    passwordless_access: row.passwordlessAccess,
    last_active: row.lastActive === null ? NEVER_ACTIVE : presentTime(row.lastActive),
    creation_source: row.creationSource,
    created_at: presentTime(row.createdAt),
    updated_at: presentTime(row.updatedAt),
    started_at: optionalTime(row.startedAt),
    suspended_at: row.currentState === 'idle' ? optionalTime(row.suspendedAt) : undefined,
    proxy_host: proxyHost(config),
    suspend_timeout_seconds: row.suspendTimeoutSeconds,
    provisioner,
  };
}

/** The password is shown only where it has just been made. */
export function presentRole(row: RoleRow, password?: string): Role {
  return {
    branch_id: row.branchId,
    name: row.name,
    password,
    protected: row.protected,
    authentication_method: row.noLogin ? 'no_login' : 'password',
    created_at: presentTime(row.createdAt),
    updated_at: presentTime(row.updatedAt),
  };
}

export function presentJwks(row: JwksRow): Jwks {
  return {
    id: row.id,
    project_id: row.projectId,
    branch_id: row.branchId ?? undefined,
    jwks_url: row.jwksUrl,
    provider_name: row.providerName,
    created_at: presentTime(row.createdAt),
    updated_at: presentTime(row.updatedAt),
    jwt_audience: row.jwtAudience ?? undefined,
    role_names: row.roleNames,
  };
}

export function presentDatabase(row: DatabaseRow): Database {
  return {
    id: row.id,
    branch_id: row.branchId,
    name: row.name,
    owner_name: row.ownerName,
    created_at: presentTime(row.createdAt),
    updated_at: presentTime(row.updatedAt),
  };
}

/** Where it is becomes known when it is made; sizes a moment later. */
export function presentSnapshot(row: SnapshotRow): Snapshot {
  return {
    id: row.id,
    name: row.name,
    slug: row.slug ?? row.id,
    lsn: row.lsn ?? undefined,
    timestamp: optionalTime(row.pointTimestamp),
    source_branch_id: row.sourceBranchId,
    created_at: presentTime(row.createdAt),
    expires_at: optionalTime(row.expiresAt),
    manual: row.manual,
    full_size: row.fullSizeBytes ?? undefined,
    diff_size: row.diffSizeBytes ?? undefined,
  };
}

/** `total_duration_ms` counts from the start of the work, and ticks until its end. */
export function presentOperation(row: OperationRow, now: Date): Operation {
  const end = row.finishedAt === null ? now.getTime() : Date.parse(row.finishedAt);
  return {
    id: row.id,
    project_id: row.projectId,
    branch_id: row.branchId ?? undefined,
    endpoint_id: row.endpointId ?? undefined,
    action: row.action,
    status: row.status,
    error: row.error ?? undefined,
    failures_count: row.failuresCount,
    retry_at: optionalTime(row.retryAt),
    created_at: presentTime(row.createdAt),
    updated_at: presentTime(row.updatedAt),
    total_duration_ms: row.startedAt === null ? 0 : Math.max(0, end - Date.parse(row.startedAt)),
  };
}

export function presentConnectionDetails(
  config: ControlPlaneConfig,
  target: Omit<ConnectionTarget, 'pooled'>,
): ConnectionDetails {
  return {
    connection_uri: connectionUri(config, { ...target, pooled: false }),
    connection_parameters: {
      database: target.database,
      password: target.password,
      role: target.role,
      host: endpointHost(config, target.endpointId),
      pooler_host: poolerHost(config, target.endpointId),
    },
  };
}

export function presentApiKey(row: ApiKeyListRow): ApiKeysListResponseItem & { project_id?: string | undefined } {
  return {
    id: row.id,
    name: row.name,
    created_at: presentTime(row.createdAt),
    created_by: { id: row.createdBy, name: row.creatorName, image: '' },
    last_used_at: row.lastUsedAt === null ? null : presentTime(row.lastUsedAt),
    last_used_from_addr: row.lastUsedFromAddr,
    project_id: row.projectId ?? undefined,
  };
}

export function presentOrganization(row: OrganizationRow): Organization {
  return {
    id: row.id,
    name: row.name,
    handle: row.handle,
    plan: row.plan,
    created_at: presentTime(row.createdAt),
    managed_by: 'console',
    updated_at: presentTime(row.updatedAt),
  };
}

/** `aws-us-east-2` is on `aws`; a region of one word is its own platform. */
function platformOf(regionId: string): string {
  return regionId.split('-', 1)[0]!;
}

function monthStart(now: Date, offset: number): string {
  return presentTime(new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + offset, 1)).toISOString());
}
