import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openTestApi, type TestApi } from '../../../test/support/control-plane.ts';
import { AppError } from '../../lib/errors.ts';

let api: TestApi;
let roomError: AppError | undefined;

beforeAll(async () => {
  api = await openTestApi({
    assertRoomForTimeline: async () => {
      if (roomError) throw roomError;
    },
  });
});
afterAll(() => api.close());

const create = (project: object = {}) => api.call('POST', '/projects', { project });
const actions = (operations: { action: string }[]) => operations.map((operation) => operation.action);

describe('201: a new project', () => {
  test('has a branch, an endpoint, a role and a database, and the operations that make them', async () => {
    const { status, body } = await api.request('POST', '/projects', { project: {} });
    expect(status).toBe(201);
    expect(body.project.name).toBe(body.project.id);
    expect(body.project).toMatchObject({
      slug: body.project.id,
      platform_id: 'local',
      region_id: 'local',
      pg_version: 17,
      proxy_host: 'db.example.com',
      store_passwords: true,
      history_retention_seconds: 86400,
      org_id: api.owner.orgId,
      owner_id: api.owner.userId,
      consumption_period_start: '0001-01-01T00:00:00Z',
      default_endpoint_settings: {
        autoscaling_limit_min_cu: 0.25,
        autoscaling_limit_max_cu: 0.25,
        suspend_timeout_seconds: 0,
      },
      settings: { allowed_ips: { ips: [], protected_branches_only: false }, enable_logical_replication: false },
    });
    expect(body.branch).toMatchObject({
      name: 'main',
      current_state: 'init',
      pending_state: 'ready',
      default: true,
      primary: true,
      protected: false,
    });
    expect(body.branch).not.toHaveProperty('parent_id');
    expect(body.branch).not.toHaveProperty('init_source');
    const [endpoint] = body.endpoints;
    expect(endpoint).toMatchObject({
      host: `${endpoint.id}.db.example.com`,
      type: 'read_write',
      current_state: 'init',
      pending_state: 'active',
      settings: {},
      pooler_enabled: false,
      last_active: '2000-01-01T00:00:00Z',
    });
    const [role] = body.roles;
    expect(role).toMatchObject({ name: 'neondb_owner', password: expect.stringMatching(/^npg_/), protected: false });
    expect(body.databases).toMatchObject([{ name: 'neondb', owner_name: 'neondb_owner' }]);
    expect(body.connection_uris).toEqual([
      {
        connection_uri: `postgresql://neondb_owner:${role.password}@${endpoint.host}/neondb?sslmode=require&channel_binding=require`,
        connection_parameters: {
          database: 'neondb',
          password: role.password,
          role: 'neondb_owner',
          host: endpoint.host,
          pooler_host: `${endpoint.id}-pooler.db.example.com`,
        },
      },
    ]);
    expect(body.operations).toMatchObject([
      { action: 'create_timeline', status: 'running', branch_id: body.branch.id, total_duration_ms: 0 },
      { action: 'start_compute', status: 'scheduling', endpoint_id: endpoint.id },
    ]);
  });

  test('takes every field of the request', async () => {
    const body = await create({
      name: 'everything',
      region_id: 'aws-us-east-2',
      pg_version: 16,
      org_id: api.owner.orgId,
      store_passwords: true,
      history_retention_seconds: 604_800,
      provisioner: 'k8s-pod',
      autoscaling_limit_min_cu: 4,
      branch: { name: 'production', database_name: 'shop', role_name: 'keeper', annotations: { a: 'b' } },
      default_endpoint_settings: {
        autoscaling_limit_min_cu: 0.5,
        autoscaling_limit_max_cu: 2,
        suspend_timeout_seconds: 120,
        pg_settings: { work_mem: '8MB' },
      },
      settings: {
        quota: { active_time_seconds: 100 },
        allowed_ips: { ips: ['10.0.0.0/8'], protected_branches_only: true },
        enable_logical_replication: true,
        maintenance_window: { weekdays: [7], start_time: '01:00', end_time: '02:00' },
        block_public_connections: true,
        block_vpc_connections: false,
        preload_libraries: { use_defaults: false, enabled_libraries: ['pg_stat_statements'] },
      },
    });
    expect(body.project).toMatchObject({
      name: 'everything',
      platform_id: 'aws',
      region_id: 'aws-us-east-2',
      pg_version: 16,
      history_retention_seconds: 604_800,
      provisioner: 'k8s-pod',
      default_endpoint_settings: { autoscaling_limit_min_cu: 0.5, autoscaling_limit_max_cu: 2 },
      settings: {
        quota: { active_time_seconds: 100 },
        allowed_ips: { ips: ['10.0.0.0/8'], protected_branches_only: true },
        enable_logical_replication: true,
        maintenance_window: { weekdays: [7], start_time: '01:00', end_time: '02:00' },
        block_public_connections: true,
        preload_libraries: { use_defaults: false, enabled_libraries: ['pg_stat_statements'] },
      },
    });
    expect(body.branch.name).toBe('production');
    expect(body.roles[0].name).toBe('keeper');
    expect(body.databases[0]).toMatchObject({ name: 'shop', owner_name: 'keeper' });
    expect(body.endpoints[0]).toMatchObject({
      autoscaling_limit_min_cu: 0.5,
      autoscaling_limit_max_cu: 2,
      suspend_timeout_seconds: 120,
      settings: { pg_settings: { work_mem: '8MB' } },
      region_id: 'aws-us-east-2',
      provisioner: 'k8s-pod',
    });
    const read = await api.call('GET', `/projects/${body.project.id}/branches/${body.branch.id}`);
    expect(read.annotation).toMatchObject({
      object: { type: 'console/branch', id: body.branch.id },
      value: { a: 'b' },
    });
    expect(read.branch.created_by).toEqual({ name: 'Owner', image: '' });
  });

  test('stores no password where it should not', async () => {
    const { project, branch, roles } = await create({ store_passwords: false });
    expect(roles[0].password).toMatch(/^npg_/);
    const path = `/projects/${project.id}/branches/${branch.id}/roles/neondb_owner/reveal_password`;
    expect(await api.request('GET', path)).toMatchObject({
      status: 412,
      body: { code: '', message: 'Storing passwords is disabled' },
    });
  });

  test('pokes the runner and tells the caches', async () => {
    const before = api.pokes();
    const { project } = await create();
    expect(api.pokes()).toBe(before + 1);
    expect(api.changed).toContain(project.id);
  });
});

