import { describe, expect, test } from 'vitest';
import type { BranchRow, EndpointRow, OperationRow, ProjectRow } from '../catalog/types.ts';
import type { ControlPlaneConfig } from './context.ts';
import { presentBranch, presentEndpoint, presentOperation, presentProject, presentProjectDetails } from './present.ts';

const config: ControlPlaneConfig = { domain: 'db.example.com', pgPort: 5432, nodeId: 'n', namesResolve: true };
const time = '2026-01-16T21:02:04.214837Z';

const project: ProjectRow = {
  id: 'long-forest-06846227',
  number: 1,
  nodeId: 'n',
  orgId: 'org-x',
  ownerId: 'u',
  name: 'p',
  regionId: 'aws-us-east-2',
  provisioner: 'k8s-neonvm',
  pgVersion: 17,
  storePasswords: true,
  historyRetentionSeconds: 86400,
  // As jsonb gives it back: shortest keys first.
  defaultEndpointSettings: { suspend_timeout_seconds: 0, autoscaling_limit_max_cu: 2, autoscaling_limit_min_cu: 0.25 },
  settings: {},
  creationSource: 'console',
  createdAt: time,
  updatedAt: time,
  computeLastActiveAt: null,
  deletedAt: null,
  recoverableUntil: null,
  purgedAt: null,
};

const branch: BranchRow = {
  id: 'br-a',
  projectId: project.id,
  parentId: null,
  name: 'main',
  currentState: 'ready',
  pendingState: null,
  stateChangedAt: time,
  isDefault: true,
  protected: false,
  initSource: 'parent-data',
  parentLsn: null,
  parentTimestamp: null,
  logicalSizeBytes: null,
  expiresAt: null,
  ttlIntervalSeconds: null,
  lastResetAt: null,
  annotation: null,
  annotationUpdatedAt: null,
  creationSource: 'console',
  createdBy: 'u',
  createdAt: time,
  updatedAt: time,
  deletedAt: null,
  timelineId: 'br-a',
  factsDue: false,
  restoredFrom: null,
  restoredAs: null,
  restoreStatus: null,
  deletionMethod: null,
  recoverableUntil: null,
  purgedAt: null,
};

const endpoint: EndpointRow = {
  id: 'ep-a',
  projectId: project.id,
  branchId: branch.id,
  type: 'read_write',
  name: null,
  currentState: 'active',
  pendingState: null,
  autoscalingLimitMinCu: 0.25,
  autoscalingLimitMaxCu: 0.25,
  suspendTimeoutSeconds: 0,
  settings: {},
  poolerEnabled: false,
  disabled: false,
  passwordlessAccess: true,
  regionId: 'aws-us-east-2',
  creationSource: 'console',
  lastActive: null,
  startedAt: time,
  suspendedAt: '2026-01-15T00:00:00.000000Z',
  createdAt: time,
  updatedAt: time,
  deletedAt: null,
};

const operation: OperationRow = {
  id: 'o',
  seq: 1,
  projectId: project.id,
  branchId: branch.id,
  endpointId: null,
  action: 'create_branch',
  status: 'running',
  payload: {},
  failuresCount: 0,
  error: null,
  retryAt: null,
  createdAt: time,
  updatedAt: time,
  startedAt: null,
  finishedAt: null,
};

/** What goes over the wire: undefined fields are gone. */
const wire = <T>(value: T) => JSON.parse(JSON.stringify(value)) as Record<string, unknown>;
const now = new Date('2026-01-31T23:59:59Z');

describe('a project', () => {
  test('has its fields in their order, and times with seconds', () => {
    const shown = wire(presentProject(project, config));
    expect(Object.keys(shown)).toEqual([
      'data_storage_bytes_hour',
      'data_transfer_bytes',
      'written_data_bytes',
      'compute_time_seconds',
      'active_time_seconds',
      'cpu_used_sec',
      'id',
      'platform_id',
      'region_id',
      'name',
      'slug',
      'provisioner',
      'default_endpoint_settings',
      'settings',
      'pg_version',
      'proxy_host',
      'branch_logical_size_limit',
      'branch_logical_size_limit_bytes',
      'store_passwords',
      'creation_source',
      'history_retention_seconds',
      'created_at',
      'updated_at',
      'consumption_period_start',
      'consumption_period_end',
      'owner_id',
      'org_id',
    ]);
    expect(shown['created_at']).toBe('2026-01-16T21:02:04Z');
    expect(shown['platform_id']).toBe('aws');
    expect(Object.keys(shown['default_endpoint_settings'] as object)).toEqual([
      'autoscaling_limit_min_cu',
      'autoscaling_limit_max_cu',
      'suspend_timeout_seconds',
    ]);
    expect(shown['branch_logical_size_limit_bytes']).toBe(Number(shown['branch_logical_size_limit']) * 2 ** 20);
  });

  test('read alone has its owner and the month, also at the end of a year', () => {
    const owned = { ...project, ownerName: 'O', ownerEmail: 'o@example.com' };
    expect(wire(presentProjectDetails(owned, config, now))).toMatchObject({
      consumption_period_start: '2026-01-01T00:00:00Z',
      consumption_period_end: '2026-02-01T00:00:00Z',
      owner: { name: 'O', email: 'o@example.com' },
    });
    expect(presentProjectDetails(owned, config, new Date('2026-12-05T00:00:00Z')).consumption_period_end).toBe(
      '2027-01-01T00:00:00Z',
    );
  });
});

describe('a branch', () => {
  test('that is a root shows nothing of a parent', () => {
    const shown = wire(presentBranch(branch));
    for (const field of [
      'parent_id',
      'parent_lsn',
      'parent_timestamp',
      'init_source',
      'pending_state',
      'logical_size',
      'expires_at',
      'created_by',
    ]) {
      expect(shown).not.toHaveProperty(field);
    }
    expect(shown).toMatchObject({ primary: true, default: true });
  });

  test('that is a child shows where it came from', () => {
    const child = { ...branch, parentId: 'br-p', parentLsn: '0/1964258', parentTimestamp: time, creatorName: 'O' };
    expect(wire(presentBranch(child))).toMatchObject({
      parent_id: 'br-p',
      parent_lsn: '0/1964258',
      parent_timestamp: '2026-01-16T21:02:04Z',
      init_source: 'parent-data',
      created_by: { name: 'O', image: '' },
    });
  });
});

test('an endpoint shows when it was suspended only while it is', () => {
  expect(wire(presentEndpoint(endpoint, 'k8s-neonvm', config))).not.toHaveProperty('suspended_at');
  const idle = wire(presentEndpoint({ ...endpoint, currentState: 'idle' }, 'k8s-neonvm', config));
  expect(idle['suspended_at']).toBe('2026-01-15T00:00:00Z');
  expect(idle).toMatchObject({ last_active: '2000-01-01T00:00:00Z', host: 'ep-a.db.example.com', settings: {} });
});

test('the duration of an operation ticks while it runs and stands when it has ended', () => {
  const at = (milliseconds: number) => new Date(Date.parse('2026-01-16T21:00:00Z') + milliseconds);
  const started = { ...operation, startedAt: '2026-01-16T21:00:00.000000Z' };
  expect(presentOperation(operation, at(5000)).total_duration_ms).toBe(0);
  expect(presentOperation(started, at(5000)).total_duration_ms).toBe(5000);
  const ended = { ...started, finishedAt: '2026-01-16T21:00:00.250900Z' };
  expect(presentOperation(ended, at(5000)).total_duration_ms).toBe(250);
  expect(wire(presentOperation(operation, at(0)))).not.toHaveProperty('error');
});
