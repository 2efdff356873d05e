import type { CreateProjectResponse } from '@neon/sdk/raw';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openTestApi, type TestApi } from '../../../test/support/control-plane.ts';

let api: TestApi;
/** A project whose operations have ended. */
let made: CreateProjectResponse;
let base: string;

beforeAll(async () => {
  api = await openTestApi();
});
afterAll(() => api.close());
beforeEach(async () => {
  made = await api.call('POST', '/projects', { project: {} });
  base = `/projects/${made.project.id}/branches`;
  await api.settle();
});

const branch = (body?: object) => api.call('POST', base, body);
const refused = async (method: string, path: string, body?: object) => {
  const answer = await api.request(method, path, body);
  return [answer.status, answer.body?.code, answer.body?.message];
};

describe('201: a new branch', () => {
  test('without a body comes from the default branch, without an endpoint', async () => {
    const answer = await branch();
    expect(answer.branch).toMatchObject({
      parent_id: made.branch.id,
      name: answer.branch.id,
      current_state: 'init',
      pending_state: 'ready',
      default: false,
      init_source: 'parent-data',
    });
    expect(answer.endpoints).toEqual([]);
    expect(answer).not.toHaveProperty('connection_uris');
    expect(answer.operations).toMatchObject([{ action: 'create_branch', status: 'running' }]);
    expect(answer.roles).toMatchObject([{ name: 'neondb_owner', branch_id: answer.branch.id }]);
    expect(answer.roles[0]).not.toHaveProperty('password');
    expect(answer.databases).toMatchObject([{ name: 'neondb', branch_id: answer.branch.id }]);
  });

  test('with an endpoint can be connected to with the password of its parent', async () => {
    const answer = await branch({
      endpoints: [{ type: 'read_write', suspend_timeout_seconds: 0, autoscaling_limit_max_cu: 1 }],
      branch: { name: 'preview/pr-12', parent_id: made.branch.id, protected: true, init_source: 'parent-data' },
      annotation_value: { pr: '12' },
    });
    expect(answer.branch).toMatchObject({ name: 'preview/pr-12', protected: true });
    expect(answer.operations).toMatchObject([
      { action: 'create_branch', status: 'running' },
      { action: 'start_compute', status: 'scheduling', endpoint_id: answer.endpoints[0].id },
    ]);
    expect(answer.endpoints).toMatchObject([{ autoscaling_limit_max_cu: 1, branch_id: answer.branch.id }]);
    expect(answer.connection_uris[0].connection_parameters).toMatchObject({
      password: made.roles[0]!.password,
      host: answer.endpoints[0].host,
    });
    const list = await api.call('GET', `${base}?search=PREVIEW`);
    expect(list.annotations[answer.branch.id]).toMatchObject({ value: { pr: '12' } });
    expect(list.branches[0].created_by).toEqual({ name: 'Owner', image: '' });
  });

  test('can be read and revealed at once', async () => {
    const { branch: child } = await branch({ endpoints: [{ type: 'read_write' }] });
    const path = `${base}/${child.id}`;
    expect((await api.call('GET', `${path}/endpoints`)).endpoints).toHaveLength(1);
    expect((await api.call('GET', `${path}/databases/neondb`)).database.owner_name).toBe('neondb_owner');
    expect((await api.call('GET', `${path}/roles/neondb_owner`)).role.authentication_method).toBe('password');
    const { password } = await api.call('GET', `${path}/roles/neondb_owner/reveal_password`);
    expect(password).toBe(made.roles[0]!.password);
  });

  test('has no connection_uris when there is more than one role', async () => {
    await api.call('POST', `${base}/${made.branch.id}/roles`, { role: { name: 'second' } });
    const answer = await branch({ endpoints: [{ type: 'read_write' }] });
    expect(answer).not.toHaveProperty('connection_uris');
    expect(answer.roles.map((role: { name: string }) => role.name)).toEqual(['neondb_owner', 'second']);
  });

  test('inherits what is pending on its parent', async () => {
    const parent = `${base}/${made.branch.id}`;
    await api.call('POST', `${parent}/roles`, { role: { name: 'fresh' } });
    await api.call('POST', `${parent}/databases`, { database: { name: 'gone', owner_name: 'fresh' } });
    await api.settle();
    await api.call('DELETE', `${parent}/databases/gone`);
    await api.call('POST', `${parent}/roles/fresh/reset_password`);
    const { branch: child, databases } = await branch();
    expect(databases.map((database: { name: string }) => database.name)).toEqual(['neondb']);
    const states = await api.catalog.query(
      `select name, state from roles where branch_id = $1 union all select name, state from databases where branch_id = $1
       order by name`,
      [child.id],
    );
    expect(states).toEqual([
      { name: 'fresh', state: 'updating' },
      { name: 'gone', state: 'deleting' },
      { name: 'neondb', state: 'ready' },
      { name: 'neondb_owner', state: 'ready' },
    ]);
  });

  test('of a protected parent gets passwords of its own', async () => {
    await api.call('PATCH', `${base}/${made.branch.id}`, { branch: { protected: true } });
    await api.call('POST', `${base}/${made.branch.id}/roles`, { role: { name: 'group', no_login: true } });
    const { branch: child } = await branch({ endpoints: [{ type: 'read_write' }] });
    const { password } = await api.call('GET', `${base}/${child.id}/roles/neondb_owner/reveal_password`);
    expect(password).toMatch(/^npg_/);
    expect(password).not.toBe(made.roles[0]!.password);
    const verifiers = await api.catalog.query<{ verifier: string | null; state: string }>(
      `select verifier, state from roles where name = 'neondb_owner' and branch_id = any ($1) order by branch_id = $2`,
      [[made.branch.id, child.id], child.id],
    );
    expect(verifiers[0]!.verifier).not.toBe(verifiers[1]!.verifier);
    expect(verifiers[1]!.state).toBe('updating');
    const [group] = await api.catalog.query<{ verifier: string | null }>(
      `select verifier from roles where name = 'group' and branch_id = $1`,
      [child.id],
    );
    expect(group!.verifier).toBeNull();
  });
});

