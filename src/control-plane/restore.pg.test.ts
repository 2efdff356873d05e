import type { CreateProjectResponse } from '@neon/sdk/raw';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openTestApi, opensWith, type TestApi } from '../../test/support/control-plane.ts';
import { createFakeEngine, type FakeEngine } from '../../test/support/fake-engine.ts';
import { makeTestOperations, TEST_NODE, type TestOperations } from '../../test/support/operations.ts';
import { waitFor } from '../../test/support/wait.ts';
import { timelineOwners } from '../catalog/reconciling.ts';
import { AppError } from '../lib/errors.ts';
import { silentLogger } from '../lib/log.ts';
import { createProxyAccess } from './proxy-access.ts';

let api: TestApi;
let engine: FakeEngine;
let work: TestOperations;
let made: CreateProjectResponse;
let base: string;

beforeAll(async () => {
  api = await openTestApi({
    resolvePoint: (timeline, query, window) => engine.storage.resolvePoint(timeline, query, window),
  });
});
afterAll(() => api.close());
beforeEach(async () => {
  engine = createFakeEngine();
  work = makeTestOperations({ catalog: api.catalog, engine });
  await work.runner.start();
  made = await api.call('POST', '/projects', { project: {} });
  await api.catalog.query('update projects set node_id = $2 where id = $1', [made.project.id, TEST_NODE]);
  base = `/projects/${made.project.id}/branches`;
  await ended();
});
afterEach(async () => {
  await work.stop();
  await api.catalog.query(`update operations set status = 'finished' where status in ('scheduling', 'running')`);
});

/** All operations have ended; their actions with how. */
const ended = () =>
  waitFor('operations to end', async () => {
    const rows = await api.catalog.query<{ action: string; status: string; error: string | null }>(
      'select action, status, error from operations where project_id = $1 order by seq',
      [made.project.id],
    );
    return rows.every((row) => row.status !== 'running' && row.status !== 'scheduling') && rows;
  });
const row = async (id: string) =>
  (
    await api.catalog.query<Record<string, unknown>>(
      `select timeline_id, parent_id, parent_lsn, current_state, pending_state, facts_due, last_reset_at, expires_at,
         deleted_at is not null as deleted, purged_at is not null as purged from branches where id = $1`,
      [id],
    )
  )[0]!;
const create = async (branch: object = {}) => {
  const answer = await api.call('POST', base, { branch, endpoints: [{ type: 'read_write' }] });
  await ended();
  return { id: answer.branch.id as string, endpointId: answer.endpoints[0].id as string };
};
const restore = (id: string, body: object) => api.call('POST', `${base}/${id}/restore`, body);
const refused = async (id: string, body: object) => {
  const answer = await api.request('POST', `${base}/${id}/restore`, body);
  return [answer.status, answer.body?.message];
};
const toItself = (id: string, name = 'before') => ({
  source_branch_id: id,
  source_timestamp: new Date().toISOString(),
  preserve_under_name: name,
});
const actionsOf = (answer: { operations: { action: string }[] }) => answer.operations.map(({ action }) => action);
const timelineOf = (endpointId: string) => engine.computes.get(endpointId)?.timeline.timelineId;
const passwordOf = async (id: string, role = 'neondb_owner') =>
  (await api.request('GET', `${base}/${id}/roles/${role}/reveal_password`)).body.password as string | undefined;

