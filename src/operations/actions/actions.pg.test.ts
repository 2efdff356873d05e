import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { insertBranch, insertProject, type TestBranch } from '../../../test/support/catalog-rows.ts';
import { waitFor } from '../../../test/support/wait.ts';
import { openTestCatalog, type TestCatalog } from '../../../test/support/catalog.ts';
import { createFakeEngine, type FakeEngine } from '../../../test/support/fake-engine.ts';
import { makeTestOperations, TEST_NODE, type TestOperations } from '../../../test/support/operations.ts';
import type { OperationAction, OperationRow } from '../../catalog/types.ts';
import { AppError } from '../../lib/errors.ts';
import { newEndpointId } from '../../lib/ids.ts';
import type { RunnerQueue } from '../queue.ts';

const VERIFIER = 'SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy';

let db: TestCatalog;
let engine: FakeEngine;
let queue: RunnerQueue;
let operations: TestOperations;
let projectId: string;

beforeAll(async () => {
  db = await openTestCatalog();
});
afterAll(() => db.close());
beforeEach(async () => {
  engine = createFakeEngine();
  operations = makeTestOperations({ catalog: db.catalog, engine });
  ({ queue } = operations);
  await operations.runner.start();
  ({ projectId } = await insertProject(db.catalog, TEST_NODE));
});
afterEach(() => operations.stop());

async function perform(branch: TestBranch, actions: readonly OperationAction[], payload = {}): Promise<OperationRow[]> {
  const rows = await db.catalog.transaction((tx) =>
    queue.append(
      tx,
      actions.map((action) => ({ ...branch, action, payload })),
    ),
  );
  queue.poke();
  return Promise.all(rows.map((row) => queue.ended(row.id, AbortSignal.timeout(60_000))));
}

/** A branch with data and, if asked for, a running compute. */
async function readyBranch(options: { running?: boolean } = {}): Promise<TestBranch> {
  const branch = await insertBranch(db.catalog, projectId, { branchState: 'init', endpointState: 'init' });
  await perform(branch, options.running ? ['create_timeline', 'start_compute'] : ['create_timeline']);
  if (!options.running)
    await db.catalog.query(`update endpoints set current_state = 'idle' where id = $1`, [branch.endpointId]);
  return branch;
}

const branchRow = async (branch: TestBranch) =>
  (await db.catalog.query<Record<string, unknown>>('select * from branches where id = $1', [branch.branchId]))[0]!;
const endpointRow = async (branch: TestBranch) =>
  (await db.catalog.query<Record<string, unknown>>('select * from endpoints where id = $1', [branch.endpointId]))[0]!;
const roleRows = (branch: TestBranch) =>
  db.catalog.query('select name, state, verifier, no_login from roles where branch_id = $1 order by name', [
    branch.branchId,
  ]);
const databaseRows = (branch: TestBranch) =>
  db.catalog.query('select name, owner_name, state, applied_name from databases where branch_id = $1 order by name', [
    branch.branchId,
  ]);
const statuses = (rows: OperationRow[]) => rows.map((row) => row.status);

async function addRole(
  branch: TestBranch,
  name: string,
  state: string,
  verifier: string | null = VERIFIER,
): Promise<void> {
  await db.catalog.query(
    'insert into roles (project_id, branch_id, name, state, verifier, sealed_password) values ($1, $2, $3, $4, $5, $6)',
    [branch.projectId, branch.branchId, name, state, verifier, Buffer.from('sealed')],
  );
}

async function addDatabase(
  branch: TestBranch,
  name: string,
  owner: string,
  state: string,
  appliedName: string | null = null,
): Promise<void> {
  await db.catalog.query(
    'insert into databases (project_id, branch_id, name, owner_name, state, applied_name) values ($1, $2, $3, $4, $5, $6)',
    [branch.projectId, branch.branchId, name, owner, state, appliedName],
  );
}

