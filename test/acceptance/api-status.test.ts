/**
 * What the API answers, by status: authentication, unknown routes, wrong methods, malformed bodies and queries,
 * refused rules, and what is not implemented yet. Texts are Neon's, because clients match on them.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Ballast } from '../support/ballast.ts';
import type { Place } from '../support/api.ts';

let ballast: Ballast;
let place: Place;

beforeAll(async () => {
  ballast = await Ballast.boot();
  place = await ballast.api.createProject({ name: 'status' });
}, 150_000);

afterAll(async () => {
  await ballast?.destroy();
});

const branches = () => `/projects/${place.projectId}/branches`;
const branch = () => `${branches()}/${place.branchId}`;

describe('401', () => {
  const refused = { code: '', message: 'supplied credentials do not pass authentication' };

  test.each([
    ['no header', { key: null }],
    ['an unknown key', { key: 'napi_unknown' }],
    ['another scheme', { key: null, headers: { authorization: 'Basic abc' } }],
    ['an empty bearer', { key: null, headers: { authorization: 'Bearer ' } }],
  ])('%s', async (_, options) => {
    const reply = await ballast.api.request('GET', '/projects', undefined, options);
    expect(reply.status).toBe(401);
    expect(reply.body).toMatchObject(refused);
  });

  test('a revoked key fails at once', async () => {
    const created = await ballast.api.call('POST', '/api_keys', { key_name: 'short-lived' });
    expect(created.key).toMatch(/^napi_/);
    const useIt = async () => (await ballast.api.request('GET', '/projects', undefined, { key: created.key })).status;
    expect(await useIt()).toBe(200);
    const revoked = await ballast.api.call('DELETE', `/api_keys/${created.id}`);
    expect(revoked).toMatchObject({ id: created.id, name: 'short-lived', revoked: true });
    expect(await useIt()).toBe(401);
  });

  test('a key made and revoked by the command line is known and forgotten at once', async () => {
    const made = ballast.command(['keys', 'create', 'from-cli']);
    expect(made.stderr + made.stdout).toMatch(/napi_/);
    const key = /napi_[a-z0-9]+/.exec(made.stdout)?.[0];
    expect(key).toBeDefined();
    const useIt = async () => (await ballast.api.request('GET', '/projects', undefined, { key: key! })).status;
    expect(await useIt()).toBe(200);
    const listed = await ballast.api.call<{ id: number; name: string }[]>('GET', '/api_keys');
    const { id } = listed.find((item) => item.name === 'from-cli')!;
    expect(ballast.command(['keys', 'revoke', String(id)]).status).toBe(0);
    expect(await useIt()).toBe(401);
  });
});

describe('200', () => {
  test('listing keys gives a bare array that never holds a secret', async () => {
    const reply = await ballast.api.request('GET', '/api_keys');
    expect(Array.isArray(reply.body)).toBe(true);
    expect(reply.text).not.toContain(ballast.api.apiKey);
    expect(reply.text).not.toContain('napi_');
  });

  test('X-Request-ID is honoured, and one is made where none came', async () => {
    const id = '3f0b1c52-5f0e-4c58-9f3e-0d9a5b7c1d2e';
    const reply = await ballast.api.request('GET', '/projects/none-none-00000000', undefined, {
      headers: { 'X-Request-ID': id },
    });
    expect(reply.body.request_id).toBe(id);
    expect(reply.headers.get('x-neon-ret-request-id')).toBe(id);
    const own = await ballast.api.request('GET', '/projects');
    expect(own.headers.get('x-neon-ret-request-id')).toMatch(/^[0-9a-f-]{36}$/);
  });

  test('a project list ends: cursors lead through all of it', async () => {
    await Promise.all([1, 2, 3].map((n) => ballast.api.call('POST', '/projects', { project: { name: `page-${n}` } })));
    const seen: string[] = [];
    let cursor: string | undefined;
    for (let pages = 0; pages < 10; pages++) {
      const page = await ballast.api.call('GET', `/projects?limit=2${cursor === undefined ? '' : `&cursor=${cursor}`}`);
      if (page.projects.length === 0) break;
      seen.push(...page.projects.map((project: { id: string }) => project.id));
      cursor = page.pagination?.cursor;
      if (cursor === undefined) break;
    }
    expect(new Set(seen).size).toBe(seen.length);
    expect(seen.length).toBe(4);
    const found = await ballast.api.call('GET', '/projects?search=page-2');
    expect(found.projects.map((project: { name: string }) => project.name)).toEqual(['page-2']);
  });

  test('users, organizations, regions and auth details', async () => {
    expect(await ballast.api.call('GET', '/users/me')).toHaveProperty('projects_limit');
    const { organizations } = await ballast.api.call('GET', '/users/me/organizations');
    expect(organizations).toHaveLength(1);
    expect(organizations[0].id).toMatch(/^org-/);
    expect(await ballast.api.call('GET', '/auth')).toMatchObject({ auth_method: 'api_key_user' });
    const { regions } = await ballast.api.call('GET', '/regions');
    expect(regions.length).toBeGreaterThan(0);
  });
});

describe('201', () => {
  test('form-encoded bodies nest by brackets and mean what JSON means', async () => {
    const rawBody = 'project[name]=from+a+form&project[pg_version]=17&project[history_retention_seconds]=3600';
    const headers = { 'content-type': 'application/x-www-form-urlencoded' };
    const reply = await ballast.api.request('POST', '/projects', undefined, { rawBody, headers });
    expect(reply.status).toBe(201);
    expect(reply.body.project).toMatchObject({ name: 'from a form', pg_version: 17, history_retention_seconds: 3600 });
    await ballast.api.settle(reply.body);
  });

  test("a branch without a body has no endpoint, roles without passwords, and the parent's databases", async () => {
    const reply = await ballast.api.request('POST', branches());
    expect(reply.status).toBe(201);
    expect(reply.body.branch).toMatchObject({
      parent_id: place.branchId,
      current_state: 'init',
      pending_state: 'ready',
    });
    expect(reply.body.branch.name).toBe(reply.body.branch.id);
    expect(reply.body.operations.map((operation: { action: string }) => operation.action)).toEqual(['create_branch']);
    expect(reply.body.roles[0]).not.toHaveProperty('password');
    expect(reply.body.databases.map((database: { name: string }) => database.name)).toEqual(['neondb']);
    expect(reply.body).not.toHaveProperty('connection_uris');
    await ballast.api.settle(reply.body);
  });
});

describe('400', () => {
  test('a missing wrapper says which field is required', async () => {
    const reply = await ballast.api.request('POST', '/projects', {});
    expect(reply.status).toBe(400);
    expect(reply.body.message).toMatch(/^invalid request: .*project/);
    expect(reply.body.code).toBe('');
  });

  test.each([
    ['broken JSON', { rawBody: '{"project":', headers: { 'content-type': 'application/json' } }],
    ['a wrong type', { rawBody: '{"project":{"name":5}}', headers: { 'content-type': 'application/json' } }],
    ['a body that is no object', { rawBody: '[]', headers: { 'content-type': 'application/json' } }],
  ])('%s', async (_, options) => {
    const reply = await ballast.api.request('POST', '/projects', undefined, options);
    expect(reply.status).toBe(400);
    expect(reply.body.message).toMatch(/^invalid request: /);
  });

  test.each(['limit=0', 'limit=ten', 'limit=100000'])('GET /projects?%s', async (search) => {
    const reply = await ballast.api.request('GET', `/projects?${search}`);
    expect(reply.status).toBe(400);
    expect(reply.body.message).toMatch(/^invalid request: /);
  });

  test('more history than a month', async () => {
    const reply = await ballast.api.request('POST', '/projects', {
      project: { history_retention_seconds: 99_999_999 },
    });
    expect(reply.status).toBe(400);
  });
});

describe('404', () => {
  test('unknown routes', async () => {
    const reply = await ballast.api.request('GET', '/nothing/here');
    expect(reply.status).toBe(404);
    expect(reply.body).toMatchObject({ code: '', message: 'this route does not exist' });
  });

  test('unknown project, branch, endpoint, role, database, operation', async () => {
    const message = async (path: string) => {
      const reply = await ballast.api.request('GET', path);
      expect(reply.status).toBe(404);
      return reply.body.message as string;
    };
    expect(await message('/projects/none-none-00000000')).toBe('project not found');
    expect(await message(`${branches()}/br-none-none-00000000`)).toBe('branch not found');
    expect(await message(`/projects/${place.projectId}/endpoints/ep-none-none-00000000`)).toMatch(/endpoint/);
    expect(await message(`${branch()}/roles/nobody`)).toMatch(/role/);
    expect(await message(`${branch()}/databases/nothing`)).toMatch(/database/);
    expect(await message(`/projects/${place.projectId}/operations/00000000-0000-4000-8000-000000000000`)).toMatch(
      /operation/,
    );
  });

  test('a branch is not found through another project', async () => {
    const other = await ballast.api.createProject({ name: 'other' });
    const reply = await ballast.api.request('GET', `/projects/${other.projectId}/branches/${place.branchId}`);
    expect(reply.status).toBe(404);
  });
});

test('405: a known route with another method', async () => {
  const reply = await ballast.api.request('PUT', '/projects', {});
  expect(reply.status).toBe(405);
  expect(reply.body).toHaveProperty('message');
});

describe('409 and 422', () => {
  test('a branch name that is taken', async () => {
    await ballast.api.callAndSettle('POST', branches(), { branch: { name: 'taken' } });
    const reply = await ballast.api.request('POST', branches(), { branch: { name: 'taken' } });
    expect(reply.status).toBe(409);
    expect(reply.body.message).toBe('branch already exists; branch_name:"taken"');
  });

  test('what may not be deleted', async () => {
    const root = await ballast.api.request('DELETE', branch());
    expect(root.status).toBe(422);
    expect(root.body.message).toBe('cannot delete the root branch');

    const { branch: mid } = await ballast.api.callAndSettle('POST', branches(), { branch: { name: 'mid' } });
    const { branch: leaf } = await ballast.api.callAndSettle('POST', branches(), {
      branch: { name: 'leaf', parent_id: mid.id },
    });
    const refused = await ballast.api.request('DELETE', `${branches()}/${mid.id}`);
    expect(refused.status).toBe(422);
    expect(refused.body.message).toContain('cannot delete branch that has children');
    await ballast.api.callAndSettle('DELETE', `${branches()}/${leaf.id}`);
    await ballast.api.callAndSettle('DELETE', `${branches()}/${mid.id}`);
    expect([204, 404]).toContain((await ballast.api.request('DELETE', `${branches()}/${mid.id}`)).status);
  });

  test('a protected branch, and its project', async () => {
    const { branch: guarded } = await ballast.api.callAndSettle('POST', branches(), {
      branch: { name: 'guarded', protected: true },
    });
    const reply = await ballast.api.request('DELETE', `${branches()}/${guarded.id}`);
    expect(reply.status).toBe(422);
    expect(reply.body.message).toBe('cannot delete protected branch');
    await ballast.api.callAndSettle('PATCH', `${branches()}/${guarded.id}`, { branch: { protected: false } });
    await ballast.api.callAndSettle('DELETE', `${branches()}/${guarded.id}`);
  });

  test('a second read-write endpoint, a database of an unknown owner, a role that owns databases', async () => {
    const endpoint = await ballast.api.request('POST', `/projects/${place.projectId}/endpoints`, {
      endpoint: { branch_id: place.branchId, type: 'read_write' },
    });
    expect(endpoint.status).toBeGreaterThanOrEqual(400);
    expect(endpoint.status).toBeLessThan(500);
    expect(endpoint.body.message).toContain('read_write endpoint already exists');
    const database = await ballast.api.request('POST', `${branch()}/databases`, {
      database: { name: 'd', owner_name: 'nobody' },
    });
    expect(database.status).toBe(422);
    expect(database.body.message).toBe('database owner not found; role_name:"nobody"');
    expect((await ballast.api.request('DELETE', `${branch()}/roles/${place.role}`)).status).toBe(422);
    expect(
      (
        await ballast.api.request('POST', `${branch()}/databases`, {
          database: { name: 'neondb', owner_name: place.role },
        })
      ).status,
    ).toBe(409);
    expect((await ballast.api.request('POST', `${branch()}/roles`, { role: { name: place.role } })).status).toBe(409);
  });

  test.each(['pg_thing', 'cloud_admin', 'neon_superuser', 'public'])('the reserved role name %s', async (name) => {
    const reply = await ballast.api.request('POST', `${branch()}/roles`, { role: { name } });
    expect(reply.status).toBeGreaterThanOrEqual(400);
    expect(reply.status).toBeLessThan(500);
  });
});

test('412: roles need a read-write endpoint', async () => {
  const { branch: bare } = await ballast.api.callAndSettle('POST', branches(), { branch: { name: 'bare' } });
  const reply = await ballast.api.request('POST', `${branches()}/${bare.id}/roles`, { role: { name: 'r' } });
  expect(reply.status).toBe(412);
  expect(reply.body.message).toBe('create a read-write endpoint to manage roles on this branch');
});

describe('501', () => {
  test.each([
    ['POST', () => `${branch()}/anonymize`, undefined],
    ['GET', () => `${branch()}/auth`, undefined],
  ] as const)('%s of what later versions bring', async (method, path, body) => {
    const reply = await ballast.api.request(method, path(), body);
    expect(reply.status).toBe(501);
    expect(reply.body.message).not.toBe('');
    expect(reply.body).toHaveProperty('code');
  });
});
