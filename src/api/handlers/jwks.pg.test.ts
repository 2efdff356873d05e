/** JWKS of projects through the API's edge: what is kept and answered, what is refused, which computes hear of it. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openTestApi } from '../../../test/support/control-plane.ts';
import type { TestApi } from '../../../test/support/control-plane.ts';

let api: TestApi;
let path: string;
let branchId: string;
let role: string;
const GOOGLE = { jwks_url: 'https://www.googleapis.com/oauth2/v3/certs', provider_name: 'Google' };

beforeAll(async () => {
  api = await openTestApi();
  const made = await api.call('POST', '/projects', { project: { name: 'jwks' } });
  path = `/projects/${made.project.id}`;
  branchId = made.branch.id;
  role = made.roles[0].name;
  await api.settle();
});
afterAll(() => api?.close());

const roleNames = async (branch = branchId): Promise<string[]> =>
  (await api.call('GET', `${path}/branches/${branch}/roles`)).roles.map(({ name }: { name: string }) => name);

test('without roles there are the three that Neon has, on every branch; awake computes hear of it', async () => {
  const { branch: other } = await api.call('POST', `${path}/branches`, {});
  await api.settle();
  const { jwks, operations } = await api.call('POST', `${path}/jwks`, { ...GOOGLE, jwt_audience: 'authenticated' });
  expect(jwks).toMatchObject({
    id: expect.stringMatching(/^[0-9a-f-]{36}$/),
    ...GOOGLE,
    jwt_audience: 'authenticated',
    role_names: ['authenticator', 'authenticated', 'anonymous'],
  });
  expect(jwks).not.toHaveProperty('branch_id');
  expect(operations).toMatchObject([{ action: 'apply_config', branch_id: branchId }]);
  for (const branch of [branchId, other.id]) {
    expect(await roleNames(branch)).toEqual(expect.arrayContaining(['authenticator', 'authenticated', 'anonymous']));
  }
  const rows = await api.catalog.query<{ plain: boolean }>('select plain from roles where name = $1', ['anonymous']);
  expect(rows.map(({ plain }) => plain)).toEqual([true, true]);
  await api.settle();
  expect((await api.call('GET', `${path}/jwks`)).jwks).toEqual([jwks]);
  expect(await api.call('DELETE', `${path}/jwks/${jwks.id}`)).toEqual(jwks);
  expect((await api.call('GET', `${path}/jwks`)).jwks).toEqual([]);
  await api.settle();
});

test('roles that exist can be named, for one branch', async () => {
  const before = await roleNames();
  const { jwks } = await api.call('POST', `${path}/jwks`, { ...GOOGLE, role_names: [role, role], branch_id: branchId });
  expect(jwks).toMatchObject({ role_names: [role], branch_id: branchId });
  expect(await roleNames()).toEqual(before);
  await api.settle();
});

describe('refuses', () => {
  test.each<[string, Record<string, unknown>, number, RegExp]>([
    ['another protocol', { jwks_url: 'http://example.com/keys' }, 400, /jwks_url must be a valid HTTPS URL/],
    ['no URL', { jwks_url: 'keys' }, 400, /jwks_url must be a valid HTTPS URL/],
    ['an empty provider', { provider_name: ' ' }, 400, /provider name is not valid/],
    ['a role that is not there', { role_names: ['nobody'] }, 422, /role not found; role_name:"nobody"/],
    ['a role that is Ballast', { role_names: ['cloud_admin'] }, 422, /reserved/],
    ['a pattern of roles', { role_names: ['/.*'] }, 422, /cannot be used with JWTs/],
    ['an unknown branch', { branch_id: 'br-none-none-12345678' }, 404, /branch not found/],
  ])('%s', async (_title, change, status, message) => {
    const answer = await api.request('POST', `${path}/jwks`, { ...GOOGLE, ...change });
    expect(answer.status).toBe(status);
    expect(answer.body.message).toMatch(message);
  });

  test('to delete what is not there', async () => {
    expect((await api.request('DELETE', `${path}/jwks/nothing`)).status).toBe(404);
  });
});