describe('read replica', () => {
  const replicaOf = async (branch: TestBranch): Promise<TestBranch> => {
    const endpointId = newEndpointId();
    await db.catalog.query(
      `insert into endpoints (id, project_id, branch_id, type, current_state, autoscaling_limit_min_cu,
         autoscaling_limit_max_cu, suspend_timeout_seconds, region_id)
       values ($1, $2, $3, 'read_only', 'idle', 0.5, 0.5, 0, 'local')`,
      [endpointId, branch.projectId, branch.branchId],
    );
    return { ...branch, endpointId };
  };

  test('follows the data that its branch has now, as large as the primary, and settles nothing that is pending', async () => {
    const branch = await readyBranch();
    const settings = { pg_settings: { max_worker_processes: '20', work_mem: '8MB' } };
    await db.catalog.query('update endpoints set autoscaling_limit_max_cu = 2, settings = $2 where id = $1', [
      branch.endpointId,
      JSON.stringify(settings),
    ]);
    await addRole(branch, 'later', 'creating');
    const replica = await replicaOf(branch);
    expect(statuses(await perform(replica, ['start_compute', 'apply_config']))).toEqual(['finished', 'finished']);
    expect(engine.computes.get(replica.endpointId)).toMatchObject({
      timeline: { projectId, timelineId: replica.endpointId },
      minCu: 0.5,
      standby: {
        of: { projectId, timelineId: branch.branchId },
        point: { kind: 'head' },
        primary: { minCu: 0.25, maxCu: 2, pgSettings: { max_worker_processes: '20' } },
      },
    });
    expect(await roleRows(branch)).toMatchObject([{ name: 'later', state: 'creating' }]);
    expect((await branchRow(branch))['factsDue']).toBe(true);
    expect((await endpointRow(replica))['currentState']).toBe('active');
  });

  test('tells nothing about roles when it sleeps or is compared, and leaves the data of its branch alone', async () => {
    const branch = await readyBranch({ running: true });
    await addRole(branch, 'alice', 'ready');
    const replica = await replicaOf(branch);
    await perform(replica, ['start_compute']);
    const before = engine.calls.length;
    expect(statuses(await perform(replica, ['sync_dbs_and_roles_from_compute', 'suspend_compute']))).toEqual([
      'skipped',
      'finished',
    ]);
    expect(engine.calls.slice(before)).toEqual([`suspend ${replica.endpointId}`]);
    expect(await roleRows(branch)).toMatchObject([{ name: 'alice' }]);
    expect((await endpointRow(replica))['currentState']).toBe('idle');
    expect((await endpointRow(branch))['currentState']).toBe('active');
  });

  test('of a branch without a read-write endpoint starts as well', async () => {
    const branch = await readyBranch();
    const replica = await replicaOf(branch);
    await db.catalog.query('update endpoints set deleted_at = now() where id = $1', [branch.endpointId]);
    expect(statuses(await perform(replica, ['start_compute']))).toEqual(['finished']);
    expect(engine.computes.get(replica.endpointId)!.standby!.primary).toEqual({
      minCu: 0.5,
      maxCu: 0.5,
      pgSettings: {},
    });
  });
});

