import type { CreateProjectResponse } from '@neon/sdk/raw';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openTestApi, type TestApi } from '../../../test/support/control-plane.ts';
import { AppError } from '../../lib/errors.ts';

let api: TestApi;
let made: CreateProjectResponse;
let base: string;
let resolved: unknown[] = [];
let tooEarly: string | undefined;

beforeAll(async () => {
  api = await openTestApi({
    resolvePoint: async (_timeline, query, window) => {
      resolved.push({ query, window });
      if (query.kind === 'time' && query.time === tooEarly) throw new AppError('unprocessable', 'before the branch');
      if (query.kind === 'lsn' && query.lsn === '0/1') throw new AppError('unprocessable', 'before the history');
      return { lsn: '0/1964258', time: '2026-01-16T20:53:56.123456Z' };
    },
  });
});
afterAll(() => api.close());
beforeEach(async () => {
  [resolved, tooEarly] = [[], undefined];
  made = await api.call('POST', '/projects', { project: {} });
  base = `/projects/${made.project.id}/branches`;
  await api.settle();
});

const create = async (branch: object = {}, more: object = {}) => {
  const answer = await api.call('POST', base, { branch, ...more });
  return answer.branch;
};
const refused = async (method: string, path: string, body?: object) => {
  const answer = await api.request(method, path, body);
  return [answer.status, answer.body?.code, answer.body?.message];
};
const inDays = (days: number) => `${new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 19)}Z`;
const payloads = (branchId: string) =>
  api.catalog.query<{ action: string; payload: Record<string, unknown> }>(
    'select action, payload from operations where branch_id = $1 order by seq',
    [branchId],
  );

describe('a branch at a point', () => {
  test('in time: the operation gets what the time means, the answer shows it', async () => {
    const branch = await create({ parent_timestamp: '2026-01-16T22:54:00.5+02:00' });
    expect(branch).toMatchObject({ parent_lsn: '0/1964258', parent_timestamp: '2026-01-16T20:53:56Z' });
    expect(resolved).toMatchObject([{ query: { kind: 'time', time: '2026-01-16T20:54:00.500000Z' } }]);
    const { window } = resolved[0] as { window: { startMs: number; nowMs: number } };
    expect(window.nowMs - window.startMs).toBe(made.project.history_retention_seconds * 1_000);
    expect(await payloads(branch.id)).toEqual([
      { action: 'create_branch', payload: { parentTimelineId: made.branch.id, lsn: '0/1964258' } },
    ]);
  });

  test('does not get what is pending on its parent now', async () => {
    const parent = `${base}/${made.branch.id}`;
    await api.call('POST', `${parent}/databases`, { database: { name: 'old', owner_name: 'neondb_owner' } });
    await api.settle();
    await api.call('DELETE', `${parent}/databases/old`);
    await api.call('POST', `${parent}/roles`, { role: { name: 'new' } });
    const answer = await api.call('POST', base, { branch: { parent_lsn: '0/2' } });
    expect(answer.roles.map((role: { name: string }) => role.name)).toEqual(['neondb_owner']);
    expect(answer.databases.map((database: { name: string }) => database.name)).toEqual(['neondb', 'old']);
  });

  test('is refused where the history does not reach, and of a parent that is not there yet', async () => {
    expect(await refused('POST', base, { branch: { parent_lsn: '0/1' } })).toEqual([422, '', 'before the history']);
    const parent = await create();
    const body = { branch: { parent_id: parent.id, parent_lsn: '0/2' } };
    expect(await refused('POST', base, body)).toEqual([422, '', 'branch not ready yet']);
    expect(await api.call('GET', `${base}/count`)).toEqual({ count: 2 });
  });
});

describe('the moment in which a branch is being made', () => {
  test('belongs to what it begins as; what is before, or in the future, does not', async () => {
    const parent = await create();
    await api.settle();
    await api.catalog.query(`update branches set parent_lsn = '0/77' where id = $1`, [parent.id]);
    const at = (time: string) => {
      tooEarly = time.replace('Z', '.000000Z');
      return refused('POST', base, { branch: { parent_id: parent.id, parent_timestamp: time } });
    };
    expect((await at(parent.created_at))[0]).toBe(201);
    expect(resolved.at(-1)).toMatchObject({ query: { kind: 'lsn', lsn: '0/77' } });
    expect(await at('2020-01-01T00:00:00Z')).toEqual([422, '', 'before the branch']);
    expect(await at(inDays(1))).toEqual([422, '', 'before the branch']);
  });
});