describe('to a point of its own', () => {
  test('the branch has the new data, the preserved one the old and the children; endpoint and id stay', async () => {
    const branch = await create({ name: 'dev' });
    const child = await create({ parent_id: branch.id });
    const answer = await restore(branch.id, toItself(branch.id));
    expect(actionsOf(answer)).toEqual(['suspend_compute', 'create_branch', 'start_compute']);
    expect(answer.branch).toMatchObject({
      id: branch.id,
      name: 'dev',
      current_state: 'resetting',
      parent_lsn: '0/1964258',
      parent_timestamp: '2026-01-16T20:53:56Z',
      last_reset_at: expect.any(String),
      restricted_actions: [{ name: 'restore', reason: expect.any(String) }],
    });
    const backupId = answer.branch.parent_id;
    expect((await api.call('GET', `${base}/${backupId}`)).branch).toMatchObject({
      name: 'before',
      parent_id: made.branch.id,
      current_state: 'ready',
    });
    await ended();
    expect(await row(backupId)).toMatchObject({ timelineId: branch.id, factsDue: true });
    const after = await row(branch.id);
    expect(after).toMatchObject({ currentState: 'ready', pendingState: null, factsDue: false });
    expect(after['timelineId']).not.toBe(branch.id);
    expect(timelineOf(branch.endpointId)).toBe(after['timelineId']);
    expect((await row(child.id))['parentId']).toBe(backupId);
    expect([...engine.timelines.keys()]).toContain(branch.id);
    expect(await passwordOf(branch.id)).toBe(made.roles[0]!.password);
    expect(await passwordOf(backupId)).toBe(made.roles[0]!.password);
  });

  test('a root stays a root, and so is its backup', async () => {
    const answer = await restore(made.branch.id, toItself(made.branch.id));
    expect(answer.branch).not.toHaveProperty('parent_id');
    expect(answer.branch).toMatchObject({ default: true, name: 'main' });
    await ended();
    const { branches } = await api.call('GET', base);
    const backup = branches.find((branch: { name: string }) => branch.name === 'before');
    expect(backup).not.toHaveProperty('parent_id');
    expect(backup.default).toBe(false);
    // It can be restored again, and from what was preserved.
    await restore(made.branch.id, { source_branch_id: backup.id });
    await ended();
    expect(engine.timelines.get((await row(made.branch.id))['timelineId'] as string)).toMatchObject({
      parentTimelineId: made.branch.id,
    });
  });

  test('a sleeping compute stays asleep and gets the new data when it wakes', async () => {
    const branch = await create();
    await api.call('POST', `/projects/${made.project.id}/endpoints/${branch.endpointId}/suspend`);
    await ended();
    expect(actionsOf(await restore(branch.id, toItself(branch.id)))).toEqual(['create_branch']);
    await ended();
    expect(timelineOf(branch.endpointId)).toBeUndefined();
    await api.call('POST', `/projects/${made.project.id}/endpoints/${branch.endpointId}/start`);
    await ended();
    expect(timelineOf(branch.endpointId)).toBe((await row(branch.id))['timelineId']);
  });

  test('begins the time to live anew', async () => {
    const branch = await create({ expires_at: new Date(Date.now() + 3_600_000).toISOString() });
    await api.catalog.query(`update branches set expires_at = now() + interval '1 minute' where id = $1`, [branch.id]);
    const answer = await api.call('POST', `${base}/${branch.id}/reset_to_parent`);
    expect(Date.parse(answer.branch.expires_at)).toBeGreaterThan(Date.now() + 3_000_000);
  });

  test('passwords are those of the data: what was set since cannot be revealed any more', async () => {
    const branch = await create();
    engine.facts.get(branch.id)!.roles[0]!.verifier = 'SCRAM-SHA-256$4096:b3RoZXI=$b3RoZXI=:b3RoZXI=';
    await restore(branch.id, toItself(branch.id));
    await ended();
    const [role] = await api.catalog.query<{ verifier: string; sealedPassword: Buffer | null }>(
      'select verifier, sealed_password from roles where branch_id = $1',
      [branch.id],
    );
    expect(role).toMatchObject({ verifier: expect.stringContaining('b3RoZXI='), sealedPassword: null });
  });

  test('what was pending is not done to data of another time; what is asked for meanwhile is', async () => {
    const branch = await create();
    await api.catalog.query(
      `insert into roles (project_id, branch_id, name, state, updated_at)
       values ($1, $2, 'stale', 'creating', now() - interval '1 minute')`,
      [made.project.id, branch.id],
    );
    let release!: () => void;
    const released = new Promise<void>((resolve) => (release = resolve));
    engine.fault = (call) => (call.startsWith('createChild') ? released : undefined);
    await restore(branch.id, toItself(branch.id));
    await api.call('POST', `${base}/${branch.id}/roles`, { role: { name: 'fresh' } });
    release();
    await ended();
    const facts = engine.facts.get((await row(branch.id))['timelineId'] as string)!;
    expect(facts.roles.map((role) => role.name)).toEqual(['neondb_owner', 'fresh']);
    const { roles } = await api.call('GET', `${base}/${branch.id}/roles`);
    expect(roles.map((role: { name: string }) => role.name).toSorted()).toEqual(['fresh', 'neondb_owner']);
  });
});

