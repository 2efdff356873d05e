import type { CreateProjectResponse } from '@neon/sdk/raw';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openTestApi, type TestApi } from '../../../test/support/control-plane.ts';

let api: TestApi;
/** A project whose operations have ended: its endpoint is active. */
let made: CreateProjectResponse;
let base: string;
let path: string;

beforeAll(async () => {
  api = await openTestApi();
});
afterAll(() => api.close());
beforeEach(async () => {
  made = await api.call('POST', '/projects', { project: {} });
  base = `/projects/${made.project.id}/endpoints`;
  path = `${base}/${made.endpoints[0]!.id}`;
  await api.settle();
});

const actions = (answer: { operations: { action: string }[] }) =>
  answer.operations.map((operation) => operation.action);
const suspend = async () => {
  await api.call('POST', `${path}/suspend`);
  await api.settle();
};

test('a suspended endpoint starts, an active one suspends and restarts', async () => {
  const suspended = await api.call('POST', `${path}/suspend`);
  expect(suspended.endpoint).toMatchObject({ current_state: 'active', pending_state: 'idle' });
  expect(suspended.operations).toMatchObject([{ action: 'suspend_compute', status: 'running' }]);
  // What is asked for meanwhile is queued.
  const started = await api.call('POST', `${path}/start`);
  expect(started.endpoint).toMatchObject({ pending_state: 'active' });
  expect(started.operations).toMatchObject([{ action: 'start_compute', status: 'scheduling' }]);
  await api.settle();
  const { endpoint } = await api.call('GET', path);
  expect(endpoint.current_state).toBe('active');
  expect(endpoint).not.toHaveProperty('pending_state');
  expect(actions(await api.call('POST', `${path}/restart`))).toEqual(['suspend_compute', 'start_compute']);
});

test('start and suspend give operations even when nothing has to change', async () => {
  const started = await api.call('POST', `${path}/start`);
  expect(actions(started)).toEqual(['start_compute']);
  expect(started.endpoint).not.toHaveProperty('pending_state');
  await suspend();
  const suspended = await api.call('POST', `${path}/suspend`);
  expect(actions(suspended)).toEqual(['suspend_compute']);
  expect(suspended.endpoint.current_state).toBe('idle');
});

describe('changes', () => {
  test('of an active endpoint configure its compute', async () => {
    const answer = await api.call('PATCH', path, {
      endpoint: { autoscaling_limit_max_cu: 2, settings: { pg_settings: { WORK_MEM: '16MB' } }, name: 'main' },
    });
    expect(answer.endpoint).toMatchObject({
      autoscaling_limit_min_cu: 0.25,
      autoscaling_limit_max_cu: 2,
      settings: { pg_settings: { work_mem: '16MB' } },
      name: 'main',
    });
    expect(answer.operations).toMatchObject([{ action: 'apply_config', status: 'running' }]);
  });

  test('of a sleeping endpoint wait for its next start', async () => {
    await suspend();
    const answer = await api.call('PATCH', path, { endpoint: { autoscaling_limit_max_cu: 2 } });
    expect(answer.operations).toEqual([]);
    expect(answer.endpoint).toMatchObject({ autoscaling_limit_max_cu: 2, current_state: 'idle' });
  });

  test('that no compute has to know are effective at once', async () => {
    const answer = await api.call('PATCH', path, {
      endpoint: { pooler_enabled: true, suspend_timeout_seconds: -1, passwordless_access: false },
    });
    expect(answer.operations).toEqual([]);
    expect(answer.endpoint).toMatchObject({
      pooler_enabled: true,
      suspend_timeout_seconds: -1,
      passwordless_access: false,
    });
  });

  test('to disabled suspend it, and it does not start until it is enabled again', async () => {
    expect(actions(await api.call('PATCH', path, { endpoint: { disabled: true } }))).toEqual(['suspend_compute']);
    for (const verb of ['start', 'restart']) expect((await api.request('POST', `${path}/${verb}`)).status).toBe(422);
    await api.call('PATCH', path, { endpoint: { disabled: false } });
    expect((await api.request('POST', `${path}/start`)).status).toBe(200);
  });

  test.each([
    [{ suspend_timeout_seconds: 30 }, 400],
    [{ autoscaling_limit_max_cu: 3.3 }, 400],
    [{ autoscaling_limit_min_cu: 4, autoscaling_limit_max_cu: 2 }, 400],
    [{ settings: { pg_settings: { jit_provider: 'x' } } }, 400],
    [{ settings: { pg_settings: { work_mem: 'lots' } } }, 400],
    [{ settings: { pgbouncer_settings: { a: 'b' } } }, 501],
    [{ settings: { preload_libraries: { enabled_libraries: ['pg_stat_statements'] } } }, 501],
    [{ branch_id: 'br-other-branch-12345678' }, 501],
  ])('%j are refused with %d', async (endpoint, status) => {
    const before = await api.call('GET', path);
    expect((await api.request('PATCH', path, { endpoint })).status).toBe(status);
    expect(await api.call('GET', path)).toEqual(before);
  });
});

