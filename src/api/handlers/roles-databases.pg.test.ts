import type { CreateProjectResponse } from '@neon/sdk/raw';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openTestApi, opensWith, type TestApi } from '../../../test/support/control-plane.ts';

let api: TestApi;
/** A project whose operations have ended: its endpoint is active. */
let made: CreateProjectResponse;
let base: string;

beforeAll(async () => {
  api = await openTestApi();
});
afterAll(() => api.close());
beforeEach(async () => {
  made = await api.call('POST', '/projects', { project: {} });
  base = `/projects/${made.project.id}/branches/${made.branch.id}`;
  await api.settle();
});

const actions = (answer: { operations: { action: string }[] }) =>
  answer.operations.map((operation) => operation.action);
const refused = async (method: string, path: string, body?: object) => {
  const answer = await api.request(method, `${base}${path}`, body);
  return [answer.status, answer.body?.message];
};
const verifierOf = async (role: string) => {
  const [row] = await api.catalog.query<{ verifier: string; sealedPassword: Buffer | null }>(
    'select verifier, sealed_password from roles where branch_id = $1 and name = $2',
    [made.branch.id, role],
  );
  return row!;
};

describe('roles', () => {
  test('201 with a password that the verifier accepts and that is kept sealed', async () => {
    const { status, body } = await api.request('POST', `${base}/roles`, { role: { name: 'app' } });
    expect(status).toBe(201);
    expect(body.role).toMatchObject({ name: 'app', protected: false, authentication_method: 'password' });
    expect(body.operations).toMatchObject([{ action: 'apply_config', status: 'running' }]);
    const { verifier, sealedPassword } = await verifierOf('app');
    expect(verifier).toMatch(/^SCRAM-SHA-256\$4096:/);
    expect(await opensWith(verifier, body.role.password)).toBe(true);
    expect(sealedPassword!.includes(body.role.password)).toBe(false);
    expect(await api.call('GET', `${base}/roles/app/reveal_password`)).toEqual({ password: body.role.password });
    const { roles } = await api.call('GET', `${base}/roles`);
    expect(roles.map((role: { name: string }) => role.name)).toEqual(['neondb_owner', 'app']);
    expect(JSON.stringify(roles)).not.toContain('npg_');
  });

  test('a sleeping compute is woken for it and put back', async () => {
    await api.call('POST', `/projects/${made.project.id}/endpoints/${made.endpoints[0]!.id}/suspend`);
    await api.settle();
    const answer = await api.call('POST', `${base}/roles`, { role: { name: 'app' } });
    expect(actions(answer)).toEqual(['apply_config', 'suspend_compute']);
    const [row] = await api.catalog.query('select payload from operations where id = $1', [answer.operations[1].id]);
    expect(row).toEqual({ payload: { idleOnly: true } });
  });

  test('one that cannot log in has no password', async () => {
    const { role } = await api.call('POST', `${base}/roles`, { role: { name: 'group', no_login: true } });
    expect(role).toMatchObject({ authentication_method: 'no_login' });
    expect(role).not.toHaveProperty('password');
    expect((await refused('GET', '/roles/group/reveal_password'))[0]).toBe(412);
    expect((await refused('POST', '/roles/group/reset_password'))[0]).toBe(422);
  });

  test('reset gives another password', async () => {
    const before = made.roles[0]!.password!;
    const answer = await api.call('POST', `${base}/roles/neondb_owner/reset_password`);
    expect(answer.role.password).not.toBe(before);
    expect(actions(answer)).toEqual(['apply_config']);
    const { verifier } = await verifierOf('neondb_owner');
    expect(await opensWith(verifier, before)).toBe(false);
    expect(await opensWith(verifier, answer.role.password)).toBe(true);
  });

  test('delete, then 204; the name is free once Postgres has dropped it', async () => {
    await api.call('POST', `${base}/roles`, { role: { name: 'app' } });
    await api.settle();
    expect((await refused('DELETE', '/roles/app'))[0]).toBe(200);
    expect((await api.request('DELETE', `${base}/roles/app`)).status).toBe(204);
    expect(await refused('GET', '/roles/app')).toEqual([404, 'role not found']);
    expect((await api.call('GET', `${base}/roles`)).roles).toHaveLength(1);
    expect((await refused('POST', '/roles', { role: { name: 'app' } }))[0]).toBe(423);
    await api.settle();
    expect((await refused('POST', '/roles', { role: { name: 'app' } }))[0]).toBe(201);
  });

  test('refusals', async () => {
    expect(await refused('POST', '/roles', { role: { name: 'neondb_owner' } })).toEqual([
      409,
      'role already exists; role_name:"neondb_owner"',
    ]);
    expect((await refused('POST', '/roles', { role: { name: 'pg_evil' } }))[0]).toBe(422);
    expect((await refused('POST', '/roles', { role: { name: 'x'.repeat(64) } }))[0]).toBe(400);
    expect(await refused('DELETE', '/roles/neondb_owner')).toEqual([
      422,
      'cannot delete role that owns a database; role_name:"neondb_owner", database_name:"neondb"',
    ]);
    expect((await api.request('DELETE', `${base}/roles/nobody`)).status).toBe(204);
    expect((await refused('POST', '/roles/nobody/reset_password'))[0]).toBe(404);
    await api.catalog.query('update roles set protected = true where branch_id = $1', [made.branch.id]);
    expect((await refused('POST', '/roles/neondb_owner/reset_password'))[0]).toBe(422);
    await api.call('DELETE', `${base}/databases/neondb`);
    expect((await refused('DELETE', '/roles/neondb_owner'))[0]).toBe(422);
  });

  test('one that SQL made shows up, without a password to reveal', async () => {
    await api.catalog.query('insert into roles (project_id, branch_id, name, verifier) values ($1, $2, $3, $4)', [
      made.project.id,
      made.branch.id,
      'by_sql',
      'SCRAM-SHA-256$4096:x$y:z',
    ]);
    expect((await refused('GET', '/roles/by_sql/reveal_password'))[0]).toBe(412);
    expect((await refused('DELETE', '/roles/by_sql'))[0]).toBe(200);
  });
});

