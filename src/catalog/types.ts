/**
 * Rows of the catalog as the query files of this directory return them (columns in camelCase),
 * and the two ways to reach it: `Queryable` inside or outside a transaction.
 *
 * Times are ISO 8601 strings in UTC with microseconds ("2026-01-16T21:02:04.214837Z"), never JavaScript dates.
 */
export interface Queryable {
  /** Runs one statement. A `name` makes it a prepared statement; use it on hot paths. Rows have camelCase keys. */
  query<Row>(text: string, values?: readonly unknown[], name?: string): Promise<Row[]>;
}

export type Timestamp = string;

export interface UserRow {
  id: string;
  email: string;
  name: string;
  lastName: string;
  createdAt: Timestamp;
}

export interface OrganizationRow {
  id: string;
  name: string;
  handle: string;
  plan: string;
  createdAt: Timestamp;
  updatedAt: Timestamp;
}

export type ApiKeyKind = 'personal' | 'organization' | 'project';

export interface ApiKeyRow {
  id: number;
  name: string;
  kind: ApiKeyKind;
  orgId: string | null;
  projectId: string | null;
  createdBy: string;
  createdAt: Timestamp;
  lastUsedAt: Timestamp | null;
  lastUsedFromAddr: string;
  revokedAt: Timestamp | null;
}

/** `settings.pg_settings`, `quota`, `allowed_ips`, ... exactly as the API has them (snake_case). */
export type JsonObject = Record<string, unknown>;

export interface ProjectRow {
  id: string;
  number: number;
  nodeId: string;
  orgId: string;
  ownerId: string;
  name: string;
  regionId: string;
  provisioner: string;
  pgVersion: number;
  storePasswords: boolean;
  historyRetentionSeconds: number;
  defaultEndpointSettings: JsonObject;
  settings: JsonObject;
  creationSource: string;
  createdAt: Timestamp;
  updatedAt: Timestamp;
  computeLastActiveAt: Timestamp | null;
  deletedAt: Timestamp | null;
  /** Of a deleted one: until when it can be had back. */
  recoverableUntil: Timestamp | null;
  /** Its data is gone, or goes by an operation. */
  purgedAt: Timestamp | null;
}

export type BranchState = 'init' | 'ready' | 'resetting' | 'archived';

export interface BranchRow {
  id: string;
  projectId: string;
  parentId: string | null;
  name: string;
  currentState: BranchState;
  pendingState: string | null;
  stateChangedAt: Timestamp;
  isDefault: boolean;
  protected: boolean;
  initSource: string;
  parentLsn: string | null;
  parentTimestamp: Timestamp | null;
  logicalSizeBytes: number | null;
  expiresAt: Timestamp | null;
  ttlIntervalSeconds: number | null;
  lastResetAt: Timestamp | null;
  annotation: Record<string, string> | null;
  annotationUpdatedAt: Timestamp | null;
  creationSource: string;
  createdBy: string | null;
  createdAt: Timestamp;
  updatedAt: Timestamp;
  deletedAt: Timestamp | null;
  /** Where its data is; restoring the branch changes it. */
  timelineId: string;
  /** Roles and databases are to be read back at the next start. */
  factsDue: boolean;
  restoredFrom: string | null;
  restoredAs: string | null;
  restoreStatus: 'restored' | 'finalized' | 'detaching' | null;
  deletionMethod: 'user' | 'ttl' | null;
  recoverableUntil: Timestamp | null;
  purgedAt: Timestamp | null;
}

export interface SnapshotRow {
  id: string;
  projectId: string;
  sourceBranchId: string;
  timelineId: string;
  name: string;
  /** Given by the user; null: its id stands for it. */
  slug: string | null;
  state: 'init' | 'ready' | 'failed';
  manual: boolean;
  lsn: string | null;
  pointTimestamp: Timestamp | null;
  fullSizeBytes: number | null;
  diffSizeBytes: number | null;
  expiresAt: Timestamp | null;
  createdBy: string | null;
  createdAt: Timestamp;
  updatedAt: Timestamp;
  deletedAt: Timestamp | null;
}

export interface BackupScheduleRow {
  branchId: string;
  projectId: string;
  schedule: JsonObject[];
  updatedAt: Timestamp;
  lastRunAt: Timestamp | null;
}

export type EndpointType = 'read_write' | 'read_only';

export interface EndpointRow {
  id: string;
  projectId: string;
  branchId: string;
  type: EndpointType;
  name: string | null;
  currentState: 'init' | 'active' | 'idle';
  pendingState: 'active' | 'idle' | null;
  autoscalingLimitMinCu: number;
  autoscalingLimitMaxCu: number;
  suspendTimeoutSeconds: number;
  settings: JsonObject;
  poolerEnabled: boolean;
  disabled: boolean;
  passwordlessAccess: boolean;
  regionId: string;
  creationSource: string;
  lastActive: Timestamp | null;
  startedAt: Timestamp | null;
  suspendedAt: Timestamp | null;
  createdAt: Timestamp;
  updatedAt: Timestamp;
  deletedAt: Timestamp | null;
}

export type PendingState = 'ready' | 'creating' | 'updating' | 'deleting';

export interface RoleRow {
  projectId: string;
  branchId: string;
  name: string;
  state: PendingState;
  verifier: string | null;
  sealedPassword: Buffer | null;
  noLogin: boolean;
  protected: boolean;
  /** While it is pending: it is to have no rights of its own. */
  plain: boolean;
  createdAt: Timestamp;
  updatedAt: Timestamp;
}

export interface JwksRow {
  id: string;
  projectId: string;
  /** Null: all branches. */
  branchId: string | null;
  jwksUrl: string;
  providerName: string;
  /** Null: any. */
  jwtAudience: string | null;
  roleNames: string[];
  createdAt: Timestamp;
  updatedAt: Timestamp;
}

export interface DatabaseRow {
  id: number;
  projectId: string;
  branchId: string;
  name: string;
  ownerName: string;
  state: PendingState;
  appliedName: string | null;
  createdAt: Timestamp;
  updatedAt: Timestamp;
}

/** The OperationActions that Ballast runs; the API's enum has more. */
export type OperationAction =
  | 'create_timeline'
  | 'create_branch'
  | 'delete_timeline'
  | 'start_compute'
  | 'suspend_compute'
  | 'apply_config'
  | 'apply_schema_from_branch'
  | 'sync_dbs_and_roles_from_compute';

export type OperationStatus =
  | 'scheduling'
  | 'running'
  | 'finished'
  | 'failed'
  | 'error'
  | 'cancelling'
  | 'cancelled'
  | 'skipped';

export interface OperationRow {
  id: string;
  seq: number;
  projectId: string;
  branchId: string | null;
  endpointId: string | null;
  action: OperationAction;
  status: OperationStatus;
  payload: JsonObject;
  failuresCount: number;
  error: string | null;
  retryAt: Timestamp | null;
  createdAt: Timestamp;
  updatedAt: Timestamp;
  startedAt: Timestamp | null;
  finishedAt: Timestamp | null;
}