describe('create', () => {
  test('a root branch becomes ready and its compute active, with its role and database inside', async () => {
    const branch = await insertBranch(db.catalog, projectId, { branchState: 'init', endpointState: 'init' });
    await addRole(branch, 'owner', 'creating');
    await addDatabase(branch, 'neondb', 'owner', 'creating');
    await db.catalog.query(`update endpoints set pending_state = 'active' where id = $1`, [branch.endpointId]);
    expect(statuses(await perform(branch, ['create_timeline', 'start_compute']))).toEqual(['finished', 'finished']);
    expect(await branchRow(branch)).toMatchObject({ currentState: 'ready', pendingState: null, parentLsn: null });
    const endpoint = await endpointRow(branch);
    expect(endpoint).toMatchObject({ currentState: 'active', pendingState: null, suspendedAt: null });
    expect(endpoint['startedAt']).not.toBeNull();
    expect(engine.facts.get(branch.branchId)).toEqual({
      roles: [{ name: 'owner', verifier: VERIFIER, canLogin: true }],
      databases: [{ name: 'neondb', owner: 'owner' }],
    });
    expect(await roleRows(branch)).toEqual([{ name: 'owner', state: 'ready', verifier: VERIFIER, noLogin: false }]);
    expect(await databaseRows(branch)).toEqual([
      { name: 'neondb', ownerName: 'owner', state: 'ready', appliedName: null },
    ]);
    const [project] = await db.catalog.query<{ number: number; computeLastActiveAt: string | null }>(
      'select number, compute_last_active_at from projects where id = $1',
      [projectId],
    );
    expect(project!.computeLastActiveAt).not.toBeNull();
    expect(engine.computes.get(branch.endpointId)).toMatchObject({
      owner: { uid: 700_000 + project!.number },
      pgVersion: 17,
      minCu: 0.25,
      pgSettings: {},
      preloadLibraries: ['pg_stat_statements'],
      logicalReplication: false,
    });
  });

  test('a child knows where it left its parent', async () => {
    const parent = await readyBranch();
    const child = await insertBranch(db.catalog, projectId, { parentId: parent.branchId, branchState: 'init' });
    expect(statuses(await perform(child, ['create_branch']))).toEqual(['finished']);
    expect(await branchRow(child)).toMatchObject({
      currentState: 'ready',
      parentLsn: '0/1964258',
      parentTimestamp: '2026-01-16T20:53:56.123456Z',
    });
  });

  test('a child of a branch that could not be made says so', async () => {
    const parent = await insertBranch(db.catalog, projectId, { branchState: 'init' });
    const child = await insertBranch(db.catalog, projectId, { parentId: parent.branchId, branchState: 'init' });
    const [made] = await perform(child, ['create_branch']);
    expect(made).toMatchObject({ status: 'failed', failuresCount: 1, error: 'the parent branch could not be created' });
    expect(await branchRow(child)).toMatchObject({ currentState: 'init', pendingState: null });
  });

  test('what cannot be made is removed again, and everything behind it says so', async () => {
    const branch = await insertBranch(db.catalog, projectId, { branchState: 'init', endpointState: 'init' });
    await db.catalog.query(`update branches set pending_state = 'ready' where id = $1`, [branch.branchId]);
    engine.fault = (call) => {
      if (call.startsWith('createRoot')) throw new AppError('unavailable', 'the pool has no room for another branch');
    };
    const [made, started] = await perform(branch, ['create_timeline', 'start_compute']);
    expect(made).toMatchObject({
      status: 'failed',
      failuresCount: 3,
      error: 'the pool has no room for another branch',
    });
    expect(started).toMatchObject({ status: 'failed', failuresCount: 1, error: 'the branch could not be created' });
    expect(engine.calls.filter((call) => call.startsWith('delete'))).toHaveLength(1);
    expect(await branchRow(branch)).toMatchObject({ currentState: 'init', pendingState: null });
    expect(await endpointRow(branch)).toMatchObject({ currentState: 'idle', pendingState: null });
  });

  test.each([
    'create_timeline',
    'start_compute',
    'suspend_compute',
    'delete_timeline',
    'apply_config',
    'sync_dbs_and_roles_from_compute',
  ] as const)('%s may run again after it has run', async (action) => {
    const branch = await readyBranch({ running: true });
    const [first] = await perform(branch, [action]);
    const rows = [await branchRow(branch), (await endpointRow(branch))['currentState'], await roleRows(branch)];
    const [second] = await perform(branch, [action]);
    expect(['finished', 'skipped']).toContain(first!.status);
    expect(['finished', 'skipped']).toContain(second!.status);
    expect([await branchRow(branch), (await endpointRow(branch))['currentState'], await roleRows(branch)]).toEqual(
      rows,
    );
  });
});