describe('expiration', () => {
  test('is shown with its interval, changed and taken away', async () => {
    const branch = await create({ expires_at: inDays(2) });
    expect(Math.abs(branch.ttl_interval_seconds - 2 * 86_400)).toBeLessThan(5);
    expect(branch.expires_at.slice(0, 15)).toBe(inDays(2).slice(0, 15));
    const path = `${base}/${branch.id}`;
    await api.call('PATCH', path, { branch: { name: 'x' } });
    expect((await api.call('GET', path)).branch.expires_at).toBe(branch.expires_at);
    const later = await api.call('PATCH', path, { branch: { expires_at: inDays(3) } });
    expect(later.branch.ttl_interval_seconds).toBeGreaterThan(branch.ttl_interval_seconds);
    const never = await api.call('PATCH', path, { branch: { expires_at: null } });
    expect(never.branch).not.toHaveProperty('expires_at');
    expect(never.branch).not.toHaveProperty('ttl_interval_seconds');
  });

  test('is refused for what must stay, and what expires carries nothing', async () => {
    const set = (id: string) => refused('PATCH', `${base}/${id}`, { branch: { expires_at: inDays(1) } });
    expect(await set(made.branch.id)).toEqual([422, '', 'cannot set expiration on the default branch']);
    const branch = await create();
    const child = await create({ parent_id: branch.id, expires_at: inDays(1) });
    expect((await set(branch.id))[2]).toMatch(/^cannot set expiration on a branch that has children/);
    expect((await refused('POST', base, { branch: { parent_id: child.id } }))[0]).toBe(422);
    expect((await refused('POST', `${base}/${child.id}/set_as_default`))[0]).toBe(422);
    expect((await refused('PATCH', `${base}/${child.id}`, { branch: { protected: true } }))[0]).toBe(422);
    expect((await refused('POST', base, { branch: { protected: true, expires_at: inDays(1) } }))[0]).toBe(400);
    await api.call('PATCH', `${base}/${child.id}`, { branch: { expires_at: null, protected: true } });
    expect(await set(child.id)).toEqual([422, '', 'cannot set expiration on a protected branch']);
  });

  test.each([inDays(-1), inDays(31), '2030-01-01T00:00:00', 'soon'])('400: %s', async (expiresAt) => {
    const branch = await create();
    expect((await refused('PATCH', `${base}/${branch.id}`, { branch: { expires_at: expiresAt } }))[0]).toBe(400);
  });
});

describe('recovery of a branch', () => {
  test('brings it back with its endpoints, asleep and without an expiration', async () => {
    const answer = await api.call('POST', base, {
      branch: { name: 'dev', expires_at: inDays(1) },
      endpoints: [{ type: 'read_write' }],
    });
    const path = `${base}/${answer.branch.id}`;
    await api.settle();
    await api.call('DELETE', path);
    await api.settle();
    expect((await api.call('GET', base)).branches).toHaveLength(1);
    expect((await api.call('GET', `${base}/count`)).count).toBe(1);
    const { branches } = await api.call('GET', `${base}?include_deleted=true&search=dev`);
    expect(branches).toMatchObject([{ id: answer.branch.id, recovery: { deletion_method: 'user' } }]);
    const { deleted_at: from, recoverable_until: until } = branches[0].recovery;
    expect(Date.parse(until) - Date.parse(from)).toBe(7 * 86_400_000);
    const recovered = await api.call('POST', `${path}/recover`);
    expect(recovered).toMatchObject({
      branch: { id: answer.branch.id, name: 'dev' },
      endpoints: [{ id: answer.endpoints[0].id, host: answer.endpoints[0].host }],
    });
    expect(recovered.branch).not.toHaveProperty('expires_at');
    expect(recovered.branch).not.toHaveProperty('recovery');
    expect((await api.call('GET', `${path}/endpoints`)).endpoints).toHaveLength(1);
    expect(await refused('POST', `${path}/recover`)).toEqual([404, '', 'branch not found']);
  });

  test('waits for its parent and for its name', async () => {
    const parent = await create({ name: 'parent' });
    await api.settle();
    const child = await create({ name: 'child', parent_id: parent.id });
    await api.settle();
    for (const { id } of [child, parent]) await api.call('DELETE', `${base}/${id}`);
    expect((await refused('POST', `${base}/${child.id}/recover`))[0]).toBe(422);
    const other = await create({ name: 'parent' });
    expect(await refused('POST', `${base}/${parent.id}/recover`)).toEqual([
      409,
      'BRANCH_ALREADY_EXISTS',
      'branch already exists; branch_name:"parent"',
    ]);
    await api.call('PATCH', `${base}/${other.id}`, { branch: { name: 'another' } });
    await api.call('POST', `${base}/${parent.id}/recover`);
    await api.call('POST', `${base}/${child.id}/recover`);
  });

  test('hangs it on the next above, when its parent is gone for good', async () => {
    const parent = await create();
    await api.settle();
    const child = await create({ parent_id: parent.id });
    await api.settle();
    await api.call('DELETE', `${base}/${child.id}`);
    await api.call('DELETE', `${base}/${parent.id}?hard_delete=true`);
    const { branch } = await api.call('POST', `${base}/${child.id}/recover`);
    expect(branch.parent_id).toBe(made.branch.id);
  });

  test('is not there for what was deleted for good, or too long ago, or never made', async () => {
    const [hard, twice, old, unmade] = [await create(), await create(), await create(), await create()];
    await api.settle();
    await api.catalog.query(`update branches set current_state = 'init' where id = $1`, [unmade.id]);
    const { operations } = await api.call('DELETE', `${base}/${hard.id}?hard_delete=true`);
    expect(operations).toMatchObject([{ action: 'delete_timeline' }]);
    for (const { id } of [twice, old, unmade]) await api.call('DELETE', `${base}/${id}`);
    expect((await api.call('DELETE', `${base}/${twice.id}?hard_delete=true`)).operations).toHaveLength(1);
    await api.catalog.query(`update branches set recoverable_until = now() where id = $1`, [old.id]);
    for (const { id } of [hard, twice, old, unmade]) {
      expect((await refused('POST', `${base}/${id}/recover`))[0]).toBe(404);
    }
    expect((await api.call('GET', `${base}?include_deleted=true`)).branches).toHaveLength(1);
  });
});