describe('from another branch', () => {
  test('becomes a child of it; what it had is gone in the end, with its data', async () => {
    const [branch, source] = [await create(), await create()];
    await api.call('POST', `${base}/${source.id}/roles`, { role: { name: 'theirs' } });
    await ended();
    const answer = await restore(branch.id, { source_branch_id: source.id });
    expect(actionsOf(answer)).toEqual(['suspend_compute', 'create_branch', 'start_compute', 'delete_timeline']);
    expect(answer.branch.parent_id).toBe(source.id);
    await ended();
    expect([...engine.timelines.keys()]).not.toContain(branch.id);
    expect(await passwordOf(branch.id, 'theirs')).toBe(await passwordOf(source.id, 'theirs'));
    expect((await api.call('GET', `${base}?include_deleted=true`)).branches).toHaveLength(3);
    const removed = await api.request('DELETE', `${base}/${source.id}`);
    expect(removed.body.message).toBe(`cannot delete branch that has children: ${branch.id}`);
    // The reconciler that looks for data without a row finds nothing to do.
    const owners = await timelineOwners(api.catalog, [...engine.timelines.keys()]);
    expect(owners).toHaveLength(engine.timelines.size);
    expect(owners.filter((owner) => owner.abandoned)).toEqual([]);
  });

  test('of its own children: they hang on what was preserved', async () => {
    const dev = await create({ name: 'dev' });
    const backup = await create({ name: 'backup', parent_id: dev.id });
    const answer = await restore(dev.id, { source_branch_id: backup.id, preserve_under_name: 'dev-prerestore' });
    expect(answer.branch.parent_id).toBe(backup.id);
    await ended();
    const { branch } = await api.call('GET', `${base}/${backup.id}`);
    const preserved = (await api.call('GET', `${base}/${branch.parent_id}`)).branch;
    expect(preserved).toMatchObject({ name: 'dev-prerestore', parent_id: made.branch.id });
  });

  test('reset keeps the passwords of a child whose parent is protected', async () => {
    await api.call('PATCH', `${base}/${made.branch.id}`, { branch: { protected: true } });
    const branch = await create();
    const own = (await passwordOf(branch.id))!;
    expect(own).not.toBe(made.roles[0]!.password);
    await api.call('POST', `${base}/${made.branch.id}/roles`, { role: { name: 'new-there' } });
    await ended();
    const theirs = (await passwordOf(made.branch.id, 'new-there'))!;
    await api.call('POST', `${base}/${branch.id}/reset_to_parent`);
    await ended();
    expect(await passwordOf(branch.id)).toBe(own);
    const facts = engine.facts.get((await row(branch.id))['timelineId'] as string)!;
    const verifierOf = (name: string) => facts.roles.find((role) => role.name === name)!.verifier!;
    expect(await opensWith(verifierOf('neondb_owner'), own)).toBe(true);
    expect(await opensWith(verifierOf('new-there'), theirs)).toBe(false);
    const stranger = await api.catalog.query<{ verifier: string }>(
      `select verifier from roles where branch_id = $1 and name = 'new-there'`,
      [branch.id],
    );
    expect(stranger).toEqual([{ verifier: verifierOf('new-there') }]);
  });

  test('a child that is asked for meanwhile gets the new data', async () => {
    const branch = await create();
    let release!: () => void;
    const released = new Promise<void>((resolve) => (release = resolve));
    engine.fault = (call) => (call.startsWith('createChild') ? released : undefined);
    await api.call('POST', `${base}/${branch.id}/reset_to_parent`);
    const child = (await api.call('POST', base, { branch: { parent_id: branch.id } })).branch;
    release();
    await ended();
    expect(engine.timelines.get(child.id)?.parentTimelineId).toBe((await row(branch.id))['timelineId']);
  });
});

