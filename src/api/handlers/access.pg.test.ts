import type { CreateProjectResponse } from '@neon/sdk/raw';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openTestApi, type TestApi } from '../../../test/support/control-plane.ts';

let api: TestApi;
let own: CreateProjectResponse;
let other: CreateProjectResponse;
let organizationKey: string;
let projectKey: string;

beforeAll(async () => {
  api = await openTestApi();
  const orgId = 'org-other-one-12345678';
  await api.catalog.query('insert into organizations (id, name, handle) values ($1, $2, $3)', [orgId, 'Other', orgId]);
  own = await api.call('POST', '/projects', { project: { name: 'own' } });
  other = await api.call('POST', '/projects', { project: { name: 'other', org_id: orgId } });
  const keys = `/organizations/${api.owner.orgId}/api_keys`;
  organizationKey = (await api.call('POST', keys, { key_name: 'org' })).key;
  projectKey = (await api.call('POST', keys, { key_name: 'scoped', project_id: own.project.id })).key;
});
afterAll(() => api.close());

const refused = async (method: string, path: string, key: string, body?: object) => {
  const answer = await api.request(method, path, body, key);
  return [answer.status, answer.body?.message];
};

describe('keys', () => {
  test('are 200 and show the key once', async () => {
    const { status, body } = await api.request('POST', '/api_keys', { key_name: 'laptop' });
    expect(status).toBe(200);
    expect(body).toMatchObject({ name: 'laptop', key: expect.stringMatching(/^napi_[a-z0-9]{64}$/) });
    expect(body.created_by).toBe(api.owner.userId);
    const list = await api.call('GET', '/api_keys');
    expect(list.map((key: { name: string }) => key.name)).toEqual(['test', 'laptop']);
    expect(JSON.stringify(list)).not.toContain('napi_');
    expect(list[1]).toMatchObject({
      created_by: { id: api.owner.userId, name: 'Owner', image: '' },
      last_used_at: null,
      last_used_from_addr: '',
    });
    const [row] = await api.catalog.query('select * from api_keys where id = $1', [body.id]);
    expect(JSON.stringify(row)).not.toContain(body.key);
  });

  test('record their last use', async () => {
    const [first] = await api.call('GET', '/api_keys');
    expect(first.last_used_at).toMatch(/Z$/);
    expect(first.last_used_from_addr).toBe('127.0.0.1');
  });

  test('fail with the next request after they are revoked, here or in the catalog', async () => {
    const unauthenticated = [401, 'supplied credentials do not pass authentication'];
    const made = await api.call('POST', '/api_keys', { key_name: 'short' });
    expect((await refused('GET', '/users/me', made.key))[0]).toBe(200);
    expect(await api.call('DELETE', `/api_keys/${made.id}`)).toMatchObject({ id: made.id, revoked: true });
    expect(await refused('GET', '/users/me', made.key)).toEqual(unauthenticated);
    expect((await api.request('DELETE', `/api_keys/${made.id}`)).status).toBe(404);
    const second = await api.call('POST', '/api_keys', { key_name: 'elsewhere' });
    await api.catalog.query('update api_keys set revoked_at = now() where id = $1', [second.id]);
    expect(await refused('GET', '/users/me', second.key)).toEqual(unauthenticated);
    expect(await refused('GET', '/users/me', 'napi_nonsense')).toEqual(unauthenticated);
  });

  test('of organizations are listed and revoked there', async () => {
    const path = `/organizations/${api.owner.orgId}/api_keys`;
    const made = await api.call('POST', path, { key_name: 'ci', project_id: own.project.id });
    expect(made.project_id).toBe(own.project.id);
    const list = await api.call('GET', path, undefined, organizationKey);
    expect(list).toContainEqual(expect.objectContaining({ id: made.id, name: 'ci', project_id: own.project.id }));
    expect(await api.call('DELETE', `${path}/${made.id}`, undefined, organizationKey)).toMatchObject({ revoked: true });
    expect((await refused('GET', `/projects/${own.project.id}`, made.key))[0]).toBe(401);
    // Personal keys are none of the organization's.
    const [personal] = await api.call('GET', '/api_keys');
    expect((await api.request('DELETE', `${path}/${personal.id}`)).status).toBe(404);
    expect((await api.request('POST', path, { key_name: 'x', project_id: other.project.id })).status).toBe(422);
  });
});

