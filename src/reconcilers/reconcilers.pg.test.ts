import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { insertBranch, insertProject, type TestBranch } from '../../test/support/catalog-rows.ts';
import { openTestCatalog, type TestCatalog } from '../../test/support/catalog.ts';
import { createFakeEngine, type FakeEngine } from '../../test/support/fake-engine.ts';
import { makeTestOperations, TEST_NODE, type TestOperations } from '../../test/support/operations.ts';
import { silentLogger } from '../lib/log.ts';
import type { RunnerQueue } from '../operations/queue.ts';
import type { Runner } from '../operations/runner.ts';
import { describeProjects } from './describe-projects.ts';
import { followRoles } from './follow-roles.ts';
import { archiveBranches, expireBranches, purgeDeleted } from './life-cycle.ts';
import { measureSizes } from './measure-sizes.ts';
import { trimHistory } from './history.ts';
import { startReconcilers } from './reconciler.ts';
import { createRecover } from './recover.ts';
import { suspendIdle } from './suspend-idle.ts';
import { watchSpace } from './watch-space.ts';

const logger = silentLogger();
let db: TestCatalog;
let engine: FakeEngine;
let queue: RunnerQueue;
let runner: Runner;
let work: TestOperations;
let projectId: string;
let syncedFingerprints: Map<string, string>;

beforeAll(async () => {
  db = await openTestCatalog();
});
afterAll(() => db.close());
beforeEach(async () => {
  engine = createFakeEngine();
  work = makeTestOperations({ catalog: db.catalog, engine });
  ({ queue, runner, syncedFingerprints } = work);
  ({ projectId } = await insertProject(db.catalog, TEST_NODE));
});
afterEach(async () => {
  await work.stop();
  await db.catalog.query(`update operations set status = 'finished'`);
  await db.catalog.query(`update endpoints set current_state = 'idle', pending_state = null, deleted_at = now()`);
});

const parts = () => ({
  catalog: db.catalog,
  queue,
  supervisor: engine.supervisor,
  storage: engine.storage,
  nodeId: TEST_NODE,
  logger,
  syncedFingerprints,
  activity: (endpointId: string) => engine.supervisor.activity(endpointId),
});

/** A branch whose row and compute both say that it runs. */
async function activeBranch(options: { suspendTimeoutSeconds?: number } = {}): Promise<TestBranch> {
  const branch = await insertBranch(db.catalog, projectId, { endpointState: 'active', ...options });
  const timeline = { projectId, timelineId: branch.branchId };
  engine.timelines.set(branch.branchId, timeline as never);
  engine.computes.set(branch.endpointId, { endpointId: branch.endpointId, timeline } as never);
  return branch;
}

const stateOf = async (branch: TestBranch) =>
  (await db.catalog.query('select current_state, pending_state from endpoints where id = $1', [branch.endpointId]))[0];
const operationsOf = (branch: TestBranch) =>
  db.catalog.query<{ action: string; status: string; payload: unknown }>(
    'select action, status, payload from operations where branch_id = $1 order by seq',
    [branch.branchId],
  );
const IDLE = { currentState: 'idle', pendingState: null };
const ACTIVE = { currentState: 'active', pendingState: null };