describe('start_compute', () => {
  test('the compute gets the settings of its endpoint and its project', async () => {
    const branch = await readyBranch();
    await db.catalog.query(
      `update projects set settings = '{"enable_logical_replication":true,"preload_libraries":{"use_defaults":false,"enabled_libraries":["auto_explain"]}}' where id = $1`,
      [projectId],
    );
    await db.catalog.query(
      `update endpoints set settings = '{"pg_settings":{"work_mem":"16MB","random_page_cost":2}}', autoscaling_limit_max_cu = 2 where id = $1`,
      [branch.endpointId],
    );
    await perform(branch, ['start_compute']);
    expect(engine.computes.get(branch.endpointId)).toMatchObject({
      pgSettings: { work_mem: '16MB', random_page_cost: '2' },
      preloadLibraries: ['auto_explain'],
      logicalReplication: true,
      minCu: 0.25,
      maxCu: 2,
    });
  });

  test('one that fails leaves the endpoint idle, with a text that can be read', async () => {
    const branch = await readyBranch();
    await db.catalog.query(`update endpoints set pending_state = 'active' where id = $1`, [branch.endpointId]);
    engine.fault = (call) => {
      if (call.startsWith('start')) throw new AppError('unavailable', 'Postgres did not start: it exited');
    };
    const [operation] = await perform(branch, ['start_compute']);
    expect(operation).toMatchObject({ status: 'failed', error: 'Postgres did not start: it exited', failuresCount: 3 });
    expect(await endpointRow(branch)).toMatchObject({ currentState: 'idle', pendingState: null });
    expect(engine.computes.size).toBe(0);
  });

  test('a pending change that Postgres refuses does not keep the compute asleep', async () => {
    const branch = await readyBranch();
    await addRole(branch, 'fine', 'creating');
    await addDatabase(branch, 'orphan', 'nobody_here', 'creating');
    expect(statuses(await perform(branch, ['start_compute']))).toEqual(['finished']);
    expect(await endpointRow(branch)).toMatchObject({ currentState: 'active' });
    expect(await databaseRows(branch)).toEqual([
      { name: 'orphan', ownerName: 'nobody_here', state: 'creating', appliedName: null },
    ]);
  });

  test('is refused while the pool is full', async () => {
    const branch = await readyBranch();
    operations.pool.full = true;
    const [operation] = await perform(branch, ['start_compute']);
    expect(operation).toMatchObject({ status: 'failed', failuresCount: 1 });
    expect(operation!.error).toMatch(/^the storage pool is full/);
  });

  test('a suspend that waits behind it keeps its pending state', async () => {
    const branch = await readyBranch();
    await db.catalog.query(`update endpoints set pending_state = 'idle' where id = $1`, [branch.endpointId]);
    await perform(branch, ['start_compute']);
    expect(await endpointRow(branch)).toMatchObject({ currentState: 'active', pendingState: 'idle' });
  });
});