describe('creation', () => {
  test('422 ENDPOINTS_LIMIT_EXCEEDED for a second read-write endpoint', async () => {
    const answer = await api.request('POST', base, { endpoint: { branch_id: made.branch.id, type: 'read_write' } });
    expect(answer).toMatchObject({
      status: 422,
      body: { code: 'ENDPOINTS_LIMIT_EXCEEDED', message: 'read_write endpoint already exists' },
    });
  });

  test('takes every field, and the defaults of the project', async () => {
    await api.call('PATCH', `/projects/${made.project.id}`, {
      project: { default_endpoint_settings: { suspend_timeout_seconds: 90, pg_settings: { work_mem: '8MB' } } },
    });
    const { branch } = await api.call('POST', `/projects/${made.project.id}/branches`);
    const { status, body } = await api.request('POST', base, {
      endpoint: {
        branch_id: branch.id,
        type: 'read_write',
        name: 'side',
        autoscaling_limit_min_cu: 1,
        autoscaling_limit_max_cu: 2,
        provisioner: 'k8s-neonvm',
        region_id: 'local',
        pooler_enabled: true,
        pooler_mode: 'transaction',
        passwordless_access: true,
      },
    });
    expect(status).toBe(201);
    expect(body.endpoint).toMatchObject({
      name: 'side',
      branch_id: branch.id,
      current_state: 'init',
      pending_state: 'active',
      autoscaling_limit_min_cu: 1,
      suspend_timeout_seconds: 90,
      settings: { pg_settings: { work_mem: '8MB' } },
      pooler_enabled: true,
      hosts: { read_write_host: body.endpoint.host },
    });
    // Behind create_branch, which is still to come.
    expect(body.operations).toMatchObject([{ action: 'start_compute', status: 'scheduling' }]);
    expect((await api.call('GET', base)).endpoints).toHaveLength(2);
    const listed = await api.call('GET', `/projects/${made.project.id}/branches/${branch.id}/endpoints`);
    expect(listed.endpoints).toMatchObject([{ id: body.endpoint.id }]);
  });

  test('of a disabled endpoint starts nothing', async () => {
    const { branch } = await api.call('POST', `/projects/${made.project.id}/branches`);
    const answer = await api.call('POST', base, {
      endpoint: { branch_id: branch.id, type: 'read_write', disabled: true },
    });
    expect(answer).toMatchObject({ endpoint: { current_state: 'idle', disabled: true }, operations: [] });
  });

  test.each([
    [{ branch_id: 'br-none-here-12345678', type: 'read_write' }, 404],
    [{ type: 'read_write', region_id: 'aws-us-east-2' }, 400],
  ])('%j is refused with %d', async (endpoint, status) => {
    const answer = await api.request('POST', base, { endpoint: { branch_id: made.branch.id, ...endpoint } });
    expect(answer.status).toBe(status);
  });
});