describe('suspend-idle', () => {
  const reconciler = () => suspendIdle({ ...parts(), clientsOf: () => [], defaultSuspendTimeoutSeconds: 300 });

  test('suspends what was idle for its own timeout, and nothing else', async () => {
    const [short, fresh, byDefault, never, busy] = [
      await activeBranch({ suspendTimeoutSeconds: 60 }),
      await activeBranch({ suspendTimeoutSeconds: 60 }),
      await activeBranch(),
      await activeBranch({ suspendTimeoutSeconds: -1 }),
      await activeBranch({ suspendTimeoutSeconds: 60 }),
    ];
    engine.activities.set(short.endpointId, { idleMs: 61_000 });
    engine.activities.set(fresh.endpointId, { idleMs: 59_000 });
    engine.activities.set(byDefault.endpointId, { idleMs: 301_000 });
    engine.activities.set(never.endpointId, { idleMs: 9_999_999 });
    engine.activities.set(busy.endpointId, { idleMs: 61_000, busy: true });
    await runner.start();
    await reconciler().run();
    for (const branch of [short, byDefault]) await expect.poll(() => stateOf(branch)).toEqual(IDLE);
    for (const branch of [fresh, never, busy])
      expect([await stateOf(branch), await operationsOf(branch)]).toEqual([ACTIVE, []]);
    expect(await operationsOf(short)).toEqual([
      { action: 'suspend_compute', status: 'finished', payload: { idleOnly: true } },
    ]);
  });

  test('appends one suspend however often it looks, and none beside other work', async () => {
    const [idle, working] = [await activeBranch(), await activeBranch()];
    for (const branch of [idle, working]) engine.activities.set(branch.endpointId, { idleMs: 400_000 });
    await db.catalog.transaction((tx) => queue.append(tx, [{ ...working, action: 'apply_config' }]));
    const one = reconciler();
    for (let look = 0; look < 3; look += 1) await one.run();
    expect((await operationsOf(idle)).map((row) => row.action)).toEqual(['suspend_compute']);
    expect(await stateOf(idle)).toEqual({ currentState: 'active', pendingState: 'idle' });
    expect((await operationsOf(working)).map((row) => row.action)).toEqual(['apply_config']);
  });

  test('writes down when clients were last active', async () => {
    const branch = await activeBranch();
    engine.activities.set(branch.endpointId, { idleMs: 30_000 });
    await reconciler().run();
    const [row] = await db.catalog.query<{ seconds: number }>(
      'select extract(epoch from now() - last_active) as seconds from endpoints where id = $1',
      [branch.endpointId],
    );
    expect(row!.seconds).toBeGreaterThan(29);
    expect(row!.seconds).toBeLessThan(60);
  });
});

describe('follow-roles', () => {
  test('what SQL made reaches the rows; what is the same makes no operation', async () => {
    const branch = await activeBranch();
    engine.facts.set(branch.branchId, {
      roles: [{ name: 'by_sql', verifier: 'v', canLogin: true }],
      databases: [{ name: 'sqldb', owner: 'by_sql' }],
    });
    await runner.start();
    const one = followRoles(parts());
    await one.run();
    const rows = () =>
      db.catalog.query(
        'select r.name, d.name as database from roles r join databases d using (branch_id) where branch_id = $1',
        [branch.branchId],
      );
    await expect.poll(rows).toEqual([{ name: 'by_sql', database: 'sqldb' }]);
    await expect.poll(async () => (await operationsOf(branch)).map((row) => row.status)).toEqual(['finished']);
    syncedFingerprints.clear();
    for (let look = 0; look < 3; look += 1) await one.run();
    expect(await operationsOf(branch)).toHaveLength(1);
    // One look, the sync, and one more look: after that the fingerprint was known.
    expect(engine.calls.filter((call) => call.startsWith('rolesAndDatabases'))).toHaveLength(3);
    expect(await one.check(branch.endpointId, AbortSignal.timeout(60_000))).toBe(false);
  });

  test('check answers once the rows have changed', async () => {
    const branch = await activeBranch();
    await runner.start();
    const one = followRoles(parts());
    expect(await one.check(branch.endpointId, AbortSignal.timeout(60_000))).toBe(false);
    engine.facts.set(branch.branchId, { roles: [{ name: 'by_sql', verifier: 'v', canLogin: true }], databases: [] });
    expect(await one.check(branch.endpointId, AbortSignal.timeout(60_000))).toBe(true);
    expect(await db.catalog.query('select name from roles where branch_id = $1', [branch.branchId])).toEqual([
      { name: 'by_sql' },
    ]);
  });

  test('check waits for a sync that somebody else began', async () => {
    const branch = await activeBranch();
    engine.facts.set(branch.branchId, { roles: [{ name: 'by_sql', verifier: 'v', canLogin: true }], databases: [] });
    const one = followRoles(parts());
    await one.run();
    let waiting!: () => void;
    const waits = new Promise<void>((resolve) => (waiting = resolve));
    const watched = {
      ...queue,
      ended: (id: string, signal: AbortSignal) => {
        waiting();
        return queue.ended(id, signal);
      },
    };
    const checking = followRoles({ ...parts(), queue: watched }).check(branch.endpointId, AbortSignal.timeout(60_000));
    await waits;
    await runner.start();
    expect(await checking).toBe(true);
    expect(await operationsOf(branch)).toHaveLength(1);
  });

  test('keeps off a branch that has work under way', async () => {
    const branch = await activeBranch();
    engine.facts.set(branch.branchId, { roles: [{ name: 'by_sql', verifier: 'v', canLogin: true }], databases: [] });
    await db.catalog.transaction((tx) => queue.append(tx, [{ ...branch, action: 'apply_config' }]));
    await followRoles(parts()).run();
    expect((await operationsOf(branch)).map((row) => row.action)).toEqual(['apply_config']);
  });
});