describe('apply_config', () => {
  test('applies every kind of pending change and settles its rows', async () => {
    const branch = await readyBranch({ running: true });
    engine.facts.set(branch.branchId, {
      roles: [
        { name: 'reset', verifier: 'old', canLogin: true },
        { name: 'dropped', verifier: null, canLogin: true },
      ],
      databases: [
        { name: 'before', owner: 'reset' },
        { name: 'gone', owner: 'reset' },
      ],
    });
    await addRole(branch, 'reset', 'updating');
    await addRole(branch, 'dropped', 'deleting');
    await addRole(branch, 'made', 'creating');
    await addDatabase(branch, 'after', 'made', 'updating', 'before');
    await addDatabase(branch, 'gone', 'reset', 'deleting');
    await addDatabase(branch, 'new', 'made', 'creating');
    expect(statuses(await perform(branch, ['apply_config']))).toEqual(['finished']);
    const ready = { state: 'ready', verifier: VERIFIER, noLogin: false };
    expect(await roleRows(branch)).toEqual([
      { name: 'made', ...ready },
      { name: 'reset', ...ready },
    ]);
    expect(await databaseRows(branch)).toEqual([
      { name: 'after', ownerName: 'made', state: 'ready', appliedName: null },
      { name: 'new', ownerName: 'made', state: 'ready', appliedName: null },
    ]);
    expect(engine.facts.get(branch.branchId)!.databases).toEqual([
      { name: 'after', owner: 'made' },
      { name: 'new', owner: 'made' },
    ]);
  });

  test('a row that changed while it was applied stays pending, and the next one applies it', async () => {
    const branch = await readyBranch({ running: true });
    await addRole(branch, 'busy', 'creating', 'first');
    engine.fault = async (call) => {
      if (!call.startsWith('start')) return;
      engine.fault = () => undefined;
      await db.catalog.query(
        `update roles set verifier = 'second', state = 'updating' where name = 'busy' and branch_id = $1`,
        [branch.branchId],
      );
    };
    await perform(branch, ['apply_config']);
    expect(await roleRows(branch)).toEqual([{ name: 'busy', state: 'updating', verifier: 'second', noLogin: false }]);
    await perform(branch, ['apply_config']);
    expect(await roleRows(branch)).toEqual([{ name: 'busy', state: 'ready', verifier: 'second', noLogin: false }]);
    expect(engine.facts.get(branch.branchId)!.roles[0]!.verifier).toBe('second');
  });

  test('wakes a compute that sleeps, and the suspend behind it puts it back', async () => {
    const branch = await readyBranch();
    await addRole(branch, 'made', 'creating');
    // Applying is use of the compute, but not a client's.
    expect(statuses(await perform(branch, ['apply_config', 'suspend_compute'], { idleOnly: true }))).toEqual([
      'finished',
      'finished',
    ]);
    expect(await endpointRow(branch)).toMatchObject({ currentState: 'idle', pendingState: null });
    expect(await roleRows(branch)).toMatchObject([{ name: 'made', state: 'ready' }]);
  });

  test('a branch without an endpoint keeps its pending rows', async () => {
    const branch = await readyBranch();
    await addRole(branch, 'made', 'creating');
    await db.catalog.query('update endpoints set deleted_at = now() where id = $1', [branch.endpointId]);
    const [operation] = await db.catalog.transaction((tx) =>
      queue.append(tx, [{ projectId, branchId: branch.branchId, action: 'apply_config' }]),
    );
    queue.poke();
    expect((await queue.ended(operation!.id, AbortSignal.timeout(60_000))).status).toBe('skipped');
    expect(await roleRows(branch)).toMatchObject([{ name: 'made', state: 'creating' }]);
  });
});