test.each([
  [{ history_retention_seconds: 2_592_001 }, 400],
  [{ pg_version: 15 }, 422],
  [{ region_id: 'atlantis' }, 400],
  [{ org_id: 'org-not-there-12345678' }, 404],
  [{ branch: { database_name: 'postgres' } }, 422],
  [{ branch: { role_name: 'pg_x' } }, 422],
  [{ default_endpoint_settings: { suspend_timeout_seconds: 5 } }, 400],
  [{ default_endpoint_settings: { pg_settings: { shared_preload_libraries: 'evil' } } }, 400],
  [{ default_endpoint_settings: { pgbouncer_settings: { pool_mode: 'session' } } }, 501],
  [{ settings: { allowed_ips: { ips: ['everywhere'] } } }, 400],
  [{ settings: { preload_libraries: { enabled_libraries: ['evil'] } } }, 400],
  [{ settings: { maintenance_window: { weekdays: [8], start_time: '00:00', end_time: '01:00' } } }, 400],
  [{ settings: { hipaa: true } }, 501],
])('%j is refused with %d', async (project, status) => {
  const before = (await api.call('GET', '/projects?limit=400')).projects.length;
  const answer = await api.request('POST', '/projects', { project });
  expect(answer.status).toBe(status);
  expect((await api.call('GET', '/projects?limit=400')).projects).toHaveLength(before);
});

test('503 when the pool has no room', async () => {
  roomError = new AppError('unavailable', 'the pool is full');
  const answer = await api.request('POST', '/projects', { project: {} });
  roomError = undefined;
  expect(answer).toMatchObject({ status: 503, body: { message: 'the pool is full' } });
});

