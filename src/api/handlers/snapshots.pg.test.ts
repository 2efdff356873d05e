import type { CreateProjectResponse } from '@neon/sdk/raw';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openTestApi, type TestApi } from '../../../test/support/control-plane.ts';
import { AppError } from '../../lib/errors.ts';
import type { PointQuery } from '../../lib/point.ts';

let api: TestApi;
let made: CreateProjectResponse;
let project: string;
let source: string;
const asked: PointQuery[] = [];

beforeAll(async () => {
  api = await openTestApi({
    resolvePoint: async (_timeline, query) => {
      asked.push(query);
      if (query.kind === 'lsn' && query.lsn === '0/1') throw new AppError('unprocessable', 'before the history window');
      return { lsn: query.kind === 'lsn' ? query.lsn : '0/1964258', time: '2026-01-16T20:53:56.123456Z' };
    },
  });
});
afterAll(() => api.close());
beforeEach(async () => {
  made = await api.call('POST', '/projects', { project: {} });
  project = `/projects/${made.project.id}`;
  source = `${project}/branches/${made.branch.id}`;
  asked.length = 0;
  await settle();
});

/** As the test API's, with what the work does to snapshots. */
async function settle(): Promise<void> {
  await api.settle();
  await api.catalog.query(`update snapshots set state = 'ready' where state = 'init' and deleted_at is null`);
}
const take = async (query = '') => {
  const { snapshot } = await api.call('POST', `${source}/snapshot${query}`);
  await settle();
  return snapshot;
};
const refused = async (method: string, path: string, body?: object) => {
  const answer = await api.request(method, path, body);
  return [answer.status, answer.body?.message];
};
const endpoints = async () => (await api.call('GET', `${project}/endpoints`)).endpoints;
const branchCalled = async (name: string) =>
  (await api.call('GET', `${project}/branches?search=${encodeURIComponent(name)}`)).branches.find(
    (branch: { name: string }) => branch.name === name,
  );
const payloads = () =>
  api.catalog.query(`select action, branch_id, payload from operations where project_id = $1 order by seq desc`, [
    made.project.id,
  ]);
const BUSY = 'project already has running conflicting operations, scheduling of new ones is prohibited';