describe('recover', () => {
  test('at start: computes that are gone are idle, those that nobody wants are stopped, those that run stay', async () => {
    const [gone, unwanted, deleted, fine] = [
      await activeBranch(),
      await activeBranch(),
      await activeBranch(),
      await activeBranch(),
    ];
    engine.computes.delete(gone.endpointId);
    await db.catalog.query(`update endpoints set current_state = 'idle' where id = $1`, [unwanted.endpointId]);
    await db.catalog.query('update endpoints set deleted_at = now() where id = $1', [deleted.endpointId]);
    engine.computes.set('ep-of-nobody-12345678', { timeline: {} } as never);
    await createRecover(parts()).atStart();
    expect(await stateOf(gone)).toEqual(IDLE);
    expect(await stateOf(fine)).toEqual(ACTIVE);
    expect([...engine.computes.keys()]).toEqual([fine.endpointId]);
  });

  test('what an unfinished operation will see to is left to it', async () => {
    const [starting, stopping] = [await activeBranch(), await activeBranch()];
    engine.computes.delete(starting.endpointId);
    await db.catalog.query(`update endpoints set current_state = 'idle', pending_state = 'active' where id = $1`, [
      starting.endpointId,
    ]);
    await db.catalog.query(`update endpoints set current_state = 'idle' where id = $1`, [stopping.endpointId]);
    await db.catalog.transaction((tx) =>
      queue.append(tx, [
        { ...starting, action: 'start_compute' },
        { ...stopping, action: 'suspend_compute' },
      ]),
    );
    await createRecover(parts()).atStart();
    expect(await stateOf(starting)).toEqual({ currentState: 'idle', pendingState: 'active' });
    expect(engine.computes.has(stopping.endpointId)).toBe(true);
    await runner.start();
    await expect.poll(() => stateOf(starting)).toEqual(ACTIVE);
    await expect.poll(() => engine.computes.has(stopping.endpointId)).toBe(false);
  });

  test('later it takes two looks before a compute is stopped', async () => {
    const branch = await activeBranch();
    await db.catalog.query(`update endpoints set current_state = 'idle' where id = $1`, [branch.endpointId]);
    const { computes } = createRecover(parts());
    await computes.run();
    expect(engine.computes.size).toBe(1);
    await computes.run();
    expect(engine.computes.size).toBe(0);
  });

  test('at start, the data of standbys goes unless their compute has outlived Ballast', async () => {
    const branch = await activeBranch();
    for (const timelineId of ['ep-dead-replica', branch.endpointId]) {
      engine.timelines.set(timelineId, { projectId, timelineId, kind: 'standby' } as never);
    }
    await createRecover(parts()).atStart();
    expect(engine.timelines.has('ep-dead-replica')).toBe(false);
    expect(engine.timelines.has(branch.endpointId)).toBe(true);
  });

  test('a compute in the past that somebody wants stays, though no row knows it; at the next start it goes', async () => {
    const past = { endpointId: 'past-0123456789abcdef', timeline: { projectId: 'p', timelineId: 'past-x' } };
    engine.computes.set(past.endpointId, past as never);
    const { computes } = createRecover({ ...parts(), isTemporary: (endpointId) => endpointId === past.endpointId });
    for (let look = 0; look < 3; look += 1) await computes.run();
    expect(engine.computes.has(past.endpointId)).toBe(true);
    await createRecover(parts()).atStart();
    expect(engine.computes.has(past.endpointId)).toBe(false);
  });

  test('a state that stayed pending without an operation becomes what is', async () => {
    const [running, sleeping] = [await activeBranch(), await activeBranch()];
    engine.computes.delete(sleeping.endpointId);
    await db.catalog.query(`update endpoints set pending_state = 'idle' where id = $1`, [running.endpointId]);
    await db.catalog.query(`update endpoints set current_state = 'init', pending_state = 'active' where id = $1`, [
      sleeping.endpointId,
    ]);
    await createRecover(parts()).computes.run();
    expect([await stateOf(running), await stateOf(sleeping)]).toEqual([ACTIVE, IDLE]);
  });

  test('a compute that ends by itself is idle at once', async () => {
    const branch = await activeBranch();
    const recover = createRecover(parts());
    engine.supervisor.onExit((endpointId) => void recover.exited(endpointId));
    engine.kill(branch.endpointId);
    await expect.poll(() => stateOf(branch)).toEqual(IDLE);
  });

  test('at start, garbage goes, data of deleted branches goes by an operation, data without a row stays', async () => {
    const [kept, deleted] = [await activeBranch(), await activeBranch()];
    await db.catalog.query('update branches set deleted_at = now(), purged_at = now() where id = $1', [
      deleted.branchId,
    ]);
    engine.timelines.set('br-of-nobody-12345678', { projectId: 'x', timelineId: 'br-of-nobody-12345678' } as never);
    engine.garbage = ['/pool/a', '/pool/b'];
    await createRecover(parts()).atStart();
    expect(engine.garbage).toEqual([]);
    await runner.start();
    await expect.poll(() => [...engine.timelines.keys()]).toEqual([kept.branchId, 'br-of-nobody-12345678']);
    await expect.poll(() => operationsOf(deleted)).toMatchObject([{ action: 'delete_timeline', status: 'finished' }]);
  });

  test('running it again changes nothing', async () => {
    const branch = await activeBranch();
    const recover = createRecover(parts());
    for (let look = 0; look < 3; look += 1) {
      await recover.computes.run();
      await recover.timelines.run();
    }
    expect([await stateOf(branch), await operationsOf(branch), engine.calls]).toEqual([ACTIVE, [], []]);
  });
});