describe('lists', () => {
  test('give each project once, newest first, page by page, while others come and go', async () => {
    const made: string[] = [];
    for (let index = 0; index < 5; index += 1) made.push((await create({ name: `Paged ${index}` })).project.id);
    const seen: string[] = [];
    let cursor: string | undefined;
    for (;;) {
      const page = await api.call('GET', `/projects?search=pAgEd&limit=2${cursor ? `&cursor=${cursor}` : ''}`);
      if (page.projects.length === 0) break;
      seen.push(...page.projects.map((project: { id: string }) => project.id));
      cursor = page.pagination.cursor;
      // The project that the cursor names is deleted: the next page goes on behind it all the same.
      if (seen.length === 2) await api.call('DELETE', `/projects/${cursor}`);
    }
    expect(seen).toEqual(made.toReversed());
    expect((await api.call('GET', '/projects?search=paged')).projects).toHaveLength(4);
  });

  test('search takes wildcards as they are', async () => {
    expect((await api.call('GET', '/projects?search=%25')).projects).toEqual([]);
  });

  test('items have what single projects have not, and the other way round', async () => {
    const { project } = await create({ name: 'shape' });
    const [item] = (await api.call('GET', `/projects?search=${project.id}`)).projects;
    expect(item).toMatchObject({ active_time: 0, org_name: 'Default', org_id: api.owner.orgId });
    expect(item).not.toHaveProperty('compute_time_seconds');
    const read = (await api.call('GET', `/projects/${project.id}`)).project;
    expect(read.owner).toMatchObject({ name: 'Owner', subscription_type: 'scale' });
    expect(read.consumption_period_start).toMatch(/^20\d\d-\d\d-01T00:00:00Z$/);
  });

  test('an empty list has no pagination', async () => {
    expect(await api.call('GET', '/projects?search=nothing-like-this')).toEqual({
      projects: [],
      applications: {},
      integrations: {},
    });
    expect(await api.call('GET', '/projects/shared')).toEqual({ projects: [] });
  });

  test('a cursor that never was is 400, an organization that is not there 404', async () => {
    expect((await api.request('GET', '/projects?cursor=nonsense')).status).toBe(400);
    expect((await api.request('GET', '/projects?org_id=org-none-here-12345678')).status).toBe(404);
  });
});

describe('changes', () => {
  test('of the name yield no operations', async () => {
    const { project } = await create();
    const answer = await api.call('PATCH', `/projects/${project.id}`, { project: { name: 'new name' } });
    expect(answer.operations).toEqual([]);
    expect(answer.project.name).toBe('new name');
  });

  test('keep what they do not name', async () => {
    const { project } = await create({
      settings: { allowed_ips: { ips: ['1.2.3.4'] } },
      default_endpoint_settings: { suspend_timeout_seconds: 600 },
    });
    const { project: changed } = await api.call('PATCH', `/projects/${project.id}`, {
      project: {
        settings: { allowed_ips: { protected_branches_only: true } },
        default_endpoint_settings: { autoscaling_limit_max_cu: 1 },
      },
    });
    expect(changed.settings.allowed_ips).toEqual({ ips: ['1.2.3.4'], protected_branches_only: true });
    expect(changed.default_endpoint_settings).toMatchObject({
      autoscaling_limit_min_cu: 0.25,
      autoscaling_limit_max_cu: 1,
      suspend_timeout_seconds: 600,
    });
  });

  test('to logical replication suspend active endpoints and cannot be undone', async () => {
    const { project, endpoints } = await create();
    await api.settle();
    const path = `/projects/${project.id}`;
    const on = await api.call('PATCH', path, { project: { settings: { enable_logical_replication: true } } });
    expect(on.operations).toMatchObject([{ action: 'suspend_compute', endpoint_id: endpoints[0].id }]);
    const off = await api.request('PATCH', path, { project: { settings: { enable_logical_replication: false } } });
    expect(off.status).toBe(422);
    const again = await api.call('PATCH', path, { project: { settings: { enable_logical_replication: true } } });
    expect(again.operations).toEqual([]);
  });

  test('to the preload libraries configure active endpoints', async () => {
    const { project } = await create();
    await api.settle();
    const answer = await api.call('PATCH', `/projects/${project.id}`, {
      project: { settings: { preload_libraries: { enabled_libraries: ['pg_stat_statements'] } } },
    });
    expect(actions(answer.operations)).toEqual(['apply_config']);
  });

  test('400 when the history is too long', async () => {
    const { project } = await create();
    const answer = await api.request('PATCH', `/projects/${project.id}`, {
      project: { history_retention_seconds: 9_999_999 },
    });
    expect(answer.status).toBe(400);
  });
});