describe('an organization key', () => {
  test('reaches the projects of its organization only', async () => {
    const list = await api.call('GET', '/projects', undefined, organizationKey);
    expect(list.projects.map((project: { id: string }) => project.id)).toEqual([own.project.id]);
    expect((await refused('GET', `/projects/${own.project.id}`, organizationKey))[0]).toBe(200);
    for (const [method, path, body] of [
      ['GET', ''],
      ['PATCH', '', { project: { name: 'mine' } }],
      ['DELETE', ''],
      ['GET', '/branches'],
      ['POST', '/branches'],
      ['GET', `/endpoints/${other.endpoints[0]!.id}`],
      ['GET', '/operations'],
    ] as const) {
      const answer = await refused(method, `/projects/${other.project.id}${path}`, organizationKey, body);
      expect(answer).toEqual([404, 'project not found']);
    }
    expect((await refused('GET', `/projects?org_id=${other.project.org_id}`, organizationKey))[0]).toBe(404);
    expect((await refused('GET', `/organizations/${other.project.org_id}`, organizationKey))[0]).toBe(404);
    expect((await refused('GET', `/organizations/${api.owner.orgId}/members`, organizationKey))[0]).toBe(200);
  });

  test.each([
    ['GET', '/users/me'],
    ['GET', '/users/me/organizations'],
    ['GET', '/regions'],
    ['GET', '/api_keys'],
    ['GET', '/projects/shared'],
  ])('404 on %s %s', async (method, path) => {
    expect(await refused(method, path, organizationKey)).toEqual([404, 'not allowed for organization API keys']);
  });

  test('makes no keys, and makes projects in its organization', async () => {
    const keys = `/organizations/${api.owner.orgId}/api_keys`;
    expect((await refused('POST', keys, organizationKey, { key_name: 'more' }))[0]).toBe(404);
    const { project } = await api.call('POST', '/projects', { project: {} }, organizationKey);
    expect(project.org_id).toBe(api.owner.orgId);
    await api.call('DELETE', `/projects/${project.id}`);
    expect(await api.call('GET', '/auth', undefined, organizationKey)).toEqual({
      account_id: api.owner.orgId,
      auth_method: 'api_key_org',
    });
  });
});

describe('a project key', () => {
  const outside = () => [
    404,
    `not allowed to perform actions outside the project this key is scoped to; subject_project_id:"${own.project.id}"`,
  ];

  test('works in its project', async () => {
    expect((await refused('GET', `/projects/${own.project.id}`, projectKey))[0]).toBe(200);
    expect((await refused('GET', `/projects/${own.project.id}/branches`, projectKey))[0]).toBe(200);
    expect((await refused('PATCH', `/projects/${own.project.id}`, projectKey, { project: { name: 'x' } }))[0]).toBe(
      200,
    );
  });

  test('and nowhere else', async () => {
    for (const path of [
      '/projects',
      `/projects/${other.project.id}`,
      `/projects/${other.project.id}/branches`,
      `/organizations/${api.owner.orgId}`,
      '/api_keys',
      '/users/me',
    ]) {
      expect(await refused('GET', path, projectKey)).toEqual(outside());
    }
    expect(await refused('POST', '/projects', projectKey, { project: {} })).toEqual(outside());
    expect((await refused('DELETE', `/projects/${own.project.id}`, projectKey))[0]).toBe(404);
    expect((await refused('GET', `/projects/${own.project.id}`, api.key))[0]).toBe(200);
  });
});

test('the user, the organizations and the regions', async () => {
  const me = await api.call('GET', '/users/me');
  expect(me).toMatchObject({ id: api.owner.userId, name: 'Owner', plan: 'scale' });
  const { organizations } = await api.call('GET', '/users/me/organizations');
  expect(organizations[0]).toMatchObject({ id: api.owner.orgId, name: 'Default', managed_by: 'console' });
  expect(await api.call('GET', `/organizations/${api.owner.orgId}`)).toEqual(organizations[0]);
  const { members } = await api.call('GET', `/organizations/${api.owner.orgId}/members`);
  expect(members).toMatchObject([{ member: { user_id: me.id, role: 'admin' }, user: { email: me.email } }]);
  const member = await api.call('GET', `/organizations/${api.owner.orgId}/members/${members[0].member.id}`);
  expect(member).toEqual(members[0].member);
  expect(await api.call('GET', '/auth')).toEqual({ account_id: me.id, auth_method: 'api_key_user' });
  const { regions } = await api.call('GET', '/regions');
  expect(regions).toMatchObject([{ region_id: 'local', default: true }]);
});