describe('suspend_compute', () => {
  test('notes what SQL changed, stops, and lets storage tidy up behind its back', async () => {
    const branch = await readyBranch({ running: true });
    await addRole(branch, 'kept', 'ready');
    await addRole(branch, 'dropped_by_sql', 'ready');
    engine.facts.set(branch.branchId, {
      roles: [
        { name: 'kept', verifier: 'changed by SQL', canLogin: true },
        { name: 'made_by_sql', verifier: null, canLogin: false },
      ],
      databases: [{ name: 'sqldb', owner: 'kept' }],
    });
    let tidied!: () => void;
    const tidying = new Promise<void>((resolve) => (tidied = resolve));
    engine.fault = (call) => (call.startsWith('afterSuspend') ? tidying : undefined);
    expect(statuses(await perform(branch, ['suspend_compute']))).toEqual(['finished']);
    expect(engine.calls).not.toContain(`afterSuspend ${branch.branchId}`);
    await waitFor('storage to tidy up', async () => engine.calls.at(-1) === `afterSuspend ${branch.branchId}`);
    // It is still tidying; a start does not wait for it.
    expect(statuses(await perform(branch, ['start_compute', 'suspend_compute']))).toEqual(['finished', 'finished']);
    tidied();
    expect(await endpointRow(branch)).toMatchObject({ currentState: 'idle', pendingState: null });
    expect((await endpointRow(branch))['suspendedAt']).not.toBeNull();
    expect(await roleRows(branch)).toEqual([
      { name: 'kept', state: 'ready', verifier: 'changed by SQL', noLogin: false },
      { name: 'made_by_sql', state: 'ready', verifier: null, noLogin: true },
    ]);
    expect(
      await db.catalog.query('select sealed_password from roles where branch_id = $1 and name = $2', [
        branch.branchId,
        'kept',
      ]),
    ).toEqual([{ sealedPassword: null }]);
    expect(await databaseRows(branch)).toEqual([
      { name: 'sqldb', ownerName: 'kept', state: 'ready', appliedName: null },
    ]);
  });

  test('for idleness, it does not cut a client that has come meanwhile', async () => {
    const branch = await readyBranch({ running: true });
    await db.catalog.query(`update endpoints set pending_state = 'idle' where id = $1`, [branch.endpointId]);
    engine.activities.set(branch.endpointId, { busy: true });
    expect(statuses(await perform(branch, ['suspend_compute'], { idleOnly: true }))).toEqual(['skipped']);
    expect(await endpointRow(branch)).toMatchObject({ currentState: 'active', pendingState: null });
    expect(engine.computes.has(branch.endpointId)).toBe(true);
    engine.activities.set(branch.endpointId, { idleMs: 0 });
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(statuses(await perform(branch, ['suspend_compute'], { idleOnly: true }))).toEqual(['skipped']);
    expect(statuses(await perform(branch, ['suspend_compute']))).toEqual(['finished']);
    expect(engine.computes.size).toBe(0);
  });

  test('a compute that does not answer is stopped all the same', async () => {
    const branch = await readyBranch({ running: true });
    engine.fault = (call) => {
      if (call.startsWith('rolesAndDatabases')) throw new Error('hangs');
    };
    expect(statuses(await perform(branch, ['suspend_compute']))).toEqual(['finished']);
    expect(engine.computes.size).toBe(0);
  });

  test('one that cannot be stopped is shown as what it is', async () => {
    const branch = await readyBranch({ running: true });
    engine.fault = (call) => {
      if (call.startsWith('suspend')) throw new Error('will not die');
    };
    expect(statuses(await perform(branch, ['suspend_compute']))).toEqual(['failed']);
    expect(await endpointRow(branch)).toMatchObject({ currentState: 'active', pendingState: null });
  });
});

describe('delete_timeline', () => {
  test('stops what still runs and removes the data', async () => {
    const branch = await readyBranch({ running: true });
    await db.catalog.query('update branches set deleted_at = now() where id = $1', [branch.branchId]);
    expect(statuses(await perform(branch, ['delete_timeline']))).toEqual(['finished']);
    expect([engine.computes.size, engine.timelines.has(branch.branchId)]).toEqual([0, false]);
  });
});

describe('sync_dbs_and_roles_from_compute', () => {
  test('leaves pending rows alone', async () => {
    const branch = await readyBranch({ running: true });
    engine.facts.set(branch.branchId, {
      roles: [
        { name: 'reset', verifier: 'old', canLogin: true },
        { name: 'deleting', verifier: null, canLogin: true },
      ],
      databases: [{ name: 'old_name', owner: 'reset' }],
    });
    await addRole(branch, 'reset', 'updating');
    await addRole(branch, 'deleting', 'deleting');
    await addRole(branch, 'creating', 'creating');
    await addDatabase(branch, 'new_name', 'reset', 'updating', 'old_name');
    const before = [await roleRows(branch), await databaseRows(branch)];
    expect(statuses(await perform(branch, ['sync_dbs_and_roles_from_compute']))).toEqual(['finished']);
    expect([await roleRows(branch), await databaseRows(branch)]).toEqual(before);
  });

  test('a compute that sleeps is left asleep', async () => {
    const branch = await readyBranch();
    expect(statuses(await perform(branch, ['sync_dbs_and_roles_from_compute']))).toEqual(['skipped']);
    expect(engine.computes.size).toBe(0);
  });
});