describe('a root', () => {
  test('can be deleted when it is not the last and not the default one', async () => {
    const { id } = await create();
    await api.settle();
    await api.catalog.query('update branches set parent_id = null where id = $1', [id]);
    expect((await refused('DELETE', `${base}/${made.branch.id}`))[2]).toBe('cannot delete the default branch');
    expect((await refused('DELETE', `${base}/${id}`))[0]).toBe(200);
    expect((await refused('DELETE', `${base}/${made.branch.id}`))[2]).toBe('cannot delete the root branch');
  });
});

test('a protected branch says what cannot be done with it', async () => {
  const { branch } = await api.call('PATCH', `${base}/${made.branch.id}`, { branch: { protected: true } });
  expect(branch.restricted_actions.map((action: { name: string }) => action.name)).toEqual([
    'restore',
    'delete-rw-endpoint',
  ]);
  const reset = await refused('POST', `${base}/${made.branch.id}/restore`, {
    source_branch_id: made.branch.id,
    source_lsn: '0/2',
    preserve_under_name: 'old',
  });
  expect(reset).toEqual([422, '', 'cannot reset protected branch']);
});

test('limits can be read', async () => {
  const { limits } = await api.call('GET', `/projects/${made.project.id}/limits`);
  expect(limits).toMatchObject({ max_branches: 5_000, max_read_only_endpoints: -1 });
});

describe('recovery of a project', () => {
  test('brings everything back as it was', async () => {
    const { id } = made.project;
    const branch = await create({ name: 'dev', expires_at: inDays(1) });
    const gone = await create({ name: 'gone' });
    await api.settle();
    await api.call('DELETE', `${base}/${gone.id}`);
    const before = await api.call('GET', `/projects/${id}/endpoints`);
    await api.call('DELETE', `/projects/${id}`);
    await api.settle();
    const listed = await api.call('GET', `/projects?recoverable=true&search=${id}`);
    expect(listed.projects).toMatchObject([{ id, recoverable_until: expect.any(String) }]);
    expect((await api.call('GET', `/projects?search=${id}`)).projects).toEqual([]);
    await api.catalog.query(`update branches set expires_at = now() where id = $1`, [branch.id]);
    const answer = await api.call('POST', `/projects/${id}/recover`);
    expect(answer.project.id).toBe(id);
    expect(answer.branches.map((row: { name: string }) => row.name).toSorted()).toEqual(['dev', 'main']);
    const after = await api.call('GET', `/projects/${id}/endpoints`);
    expect(after.endpoints.map((row: { host: string }) => row.host)).toEqual(
      before.endpoints.map((row: { host: string }) => row.host),
    );
    expect((await api.call('GET', `${base}/${branch.id}`)).branch).not.toHaveProperty('expires_at');
    const { password } = await api.call('GET', `${base}/${made.branch.id}/roles/neondb_owner/reveal_password`);
    expect(password).toBe(made.roles[0]!.password);
    expect(await refused('POST', `/projects/${id}/recover`)).toEqual([404, '', 'project not found']);
    await api.call('POST', `${base}/${gone.id}/recover`);
  });

  test('404 when it is too late, and for a key of the project alone', async () => {
    const { id } = made.project;
    await api.call('DELETE', `/projects/${id}`);
    await api.catalog.query(`update projects set recoverable_until = now() where id = $1`, [id]);
    expect(await refused('POST', `/projects/${id}/recover`)).toEqual([404, '', 'project not found']);
    expect((await api.call('GET', `/projects?recoverable=true&search=${id}`)).projects).toEqual([]);
    expect((await refused('POST', `/projects/nothing-at-all-1/recover`))[0]).toBe(404);
  });
});