describe('watch-space', () => {
  test('a full pool puts every writer to sleep, clients or not; there is room again, there is no more to do', async () => {
    const branch = await activeBranch();
    engine.activities.set(branch.endpointId, { busy: true });
    await runner.start();
    const space = watchSpace(parts());
    await space.run();
    expect([space.isFull(), await operationsOf(branch)]).toEqual([false, []]);
    engine.pool = { ...engine.pool, watermark: 'full' };
    await space.run();
    expect(space.isFull()).toBe(true);
    await expect.poll(() => stateOf(branch)).toEqual(IDLE);
    engine.pool = { ...engine.pool, watermark: 'high' };
    await space.run();
    expect(space.isFull()).toBe(false);
  });
});

describe('measure-sizes', () => {
  test('writes down the size of branches that run', async () => {
    const branch = await activeBranch();
    await measureSizes(parts()).run();
    expect(await db.catalog.query('select logical_size_bytes from branches where id = $1', [branch.branchId])).toEqual([
      { logicalSizeBytes: 30_000_000 },
    ]);
  });
});

describe('trim-history', () => {
  test("lets go of what is older than the project's window, of branches that are there", async () => {
    const [branch, deleted] = [await activeBranch(), await activeBranch()];
    await db.catalog.query('update projects set history_retention_seconds = 3600 where id = $1', [branch.projectId]);
    await db.catalog.query('update branches set deleted_at = now(), purged_at = now() where id = $1', [
      deleted.branchId,
    ]);
    await trimHistory({ ...parts(), nowMs: () => 10_000_000 }).run();
    const trims = engine.calls.filter((call) => call.startsWith('trimHistory'));
    expect(trims).toContain(`trimHistory ${branch.branchId} ${10_000_000 - 3_600_000 - 60_000}`);
    expect(trims.join()).not.toContain(deleted.branchId);
  });
});

describe('expire-branches', () => {
  test('deletes what has expired, softly; what must stay stays until it may go', async () => {
    const [expired, later, parent, child] = [
      await activeBranch(),
      await activeBranch(),
      await activeBranch(),
      await activeBranch(),
    ];
    await db.catalog.query(`update branches set expires_at = now() - interval '1 second' where id = any ($1)`, [
      [expired.branchId, parent.branchId],
    ]);
    await db.catalog.query(`update branches set expires_at = now() + interval '1 hour' where id = $1`, [
      later.branchId,
    ]);
    await db.catalog.query('update branches set parent_id = $2 where id = $1', [child.branchId, parent.branchId]);
    await runner.start();
    const deleted = async (branch: TestBranch) =>
      (
        await db.catalog.query<{ how: string | null }>(
          'select deletion_method as how from branches where id = $1 and recoverable_until > now()',
          [branch.branchId],
        )
      )[0]?.how;
    await expireBranches(parts()).run();
    expect([await deleted(expired), await deleted(later), await deleted(parent)]).toEqual([
      'ttl',
      undefined,
      undefined,
    ]);
    await expect.poll(() => engine.computes.has(expired.endpointId)).toBe(false);
    expect(engine.timelines.has(expired.branchId)).toBe(true);
    await db.catalog.query(`update branches set deleted_at = now() where id = $1`, [child.branchId]);
    await expireBranches(parts()).run();
    expect(await deleted(parent)).toBe('ttl');
  });
});