test('412 without a read-write endpoint, and no row is left', async () => {
  await api.call('DELETE', `/projects/${made.project.id}/endpoints/${made.endpoints[0]!.id}`);
  expect(await refused('POST', '/roles', { role: { name: 'app' } })).toEqual([
    412,
    'create a read-write endpoint to manage roles on this branch',
  ]);
  expect((await refused('POST', '/databases', { database: { name: 'd', owner_name: 'neondb_owner' } }))[0]).toBe(412);
  expect((await api.call('GET', `${base}/roles`)).roles).toHaveLength(1);
  expect((await api.call('GET', `${base}/databases`)).databases).toHaveLength(1);
});

describe('databases', () => {
  const create = (name: string, owner = 'neondb_owner') =>
    api.call('POST', `${base}/databases`, { database: { name, owner_name: owner } });

  test('are made, read and deleted by name', async () => {
    const { database, operations } = await create('a b/ü');
    expect(database).toMatchObject({ id: expect.any(Number), name: 'a b/ü', owner_name: 'neondb_owner' });
    expect(operations).toMatchObject([{ action: 'apply_config' }]);
    const path = `${base}/databases/${encodeURIComponent('a b/ü')}`;
    expect((await api.call('GET', path)).database).toEqual(database);
    expect((await api.request('DELETE', path)).status).toBe(200);
    expect((await api.request('DELETE', path)).status).toBe(204);
    expect((await api.request('GET', path)).status).toBe(404);
    expect((await refused('POST', '/databases', { database: { name: 'a b/ü', owner_name: 'neondb_owner' } }))[0]).toBe(
      423,
    );
  });

  test('are renamed and change their owner', async () => {
    await api.call('POST', `${base}/roles`, { role: { name: 'other' } });
    await create('first');
    expect((await refused('PATCH', '/databases/first', { database: { name: 'second' } }))[0]).toBe(423);
    await api.settle();
    const changed = await api.call('PATCH', `${base}/databases/first`, {
      database: { name: 'second', owner_name: 'other' },
    });
    expect(changed.database).toMatchObject({ name: 'second', owner_name: 'other' });
    const [row] = await api.catalog.query('select state, applied_name from databases where id = $1', [
      changed.database.id,
    ]);
    expect(row).toEqual({ state: 'updating', appliedName: 'first' });
    expect((await refused('GET', '/databases/first'))[0]).toBe(404);
    expect((await refused('DELETE', '/databases/second'))[0]).toBe(423);
    await api.settle();
    expect((await refused('DELETE', '/roles/other'))[0]).toBe(422);
  });

  test('refusals', async () => {
    const post = (name: string, owner: string) =>
      refused('POST', '/databases', { database: { name, owner_name: owner } });
    expect(await post('d', 'nobody')).toEqual([422, 'database owner not found; role_name:"nobody"']);
    expect(await post('neondb', 'neondb_owner')).toEqual([409, 'database already exists; database_name:"neondb"']);
    expect((await post('postgres', 'neondb_owner'))[0]).toBe(422);
    expect((await refused('PATCH', '/databases/none', { database: { name: 'x' } }))[0]).toBe(404);
    expect((await refused('PATCH', '/databases/neondb', { database: { owner_name: 'nobody' } }))[0]).toBe(422);
    expect((await refused('PATCH', '/databases/neondb', { database: { name: 'template1' } }))[0]).toBe(422);
    expect((await api.request('DELETE', `${base}/databases/none`)).status).toBe(204);
  });
});

test('a role goes with its database, in one go', async () => {
  await api.call('POST', `${base}/roles`, { role: { name: 'app' } });
  await api.call('POST', `${base}/databases`, { database: { name: 'app', owner_name: 'app' } });
  await api.settle();
  expect((await refused('DELETE', '/databases/app'))[0]).toBe(200);
  expect((await refused('DELETE', '/roles/app'))[0]).toBe(200);
});

test('two hundred requests at once: no deadlock, no 5xx, nothing lost', async () => {
  const names = Array.from({ length: 100 }, (_, index) => `r${index}`);
  const answers = await Promise.all([
    ...names.map((name) => api.request('POST', `${base}/roles`, { role: { name } })),
    ...names.map((name) => api.request('POST', `/projects/${made.project.id}/branches`, { branch: { name } })),
  ]);
  expect(new Set(answers.map((answer) => answer.status))).toEqual(new Set([201]));
  expect((await api.call('GET', `${base}/roles`)).roles).toHaveLength(101);
  expect(await api.call('GET', `/projects/${made.project.id}/branches/count`)).toEqual({ count: 101 });
  const [row] = await api.catalog.query<{ count: number }>(
    `select count(*) as count from operations where project_id = $1 and status <> 'finished'`,
    [made.project.id],
  );
  expect(row!.count).toBe(200);
});