describe('deletion', () => {
  test('is at once for readers, and puts every compute to sleep', async () => {
    const { project, branch, endpoints } = await create();
    await api.settle();
    const child = await api.call('POST', `/projects/${project.id}/branches`, { endpoints: [{ type: 'read_write' }] });
    const { status, body } = await api.request('DELETE', `/projects/${project.id}`);
    expect(status).toBe(200);
    expect(body).not.toHaveProperty('operations');
    expect(body.project.id).toBe(project.id);
    for (const path of ['', `/branches/${branch.id}`, `/endpoints/${endpoints[0].id}`, '/operations', '/branches']) {
      expect(await api.request('GET', `/projects/${project.id}${path}`)).toMatchObject({
        status: 404,
        body: { code: '', message: 'project not found' },
      });
    }
    expect((await api.request('DELETE', `/projects/${project.id}`)).status).toBe(404);
    const rows = await api.catalog.query<{ action: string; branchId: string }>(
      `select action, branch_id from operations where project_id = $1 and status <> 'finished' order by seq`,
      [project.id],
    );
    const of = (branchId: string) => rows.filter((row) => row.branchId === branchId).map((row) => row.action);
    expect(of(branch.id)).toEqual(['suspend_compute']);
    expect(of(child.branch.id)).toEqual(['create_branch', 'start_compute', 'suspend_compute']);
  });

  test('422 while a branch is protected', async () => {
    const { project, branch } = await create();
    await api.call('PATCH', `/projects/${project.id}/branches/${branch.id}`, { branch: { protected: true } });
    expect((await api.request('DELETE', `/projects/${project.id}`)).status).toBe(422);
  });
});

test('preload libraries are listed as the document says', async () => {
  const { project } = await create();
  expect(await api.call('GET', `/projects/${project.id}/available_preload_libraries`)).toEqual({
    libraries: [
      {
        library_name: 'pg_stat_statements',
        description: 'statistics of statements',
        is_default: true,
        is_experimental: false,
        version: '1.11',
      },
    ],
  });
});

describe('operations', () => {
  test('are listed newest first, page by page', async () => {
    const { project } = await create();
    const seen: string[] = [];
    let cursor = '';
    for (;;) {
      const page = await api.call('GET', `/projects/${project.id}/operations?limit=1${cursor}`);
      if (page.operations.length === 0) break;
      seen.push(page.operations[0].action);
      cursor = `&cursor=${page.pagination.cursor}`;
    }
    expect(seen).toEqual(['start_compute', 'create_timeline']);
  });

  test('are read one by one; others are 404', async () => {
    const { project, operations } = await create();
    const { operation } = await api.call('GET', `/projects/${project.id}/operations/${operations[0].id}`);
    expect(operation).toMatchObject({ id: operations[0].id, action: 'create_timeline' });
    const other = await create();
    for (const id of [other.operations[0]!.id, '00000000-0000-4000-8000-000000000000']) {
      expect((await api.request('GET', `/projects/${project.id}/operations/${id}`)).status).toBe(404);
    }
    expect((await api.request('GET', `/projects/${project.id}/operations?cursor=yesterday`)).status).toBe(400);
  });
});

describe('connection_uri', () => {
  test('is that of the default branch unless another is named', async () => {
    const made = await create();
    await api.settle();
    const child = await api.call('POST', `/projects/${made.project.id}/branches`, {
      endpoints: [{ type: 'read_write' }],
    });
    const path = `/projects/${made.project.id}/connection_uri?database_name=neondb&role_name=neondb_owner`;
    expect((await api.call('GET', path)).uri).toBe(made.connection_uris[0].connection_uri);
    const pooled = (await api.call('GET', `${path}&branch_id=${child.branch.id}&pooled=True`)).uri;
    expect(pooled).toContain(`@${child.endpoints[0].id}-pooler.db.example.com/neondb`);
  });

  test.each([
    ['database_name=nope&role_name=neondb_owner', 'database not found'],
    ['database_name=neondb&role_name=nope', 'role not found'],
    ['database_name=neondb&role_name=neondb_owner&branch_id=br-none-here-12345678', 'branch not found'],
    ['database_name=neondb&role_name=neondb_owner&endpoint_id=ep-none-here-12345678', 'endpoint not found'],
  ])('404: %s', async (query, message) => {
    const { project } = await create();
    expect(await api.request('GET', `/projects/${project.id}/connection_uri?${query}`)).toMatchObject({
      status: 404,
      body: { message },
    });
  });
});