describe('refused', () => {
  test('for what must be said, and for what must stay', async () => {
    const branch = await create();
    const self = { source_branch_id: branch.id };
    expect((await refused(branch.id, self))[0]).toBe(400);
    expect((await refused(branch.id, { ...self, source_lsn: '0/2' }))[0]).toBe(400);
    expect((await refused(branch.id, { ...self, source_lsn: 'x', preserve_under_name: 'a' }))[0]).toBe(400);
    expect((await refused(branch.id, { ...toItself(branch.id), source_lsn: '0/2' }))[0]).toBe(400);
    expect(await refused(branch.id, toItself(branch.id, 'main'))).toEqual([
      409,
      'branch already exists; branch_name:"main"',
    ]);
    expect(await refused(branch.id, { source_branch_id: 'br-none-here-12345678' })).toEqual([404, 'branch not found']);
    expect(await refused('br-none-here-12345678', self)).toEqual([404, 'branch not found']);
    await api.catalog.query(`update branches set current_state = 'init' where id = $1`, [branch.id]);
    expect(await refused(branch.id, toItself(branch.id))).toEqual([422, 'branch not ready yet']);
    await api.catalog.query(`update branches set current_state = 'ready' where id = $1`, [branch.id]);
    const child = await create({ parent_id: branch.id });
    expect(await refused(branch.id, { source_branch_id: made.branch.id })).toEqual([
      422,
      'Branch has children, preserve_under_name is required',
    ]);
    const reset = (id: string) => api.request('POST', `${base}/${id}/reset_to_parent`);
    expect((await reset(branch.id)).body.message).toBe('Branch has children, preserve_under_name is required');
    expect((await reset(made.branch.id)).status).toBe(422);
    await api.call('PATCH', `${base}/${child.id}`, { branch: { protected: true } });
    expect((await reset(child.id)).body.message).toBe('cannot reset protected branch');
  });

  test('423 while the branch is being restored, for what would need to know how that ends', async () => {
    const branch = await create();
    let release!: () => void;
    const released = new Promise<void>((resolve) => (release = resolve));
    engine.fault = (call) => (call.startsWith('createChild') ? released : undefined);
    const answer = await restore(branch.id, toItself(branch.id));
    const backupId = answer.branch.parent_id;
    const endpoint = { endpoint: { branch_id: backupId, type: 'read_write' } };
    const asks: [string, string, object?][] = [
      ['POST', `${base}/${branch.id}/restore`, toItself(branch.id, 'again')],
      ['DELETE', `${base}/${branch.id}`],
      ['DELETE', `/projects/${made.project.id}`],
      ['POST', base, { branch: { parent_id: branch.id, parent_lsn: '0/2' } }],
      ['POST', base, { branch: { parent_id: backupId } }],
      ['POST', `${base}/${backupId}/set_as_default`],
      ['POST', `/projects/${made.project.id}/endpoints`, endpoint],
    ];
    for (const [method, path, body] of asks) {
      expect(await api.request(method, path, body), `${method} ${path}`).toMatchObject({
        status: 423,
        body: {
          message: 'project already has running conflicting operations, scheduling of new ones is prohibited',
        },
      });
    }
    release();
    await ended();
    expect((await api.request('POST', `/projects/${made.project.id}/endpoints`, endpoint)).status).toBe(201);
  });
});

describe('when the data cannot be made', () => {
  test('everything is as it was: clients enter the old data again, children and name are back', async () => {
    const branch = await create({ name: 'dev' });
    const child = await create({ parent_id: branch.id });
    const before = await row(branch.id);
    engine.fault = (call) => {
      if (call.startsWith('createChild')) throw new AppError('unprocessable', 'no such point any more');
    };
    const answer = await restore(branch.id, toItself(branch.id));
    const operations = await ended();
    expect(operations.at(-2)).toEqual({ action: 'create_branch', status: 'failed', error: 'no such point any more' });
    expect(await row(branch.id)).toEqual(before);
    expect((await row(child.id))['parentId']).toBe(branch.id);
    expect(await row(answer.branch.parent_id)).toMatchObject({ deleted: true, purged: true });
    expect(timelineOf(branch.endpointId)).toBe(branch.id);
    expect(await passwordOf(branch.id)).toBe(made.roles[0]!.password);
    engine.fault = () => undefined;
    await restore(branch.id, toItself(branch.id));
    await ended();
    expect((await row(branch.id))['timelineId']).not.toBe(branch.id);
  });

  test('without a preserved branch the old data is not removed', async () => {
    const branch = await create();
    engine.fault = (call) => {
      if (call.startsWith('createChild')) throw new AppError('unprocessable', 'no');
    };
    await api.call('POST', `${base}/${branch.id}/reset_to_parent`);
    await ended();
    expect(timelineOf(branch.endpointId)).toBe(branch.id);
    expect([...engine.timelines.keys()]).toContain(branch.id);
  });

  test('a child that was asked for meanwhile has the data that the branch kept', async () => {
    const branch = await create();
    let fail!: () => void;
    const failing = new Promise<void>((_resolve, reject) => (fail = () => reject(new AppError('unprocessable', 'no'))));
    failing.catch(() => undefined);
    engine.fault = (call) => (call.startsWith('createChild') && !engine.timelines.has('x') ? failing : undefined);
    await api.call('POST', `${base}/${branch.id}/reset_to_parent`);
    const child = (await api.call('POST', base, { branch: { parent_id: branch.id } })).branch;
    fail();
    await waitFor('the restore to fail', async () => (await row(branch.id))['currentState'] === 'ready');
    engine.fault = () => undefined;
    await ended();
    const [operation] = await api.catalog.query<{ payload: { parentTimelineId: string } }>(
      'select payload from operations where branch_id = $1',
      [child.id],
    );
    expect(operation!.payload.parentTimelineId).toBe(branch.id);
  });
});