describe('refused', () => {
  test.each([
    [{ branch: { parent_lsn: 'x' } }, 400],
    [{ branch: { parent_timestamp: 'yesterday' } }, 400],
    [{ branch: { parent_timestamp: '2026-01-01T00:00:00' } }, 400],
    [{ branch: { parent_lsn: '0/1', parent_timestamp: '2026-01-01T00:00:00Z' } }, 400],
    [{ branch: { init_source: 'thin-air' } }, 400],
    [{ branch: { expires_at: '2099-01-01T00:00:00Z' } }, 400],
    [{ branch: { expires_at: '2020-01-01T00:00:00Z' } }, 400],
    [{ branch: { expires_at: 'tomorrow' } }, 400],
    [{ endpoints: [{ type: 'read_write' }, { type: 'read_write' }] }, 422],
    [{ endpoints: [{ type: 'read_write', settings: { pg_settings: { archive_command: 'x' } } }] }, 400],
    [{ branch: { parent_id: 'br-none-here-12345678' } }, 404],
    [{ branch: { name: 'main' } }, 409],
  ])('%j with %d, and nothing is left behind', async (body, status) => {
    expect((await api.request('POST', base, body)).status).toBe(status);
    expect(await api.call('GET', `${base}/count`)).toEqual({ count: 1 });
  });

  test('409 with the text that clients know', async () => {
    const conflict = [409, 'BRANCH_ALREADY_EXISTS', 'branch already exists; branch_name:"main"'];
    expect(await refused('POST', base, { branch: { name: 'main' } })).toEqual(conflict);
    const { branch: child } = await branch();
    expect(await refused('PATCH', `${base}/${child.id}`, { branch: { name: 'main' } })).toEqual(conflict);
    expect((await refused('PATCH', `${base}/${child.id}`, { branch: { name: child.name } }))[0]).toBe(200);
  });

  test('422 when the parent could not be made; while it is being made, its child queues', async () => {
    const { branch: child } = await branch();
    const body = { branch: { parent_id: child.id } };
    const { branch: grandchild, operations } = await branch(body);
    expect(grandchild).toMatchObject({ parent_id: child.id, current_state: 'init', pending_state: 'ready' });
    expect(operations).toMatchObject([{ action: 'create_branch', branch_id: grandchild.id }]);
    await api.catalog.query('update branches set pending_state = null where id = $1', [child.id]);
    expect(await refused('POST', base, body)).toEqual([422, '', 'branch not ready yet']);
  });
});