describe('snapshots', () => {
  test('of the head, with a name of its own and none', async () => {
    const { snapshot, operations } = await api.call('POST', `${source}/snapshot?name=before%20deploy`);
    expect(snapshot).toEqual({
      id: expect.stringMatching(/^snap-[a-z]+-[a-z]+-[a-z0-9]{8}$/),
      name: 'before deploy',
      slug: snapshot.id,
      source_branch_id: made.branch.id,
      created_at: expect.any(String),
      manual: true,
    });
    expect(operations).toMatchObject([{ action: 'create_branch', status: 'running', branch_id: made.branch.id }]);
    expect((await payloads())[0]).toMatchObject({
      payload: { snapshotId: snapshot.id, parentTimelineId: made.branch.id },
    });
    await settle();
    expect((await take()).name).toMatch(/^main \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
    const { snapshots } = await api.call('GET', `${project}/snapshots`);
    expect(snapshots.map(({ name }: { name: string }) => name)).toHaveLength(2);
    expect(snapshots[1].id).toBe(snapshot.id);
  });

  test('at an LSN and at a time, resolved at once', async () => {
    expect(await take('?lsn=0/1A2B3C4')).toMatchObject({ lsn: '0/1A2B3C4', timestamp: '2026-01-16T20:53:56Z' });
    expect(await take('?timestamp=2026-01-16T20:54:00.1234567Z')).toMatchObject({ lsn: '0/1964258' });
    expect(asked).toEqual([
      { kind: 'lsn', lsn: '0/1A2B3C4' },
      { kind: 'time', time: '2026-01-16T20:54:00.123456Z' },
    ]);
    expect((await payloads())[0]).toMatchObject({ payload: { lsn: '0/1964258' } });
  });

  test('by a slug', async () => {
    const snapshot = await take('?slug=before-deploy');
    expect(snapshot.slug).toBe('before-deploy');
    expect(await refused('POST', `${source}/snapshot?slug=before-deploy`)).toEqual([
      409,
      'snapshot already exists; slug:"before-deploy"',
    ]);
    await api.call('DELETE', `${project}/snapshots/before-deploy`);
    expect(await take('?slug=before-deploy')).not.toMatchObject({ id: snapshot.id });
  });

  test('are renamed, given an expiration and relieved of it', async () => {
    const { id } = await take('?name=a&expires_at=2099-01-01T00:00:00Z');
    const patch = (snapshot: object) => api.call('PATCH', `${project}/snapshots/${id}`, { snapshot });
    expect((await patch({ name: 'b' })).snapshot).toMatchObject({ name: 'b', expires_at: '2099-01-01T00:00:00Z' });
    expect((await patch({ expires_at: null })).snapshot).not.toHaveProperty('expires_at');
    expect((await patch({ expires_at: '2098-01-01T00:00:00Z' })).snapshot).toMatchObject({
      name: 'b',
      expires_at: '2098-01-01T00:00:00Z',
    });
  });

  test('are deleted with 202, and are gone at once', async () => {
    const { id } = await take();
    const answer = await api.request('DELETE', `${project}/snapshots/${id}`);
    expect(answer).toMatchObject({ status: 202, body: { operations: [{ action: 'delete_timeline' }] } });
    expect((await payloads())[0]).toMatchObject({ payload: { timelineIds: [id] } });
    expect(await api.call('GET', `${project}/snapshots`)).toEqual({ snapshots: [] });
    expect(await refused('DELETE', `${project}/snapshots/${id}`)).toEqual([404, 'snapshot not found']);
  });
});

describe('refusals of snapshots', () => {
  test('400: points, names, times and slugs that make no sense', async () => {
    expect(await refused('POST', `${source}/snapshot?lsn=0/1A&timestamp=2026-01-16T20:54:00Z`)).toEqual([
      400,
      'invalid request: lsn and timestamp cannot be used together',
    ]);
    for (const query of ['lsn=x', 'timestamp=yesterday', 'name=%01', 'expires_at=soon', 'slug=Upper', 'slug=a-']) {
      expect((await refused('POST', `${source}/snapshot?${query}`))[0]).toBe(400);
    }
    expect(await refused('POST', `${source}/snapshot?expires_at=2020-01-01T00:00:00Z`)).toEqual([
      400,
      'invalid request: expires_at must be in the future; expires_at:"2020-01-01T00:00:00Z"',
    ]);
    expect((await refused('POST', `${source}/snapshot?name=${'x'.repeat(257)}`))[0]).toBe(400);
  });

  test('404: no such project, branch or snapshot', async () => {
    expect(await refused('GET', '/projects/none/snapshots')).toEqual([404, 'project not found']);
    expect(await refused('POST', `${project}/branches/br-none/snapshot`)).toEqual([404, 'branch not found']);
    expect(await refused('PATCH', `${project}/snapshots/snap-none`, { snapshot: {} })).toEqual([
      404,
      'snapshot not found',
    ]);
    expect(await refused('POST', `${project}/snapshots/snap-none/restore`)).toEqual([404, 'snapshot not found']);
  });

  test('422: a point that the history does not hold', async () => {
    expect(await refused('POST', `${source}/snapshot?lsn=0/1`)).toEqual([422, 'before the history window']);
  });

  test('422: a branch that has a parent', async () => {
    const { branch } = await api.call('POST', `${project}/branches`, {});
    await settle();
    const text = `snapshots can only be created from root branches; branch_id:"${branch.id}"`;
    expect(await refused('POST', `${project}/branches/${branch.id}/snapshot`)).toEqual([422, text]);
    const schedule = { schedule: [{ frequency: 'daily' }] };
    expect(await refused('PUT', `${project}/branches/${branch.id}/backup_schedule`, schedule)).toEqual([422, text]);
  });

  test('422: the 101st of those that users take', async () => {
    await api.catalog.query(
      `insert into snapshots (id, project_id, source_branch_id, timeline_id, name, state, manual)
       select 'snap-' || $1 || n, $1, $2, 'snap-' || $1 || n, 'x', 'ready', n < 100 from generate_series(1, 200) n`,
      [made.project.id, made.branch.id],
    );
    await take();
    expect(await refused('POST', `${source}/snapshot`)).toEqual([422, 'snapshots limit exceeded; max:"100"']);
  });

  test('423: deletion while it is being restored', async () => {
    const { snapshot } = await api.call('POST', `${source}/snapshot`);
    await api.call('POST', `${project}/snapshots/${snapshot.id}/restore`, {});
    expect(await refused('DELETE', `${project}/snapshots/${snapshot.id}`)).toEqual([423, BUSY]);
    await settle();
    await api.call('DELETE', `${project}/snapshots/${snapshot.id}`);
  });
});

describe('restore to look at first', () => {
  test('makes a root of its own beside its source', async () => {
    const { id } = await take('?name=backup');
    const answer = await api.call('POST', `${project}/snapshots/${id}/restore`, { name: 'preview' });
    expect(answer.branch).toMatchObject({
      name: 'preview',
      current_state: 'init',
      default: false,
      restored_from: id,
      restored_as: made.branch.id,
      restore_status: 'restored',
    });
    expect(answer.branch).not.toHaveProperty('parent_id');
    expect(answer.endpoints).toEqual([]);
    expect(answer.operations).toMatchObject([{ action: 'create_branch', status: 'running' }]);
    expect((await payloads())[0]).toMatchObject({ payload: { parentTimelineId: id } });
    await settle();
    const preview = `${project}/branches/${answer.branch.id}`;
    expect((await api.call('GET', `${preview}/roles`)).roles).toMatchObject([{ name: 'neondb_owner' }]);
    expect((await api.call('GET', `${preview}/databases`)).databases).toMatchObject([{ name: 'neondb' }]);
    expect((await endpoints())[0].branch_id).toBe(made.branch.id);
  });

  test('a name is made up, and one in the query still works', async () => {
    const { id } = await take('?name=backup');
    const first = await api.call('POST', `${project}/snapshots/${id}/restore`);
    expect(first.branch.name).toMatch(/^backup \(restored .*Z\)$/);
    const second = await api.call('POST', `${project}/snapshots/${id}/restore?name=old-way`);
    expect(second.branch.name).toBe('old-way');
    expect(await refused('POST', `${project}/snapshots/${id}/restore`, { name: 'main' })).toEqual([
      409,
      'branch already exists; branch_name:"main"',
    ]);
    expect(await refused('POST', `${project}/snapshots/${id}/restore`, { target_branch_id: 'br-none' })).toEqual([
      404,
      'branch not found',
    ]);
  });

  test('what was pending on the source is not brought into data of another time', async () => {
    const { id } = await take();
    await api.call('POST', `${source}/roles`, { role: { name: 'newer' } });
    await api.call('POST', `${source}/databases`, { database: { name: 'newer', owner_name: 'neondb_owner' } });
    const { branch } = await api.call('POST', `${project}/snapshots/${id}/restore`, {});
    const rows = await api.catalog.query(
      'select name, state from roles where branch_id = $1 union all select name, state from databases where branch_id = $1',
      [branch.id],
    );
    expect(rows).toEqual([
      { name: 'neondb_owner', state: 'ready' },
      { name: 'neondb', state: 'ready' },
    ]);
  });

  test('works when the source is gone, but then there is nothing to replace', async () => {
    const { id } = await take();
    await api.catalog.query(`update branches set deleted_at = now(), name = id where id = $1`, [made.branch.id]);
    expect((await api.call('GET', `${project}/snapshots`)).snapshots).toMatchObject([{ id }]);
    const { branch } = await api.call('POST', `${project}/snapshots/${id}/restore`, {});
    expect(branch).not.toHaveProperty('restored_as');
    await settle();
    const text =
      'the branch that the restored one is to replace does not exist any more; name another target_branch_id';
    expect(await refused('POST', `${project}/branches/${branch.id}/finalize_restore`)).toEqual([422, text]);
    expect(await refused('POST', `${project}/snapshots/${id}/restore`, { finalize_restore: true })).toEqual([
      422,
      text,
    ]);
  });
});

describe('finalize', () => {
  const awake = () => api.catalog.query(`update endpoints set current_state = 'active', pending_state = null`);

  test('at once: computes, name, flags and schedule move to the new branch', async () => {
    const { id } = await take();
    await awake();
    await api.call('PATCH', source, { branch: { protected: true } });
    await api.call('PUT', `${source}/backup_schedule`, { schedule: [{ frequency: 'daily', hour: 3 }] });
    const [before] = await endpoints();
    const answer = await api.call('POST', `${project}/snapshots/${id}/restore`, { finalize_restore: true });
    const branchId = answer.branch.id;
    expect(answer.branch).toMatchObject({
      name: 'main',
      default: true,
      protected: true,
      restored_as: made.branch.id,
      restore_status: 'finalized',
    });
    expect(answer.endpoints).toMatchObject([{ id: before.id, host: before.host, branch_id: branchId }]);
    expect(answer.operations).toMatchObject([
      { action: 'create_branch', branch_id: branchId, status: 'running' },
      { action: 'suspend_compute', branch_id: branchId, endpoint_id: before.id, status: 'scheduling' },
      { action: 'start_compute', branch_id: branchId, endpoint_id: before.id, status: 'scheduling' },
    ]);
    expect(await branchCalled('main (old)')).toMatchObject({ id: made.branch.id, default: false, protected: false });
    expect(await api.call('GET', `${source}/endpoints`)).toEqual({ endpoints: [] });
    expect(await api.call('GET', `${project}/branches/${branchId}/backup_schedule`)).toEqual({
      schedule: [{ frequency: 'daily', hour: 3 }],
    });
    expect((await payloads())[1]).toMatchObject({
      payload: { ran: { branchId: made.branch.id, timelineId: made.branch.id } },
    });
    expect(await refused('POST', `${project}/branches/${branchId}/finalize_restore`)).toEqual([
      422,
      'the restore of this branch is finalized already',
    ]);
  });

  test('a compute that sleeps goes on sleeping; names of old branches do not collide', async () => {
    const { id } = await take();
    const first = await api.call('POST', `${project}/snapshots/${id}/restore`, { finalize_restore: true });
    expect(first.operations).toMatchObject([{ action: 'create_branch' }, {}, {}]);
    await settle();
    await api.catalog.query(`update endpoints set current_state = 'idle', pending_state = null`);
    const target = { target_branch_id: first.branch.id, finalize_restore: true };
    const second = await api.call('POST', `${project}/snapshots/${id}/restore`, target);
    expect(second.operations).toHaveLength(1);
    expect((await branchCalled('main (old) 2')).id).toBe(first.branch.id);
    await settle();
    const named = { target_branch_id: second.branch.id, finalize_restore: true, name: 'kept' };
    await api.call('POST', `${project}/snapshots/${id}/restore`, named);
    expect((await branchCalled('kept')).id).toBe(second.branch.id);
    await settle();
    expect(await refused('POST', `${project}/snapshots/${id}/restore`, named)).toEqual([
      409,
      'branch already exists; branch_name:"kept"',
    ]);
  });

  test('of a preview: its own compute goes, that of the replaced branch comes; children stay', async () => {
    const { id } = await take();
    const child = await api.call('POST', `${project}/branches`, {});
    const { branch } = await api.call('POST', `${project}/snapshots/${id}/restore`, { name: 'preview' });
    expect(await refused('POST', `${project}/branches/${branch.id}/finalize_restore`)).toEqual([423, BUSY]);
    await settle();
    const own = await api.call('POST', `${project}/endpoints`, {
      endpoint: { branch_id: branch.id, type: 'read_write' },
    });
    await settle();
    await awake();
    const { operations } = await api.call('POST', `${project}/branches/${branch.id}/finalize_restore`, {
      name: 'before',
    });
    const [moved] = await endpoints();
    expect(moved).toMatchObject({ id: made.endpoints[0]!.id, branch_id: branch.id });
    expect(operations).toMatchObject([
      { action: 'suspend_compute', endpoint_id: own.endpoint.id },
      { action: 'suspend_compute', endpoint_id: moved.id },
      { action: 'start_compute', endpoint_id: moved.id },
    ]);
    expect(await endpoints()).toHaveLength(1);
    expect(await branchCalled('main')).toMatchObject({ id: branch.id, default: true, restore_status: 'finalized' });
    expect(await branchCalled('before')).toMatchObject({ id: made.branch.id });
    expect((await api.call('GET', `${project}/branches/${child.branch.id}`)).branch.parent_id).toBe(made.branch.id);
  });

  test('refusals', async () => {
    expect(await refused('POST', `${source}/finalize_restore`)).toEqual([
      422,
      'the branch was not restored from a snapshot',
    ]);
    const { id } = await take();
    await api.call('POST', `${source}/roles`, { role: { name: 'late' } });
    expect(await refused('POST', `${project}/snapshots/${id}/restore`, { finalize_restore: true })).toEqual([
      423,
      BUSY,
    ]);
    await settle();
    const { branch } = await api.call('POST', `${project}/snapshots/${id}/restore`, {});
    await settle();
    await api.catalog.query(`update branches set current_state = 'init', pending_state = null where id = $1`, [
      branch.id,
    ]);
    expect(await refused('POST', `${project}/branches/${branch.id}/finalize_restore`)).toEqual([
      422,
      'branch not ready yet',
    ]);
  });
});

describe('backup schedule', () => {
  test('is kept as far as it means something', async () => {
    expect(await api.call('GET', `${source}/backup_schedule`)).toEqual({ schedule: [] });
    const schedule = [
      { frequency: 'hourly', hour: 3, retention_seconds: 86_400 },
      { frequency: 'weekly', day: 7, hour: 2, month: 4 },
      { frequency: 'yearly', day: 31, month: 12 },
    ];
    expect(await api.call('PUT', `${source}/backup_schedule`, { schedule })).toEqual({});
    expect(await api.call('GET', `${source}/backup_schedule`)).toEqual({
      schedule: [
        { frequency: 'hourly', retention_seconds: 86_400 },
        { frequency: 'weekly', hour: 2, day: 7 },
        { frequency: 'yearly', day: 31, month: 12 },
      ],
    });
    await api.call('PUT', `${source}/backup_schedule`, { schedule: [] });
    expect(await api.call('GET', `${source}/backup_schedule`)).toEqual({ schedule: [] });
  });

  test.each([
    [{ frequency: 'fortnightly' }],
    [{ frequency: 'daily', hour: 24 }],
    [{ frequency: 'weekly', day: 8 }],
    [{ frequency: 'daily', retention_seconds: 60 }],
    [{ hour: 3 }],
  ])('400: %o', async (item) => {
    expect((await refused('PUT', `${source}/backup_schedule`, { schedule: [item] }))[0]).toBe(400);
  });

  test('400: more entries than make sense; 404: no such branch', async () => {
    const schedule = Array.from({ length: 11 }, (_, hour) => ({ frequency: 'daily', hour }));
    expect((await refused('PUT', `${source}/backup_schedule`, { schedule }))[0]).toBe(400);
    expect(await refused('GET', `${project}/branches/br-none/backup_schedule`)).toEqual([404, 'branch not found']);
  });
});