describe('a fault, or the end of the process, at each step', () => {
  const steps = ['suspend ', 'createChild ', 'start ', 'rolesAndDatabases ', 'delete '];
  test.each(steps)('%s fails once', async (step) => {
    const branch = await create();
    let failed = false;
    engine.fault = (call) => {
      if (failed || !call.startsWith(step)) return;
      failed = true;
      throw new AppError('unavailable', 'once');
    };
    await api.call('POST', `${base}/${branch.id}/reset_to_parent`);
    const operations = await ended();
    expect(failed).toBe(true);
    expect(operations.filter((operation) => operation.status !== 'finished')).toEqual([]);
    const { timelineId } = await row(branch.id);
    expect(timelineId).not.toBe(branch.id);
    expect(timelineOf(branch.endpointId)).toBe(timelineId);
    expect([...engine.timelines.keys()]).not.toContain(branch.id);
  });

  test.each(steps)('the runner dies at %s and another one goes on', async (step) => {
    const branch = await create();
    let reached!: () => void;
    const atStep = new Promise<void>((resolve) => (reached = resolve));
    let died = false;
    engine.fault = (call) => {
      if (died || !call.startsWith(step)) return;
      reached();
      // A process that is gone does nothing any more.
      return new Promise(() => undefined);
    };
    await api.call('POST', `${base}/${branch.id}/reset_to_parent`);
    await atStep;
    died = true;
    const dead = work;
    work = makeTestOperations({ catalog: api.catalog, engine });
    // Its leases are taken over, as after a crash.
    await work.runner.start();
    await ended();
    const { timelineId } = await row(branch.id);
    expect(timelineId).not.toBe(branch.id);
    expect(timelineOf(branch.endpointId)).toBe(timelineId);
    expect([...engine.timelines.keys()]).not.toContain(branch.id);
    void dead.stop();
  });
});

test('a client that comes during the restore waits for the new data', async () => {
  const branch = await create();
  const endpoint = { endpointId: branch.endpointId, branchId: branch.id, projectId: made.project.id };
  const access = createProxyAccess({
    catalog: api.catalog,
    queue: work.queue,
    logger: silentLogger(),
    compute: {
      address: (endpointId) => engine.supervisor.address(endpointId),
      onceStarted: () => () => undefined,
      noteConnections: () => undefined,
      maxConnections: () => 104,
      refreshRoles: async () => false,
      past: { reach: () => Promise.reject(new Error('nobody asks')), noteConnections: () => undefined },
    },
  });
  let release!: () => void;
  const released = new Promise<void>((resolve) => (release = resolve));
  engine.fault = (call) => (call.startsWith('createChild') ? released : undefined);
  await api.call('POST', `/projects/${made.project.id}/endpoints/${branch.endpointId}/suspend`);
  await ended();
  await api.call('POST', `${base}/${branch.id}/reset_to_parent`);
  const waking = access.wake({ ...endpoint, disabled: false, allowedIps: [], blockPublicConnections: false } as never, {
    signal: AbortSignal.timeout(60_000),
  });
  await waitFor(
    'the start to be queued',
    async () =>
      (
        await api.catalog.query(
          `select 1 from operations where endpoint_id = $1 and action = 'start_compute' and status = 'scheduling'`,
          [branch.endpointId],
        )
      ).length === 1,
  );
  expect(timelineOf(branch.endpointId)).toBeUndefined();
  release();
  await waking;
  await ended();
  expect(timelineOf(branch.endpointId)).toBe((await row(branch.id))['timelineId']);
});