describe('deletion', () => {
  test('answers with the operations, then 204', async () => {
    const { branch: child, endpoints } = await branch({ endpoints: [{ type: 'read_write' }] });
    await api.settle();
    const { status, body } = await api.request('DELETE', `${base}/${child.id}`);
    expect(status).toBe(200);
    expect(body.branch).toMatchObject({ id: child.id, pending_state: 'storage_deleted' });
    expect(body.operations).toMatchObject([
      { action: 'suspend_compute', status: 'running', endpoint_id: endpoints[0].id },
    ]);
    expect(await api.request('DELETE', `${base}/${child.id}`)).toEqual({ status: 204, body: undefined });
    expect((await api.request('DELETE', `${base}/br-never-was-12345678`)).status).toBe(204);
    expect(await refused('GET', `${base}/${child.id}`)).toEqual([404, '', 'branch not found']);
    expect((await api.request('GET', `/projects/${made.project.id}/endpoints/${endpoints[0].id}`)).status).toBe(404);
    // Its name is free at once.
    await branch({ branch: { name: child.name } });
  });

  test('is refused for what must stay', async () => {
    const { branch: child } = await branch();
    await api.settle();
    const { branch: grandchild } = await branch({ branch: { parent_id: child.id } });
    const remove = (id: string) => refused('DELETE', `${base}/${id}`);
    expect(await remove(made.branch.id)).toEqual([422, '', 'cannot delete the root branch']);
    expect(await remove(child.id)).toEqual([422, '', `cannot delete branch that has children: ${grandchild.id}`]);
    await api.call('PATCH', `${base}/${grandchild.id}`, { branch: { protected: true } });
    expect(await remove(grandchild.id)).toEqual([422, '', 'cannot delete protected branch']);
    await api.call('PATCH', `${base}/${grandchild.id}`, { branch: { protected: false } });
    await api.call('POST', `${base}/${grandchild.id}/set_as_default`);
    expect(await remove(grandchild.id)).toEqual([422, '', 'cannot delete the default branch']);
    await api.call('POST', `${base}/${made.branch.id}/set_as_default`);
    expect((await remove(grandchild.id))[0]).toBe(200);
    expect((await remove(child.id))[0]).toBe(200);
  });
});

test('exactly one branch is the default', async () => {
  const { branch: child } = await branch();
  const answer = await api.call('POST', `${base}/${child.id}/set_as_default`);
  expect(answer).toMatchObject({ branch: { id: child.id, default: true, primary: true }, operations: [] });
  const { branches } = await api.call('GET', base);
  expect(branches.filter((row: { default: boolean }) => row.default)).toMatchObject([{ id: child.id }]);
  // New branches come from it now.
  await api.settle();
  expect((await branch()).branch.parent_id).toBe(child.id);
});

test('changes yield no operations', async () => {
  const path = `${base}/${made.branch.id}`;
  const answer = await api.call('PATCH', path, { branch: { name: 'trunk', protected: true, expires_at: null } });
  expect(answer).toMatchObject({ branch: { name: 'trunk', protected: true }, operations: [] });
});

describe('lists', () => {
  test.each([
    ['sort_by=name&sort_order=asc', ['a', 'b', 'c', 'main']],
    ['sort_by=name', ['main', 'c', 'b', 'a']],
    ['sort_by=created_at&sort_order=asc', ['main', 'c', 'a', 'b']],
    ['', ['main', 'b', 'a', 'c']],
  ])('in the order of "%s", page by page', async (query, expected) => {
    for (const name of ['c', 'a', 'b']) await branch({ branch: { name } });
    await api.call('PATCH', `${base}/${made.branch.id}`, { branch: { protected: false } });
    const seen: string[] = [];
    let cursor = '';
    for (;;) {
      const page = await api.call('GET', `${base}?limit=2&${query}${cursor}`);
      seen.push(...page.branches.map((row: { name: string }) => row.name));
      if (page.pagination.next === undefined) break;
      cursor = `&cursor=${encodeURIComponent(page.pagination.next)}`;
    }
    expect(seen).toEqual(expected);
  });

  test('say how they are sorted, and count', async () => {
    await branch({ branch: { name: 'dev' } });
    const list = await api.call('GET', `${base}?search=dev&limit=10000`);
    expect(list.pagination).toEqual({ sort_by: 'updated_at', sort_order: 'DESC' });
    expect(list.branches).toHaveLength(1);
    expect(await api.call('GET', `${base}/count`)).toEqual({ count: 2 });
    expect(await api.call('GET', `${base}/count?search=DEV`)).toEqual({ count: 1 });
  });

  test.each([
    'x',
    'e30=',
    Buffer.from('{"branch_id":"a","sort_by":"id","sort_by_value":"x","sort_order":"ASC"}').toString('base64'),
  ])('400: cursor %s', async (cursor) => {
    expect((await api.request('GET', `${base}?cursor=${encodeURIComponent(cursor)}`)).status).toBe(400);
  });
});