describe('the process ends in the middle', () => {
  test.each([
    ['expire-branches', 'suspend ', `expires_at = now() - interval '1 second'`],
    [
      'purge-deleted',
      'delete ',
      `deleted_at = now() - interval '8 days', recoverable_until = now() - interval '1 day'`,
    ],
  ])('of %s: the next one brings it to its end', async (name, step, state) => {
    const branch = await activeBranch();
    await db.catalog.query(`update branches set ${state} where id = $1`, [branch.branchId]);
    let reached!: () => void;
    const atStep = new Promise<void>((resolve) => (reached = resolve));
    let died = false;
    engine.fault = (call) => {
      if (died || !call.startsWith(step)) return;
      reached();
      // A process that is gone does nothing any more.
      return new Promise(() => undefined);
    };
    await runner.start();
    const reconciler = (name === 'expire-branches' ? expireBranches : purgeDeleted)(parts());
    // Two processes at once do it once.
    await Promise.all([reconciler.run(), reconciler.run()]);
    await atStep;
    died = true;
    void work.stop();
    work = makeTestOperations({ catalog: db.catalog, engine });
    await work.runner.start();
    await expect.poll(async () => (await operationsOf(branch)).map((row) => row.status)).toEqual(['finished']);
    expect(engine.computes.has(branch.endpointId)).toBe(false);
    expect(engine.timelines.has(branch.branchId)).toBe(name === 'expire-branches');
  });
});

describe('purge-deleted', () => {
  const softly = (branch: TestBranch, age: string) =>
    db.catalog.query(
      `update branches set deleted_at = now() - $2::interval, recoverable_until = now() + interval '7 days' - $2::interval
       where id = $1`,
      [branch.branchId, age],
    );

  test('removes the data of what nobody can have back', async () => {
    const [old, young] = [await activeBranch(), await activeBranch()];
    await softly(old, '8 days');
    await softly(young, '6 days');
    await runner.start();
    await purgeDeleted(parts()).run();
    await createRecover(parts()).timelines.run();
    await expect
      .poll(() => [engine.timelines.has(old.branchId), engine.timelines.has(young.branchId)])
      .toEqual([false, true]);
    expect(engine.computes.has(old.endpointId)).toBe(false);
    await db.catalog.query('update branches set purged_at = now() where id = $1', [young.branchId]);
  });

  test('in a pool that runs out of space, one after the other, the oldest first', async () => {
    const [second, first, there] = [await activeBranch(), await activeBranch(), await activeBranch()];
    await softly(second, '1 days');
    await softly(first, '2 days');
    engine.pool = { ...engine.pool, watermark: 'high' };
    const run = () => purgeDeleted(parts()).run();
    await run();
    await run();
    expect([await operationsOf(first), await operationsOf(second)]).toMatchObject([
      [{ action: 'delete_timeline' }],
      [],
    ]);
    await runner.start();
    await expect.poll(() => engine.timelines.has(first.branchId)).toBe(false);
    await expect.poll(async () => (await operationsOf(first))[0]!.status).toBe('finished');
    await run();
    await expect.poll(() => engine.timelines.has(second.branchId)).toBe(false);
    await expect.poll(async () => (await operationsOf(second))[0]!.status).toBe('finished');
    await run();
    expect(engine.timelines.has(there.branchId)).toBe(true);
  });

  test('a project goes with all its branches and snapshots', async () => {
    const [branch, gone] = [await activeBranch(), await activeBranch()];
    await softly(gone, '1 days');
    await db.catalog.query(
      `insert into snapshots (id, project_id, source_branch_id, timeline_id, name, manual) values ($1, $2, $3, $1, 's', true)`,
      [`snap-${branch.branchId}`, projectId, branch.branchId],
    );
    engine.timelines.set(`snap-${branch.branchId}`, { projectId, timelineId: `snap-${branch.branchId}` } as never);
    await db.catalog.query(
      `update projects set deleted_at = now() - interval '8 days', recoverable_until = now() where id = $1`,
      [projectId],
    );
    await runner.start();
    await purgeDeleted(parts()).run();
    await expect.poll(() => [...engine.timelines.keys()]).toEqual([]);
    const rows = await db.catalog.query('select purged_at from projects where id = $1 and purged_at is null', [
      projectId,
    ]);
    expect(rows).toEqual([]);
  });
});