describe('read replicas', () => {
  const replicaOf = (branchId: string, fields: object = {}) =>
    api.call('POST', base, { endpoint: { branch_id: branchId, type: 'read_only', ...fields } });

  test('a branch has several, with hosts of their own, and each starts, stops and goes by itself', async () => {
    const first = await replicaOf(made.branch.id, { name: 'reports' });
    const second = await replicaOf(made.branch.id);
    expect(first).toMatchObject({
      endpoint: { type: 'read_only', name: 'reports', current_state: 'init', pending_state: 'active' },
      operations: [{ action: 'start_compute', endpoint_id: first.endpoint.id }],
    });
    const { host, id } = first.endpoint;
    expect(first.endpoint.hosts).toEqual({
      read_only_host: host,
      read_only_pooled_host: host.replace(id, `${id}-pooler`),
    });
    const listed = await api.call('GET', `/projects/${made.project.id}/branches/${made.branch.id}/endpoints`);
    expect(listed.endpoints.map((one: { type: string }) => one.type)).toEqual(['read_write', 'read_only', 'read_only']);
    expect((await api.call('POST', `${base}/${id}/suspend`)).operations).toMatchObject([{ action: 'suspend_compute' }]);
    expect((await api.call('POST', `${base}/${id}/restart`)).operations).toHaveLength(2);
    expect((await api.call('PATCH', `${base}/${id}`, { endpoint: { name: 'bi' } })).endpoint.name).toBe('bi');
    expect((await api.request('DELETE', `${base}/${id}`)).status).toBe(200);
    expect((await api.call('GET', `${base}/${second.endpoint.id}`)).endpoint.type).toBe('read_only');
  });

  test('a connection URI names the one that is asked for', async () => {
    const { endpoint } = await replicaOf(made.branch.id);
    const query = 'database_name=neondb&role_name=neondb_owner';
    const uri = async (more: string) =>
      (await api.call('GET', `/projects/${made.project.id}/connection_uri?${query}${more}`)).uri as string;
    expect(await uri(`&endpoint_id=${endpoint.id}`)).toContain(endpoint.id);
    expect(await uri('')).toContain(made.endpoints[0]!.id);
  });

  test('those that are awake come before a read-write compute that changes, asleep or not', async () => {
    const awake = (await replicaOf(made.branch.id)).endpoint.id;
    const asleep = (await replicaOf(made.branch.id, { disabled: true })).endpoint.id;
    const rw = made.endpoints[0]!.id;
    await api.settle();
    const resize = { endpoint: { autoscaling_limit_min_cu: 1, autoscaling_limit_max_cu: 1 } };
    expect((await api.call('PATCH', path, resize)).operations).toMatchObject([
      { action: 'apply_config', endpoint_id: awake },
      { action: 'apply_config', endpoint_id: rw },
    ]);
    await api.call('POST', `${path}/suspend`);
    const again = { endpoint: { autoscaling_limit_min_cu: 2, autoscaling_limit_max_cu: 2 } };
    expect((await api.call('PATCH', path, again)).operations).toMatchObject([
      { action: 'apply_config', endpoint_id: awake },
    ]);
    expect((await api.call('PATCH', `${base}/${awake}`, resize)).operations).toMatchObject([
      { action: 'apply_config', endpoint_id: awake },
    ]);
    expect((await api.call('PATCH', `${base}/${asleep}`, resize)).operations).toEqual([]);
  });

  test('422 ENDPOINTS_LIMIT_EXCEEDED for more than a primary can feed', async () => {
    for (let made30 = 0; made30 < 30; made30 += 1) await replicaOf(made.branch.id, { disabled: true });
    const answer = await api.request('POST', base, { endpoint: { branch_id: made.branch.id, type: 'read_only' } });
    expect(answer).toMatchObject({ status: 422, body: { code: 'ENDPOINTS_LIMIT_EXCEEDED' } });
  });

  test('a branch is made with some, the read-write one first, or with nothing else', async () => {
    const branches = `/projects/${made.project.id}/branches`;
    const both = await api.call('POST', branches, { endpoints: [{ type: 'read_only' }, { type: 'read_write' }] });
    expect(both.endpoints.map((one: { type: string }) => one.type)).toEqual(['read_write', 'read_only']);
    expect(both.operations.map((one: { action: string }) => one.action)).toEqual([
      'create_branch',
      'start_compute',
      'start_compute',
    ]);
    const only = await api.call('POST', branches, { endpoints: [{ type: 'read_only' }] });
    expect(only.endpoints).toMatchObject([{ type: 'read_only' }]);
    const later = await api.call('POST', base, { endpoint: { branch_id: only.branch.id, type: 'read_write' } });
    expect(later.operations).toMatchObject([
      { action: 'apply_config', endpoint_id: only.endpoints[0].id },
      { action: 'start_compute', endpoint_id: later.endpoint.id },
    ]);
  });
});

describe('deletion', () => {
  test('answers with the suspend, then 204, and another may take its place', async () => {
    const { status, body } = await api.request('DELETE', path);
    expect(status).toBe(200);
    expect(body.operations).toMatchObject([{ action: 'suspend_compute', status: 'running' }]);
    expect(await api.request('DELETE', path)).toEqual({ status: 204, body: undefined });
    expect(await api.request('GET', path)).toMatchObject({ status: 404, body: { message: 'endpoint not found' } });
    expect((await api.request('POST', `${path}/start`)).status).toBe(404);
    const again = await api.request('POST', base, { endpoint: { branch_id: made.branch.id, type: 'read_write' } });
    expect(again.status).toBe(201);
    expect(again.body.endpoint.id).not.toBe(made.endpoints[0]!.id);
  });

  test('422 on a protected branch', async () => {
    await api.call('PATCH', `/projects/${made.project.id}/branches/${made.branch.id}`, { branch: { protected: true } });
    expect((await api.request('DELETE', path)).status).toBe(422);
  });
});

test('an endpoint of another project is not found', async () => {
  const other = await api.call('POST', '/projects', { project: {} });
  const id = other.endpoints[0]!.id;
  expect((await api.request('GET', `${base}/${id}`)).status).toBe(404);
  expect((await api.request('PATCH', `${base}/${id}`, { endpoint: {} })).status).toBe(404);
  expect((await api.request('DELETE', `${base}/${id}`)).status).toBe(204);
  expect((await api.request('GET', `/projects/${other.project.id}/endpoints/${id}`)).status).toBe(200);
});