describe('archive-branches', () => {
  test('marks old branches that nobody uses; a start takes it back', async () => {
    const [unused, used, young] = [await activeBranch(), await activeBranch(), await activeBranch()];
    await db.catalog.query(
      `update endpoints set current_state = 'idle', suspended_at = now() - interval '2 days'
      where id = any ($1)`,
      [[unused.endpointId, young.endpointId]],
    );
    await db.catalog.query(
      `update endpoints set current_state = 'idle', last_active = now() - interval '1 hour'
      where id = $1`,
      [used.endpointId],
    );
    await db.catalog.query(`update branches set created_at = now() - interval '15 days' where id = any ($1)`, [
      [unused.branchId, used.branchId],
    ]);
    await archiveBranches(parts()).run();
    const state = async (branch: TestBranch) =>
      (
        await db.catalog.query<{ currentState: string }>('select current_state from branches where id = $1', [
          branch.branchId,
        ])
      )[0]!.currentState;
    expect([await state(unused), await state(used), await state(young)]).toEqual(['archived', 'ready', 'ready']);
    await runner.start();
    await db.catalog.transaction((tx) => queue.append(tx, [{ ...unused, action: 'start_compute' }]));
    queue.poke();
    await expect.poll(() => state(unused)).toBe('ready');
  });
});

test('a reconciler never overlaps itself, survives its failures, and is waited for when it stops', async () => {
  let [active, runs] = [0, 0];
  const handle = startReconcilers(
    [
      {
        name: 'test',
        everyMs: 1,
        run: async () => {
          active += 1;
          runs += 1;
          expect(active).toBe(1);
          await new Promise((resolve) => setTimeout(resolve, 5));
          active -= 1;
          if (runs % 2 === 0) throw new Error('every other time');
        },
      },
    ],
    logger,
  );
  await expect.poll(() => runs).toBeGreaterThan(4);
  await handle.stop();
  const at = runs;
  expect(active).toBe(0);
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(runs).toBe(at);
});

describe('describe-projects', () => {
  test('sees what changes without an operation, also where everything else is at rest', async () => {
    const branch = await insertBranch(db.catalog, projectId);
    engine.timelines.set(branch.branchId, { projectId, timelineId: branch.branchId } as never);
    for (const table of ['projects', 'branches', 'endpoints', 'operations', 'roles', 'databases']) {
      await db.catalog.query(`update ${table} set updated_at = now() - interval '1 hour'`);
    }
    const described: string[] = [];
    const storage = {
      describeProject: async (id: string, text: string) => {
        if (id === projectId) described.push(text);
        return true;
      },
    };
    const reconciler = describeProjects({ catalog: db.catalog, storage, nodeId: TEST_NODE });
    await reconciler.run();
    await reconciler.run();
    expect(described).toHaveLength(1);

    await db.catalog.query(
      `insert into backup_schedules (branch_id, project_id, schedule) values ($1, $2, '[{"frequency": "daily"}]')`,
      [branch.branchId, projectId],
    );
    await reconciler.run();
    expect(described.at(-1)).toContain('"daily"');
    await db.catalog.query(`insert into roles (project_id, branch_id, name) values ($1, $2, 'by_sql')`, [
      projectId,
      branch.branchId,
    ]);
    await reconciler.run();
    expect(described.at(-1)).toContain('by_sql');
    // What is removed leaves nothing that tells: it is seen within a minute.
    await db.catalog.query('delete from backup_schedules where branch_id = $1', [branch.branchId]);
    for (let runs = 0; runs < 20; runs += 1) await reconciler.run();
    expect(described.at(-1)).not.toContain('"daily"');
  });
});
