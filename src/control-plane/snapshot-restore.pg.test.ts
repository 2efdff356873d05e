/**
 * Snapshots and their restores as work: the real rules, queue, runner and actions over an engine without Postgres. After
 * every call of the engine it is checked that no endpoint runs on two timelines and no timeline under two endpoints.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openTestControlPlane, type TestControlPlane } from '../../test/support/control-plane.ts';
import { createFakeEngine, type FakeEngine } from '../../test/support/fake-engine.ts';
import { makeTestOperations, TEST_NODE, type TestOperations } from '../../test/support/operations.ts';
import { waitFor } from '../../test/support/wait.ts';
import { createProxyAccess } from './proxy-access.ts';
import { AppError } from '../lib/errors.ts';
import { silentLogger } from '../lib/log.ts';

let rules: TestControlPlane;
let engine: FakeEngine;
let operations: TestOperations;
/** The ends of processes that died in a test. */
const ends: Promise<void>[] = [];
let projectId: string;
let branchId: string;
let endpointId: string;

beforeAll(async () => {
  rules = await openTestControlPlane();
});
afterAll(() => rules.close());
beforeEach(async () => {
  engine = createFakeEngine();
  watchTimelines();
  operations = makeTestOperations({ catalog: rules.catalog, engine });
  const made = await rules.plane.projects.create(rules.caller, { project: {} });
  projectId = made.project.id;
  branchId = made.branch.id;
  endpointId = made.endpoints[0]!.id;
  await rules.catalog.query('update projects set node_id = case when id = $1 then $2 else $3 end', [
    projectId,
    TEST_NODE,
    'another',
  ]);
  await operations.runner.start();
  await atRest();
});
afterEach(async () => {
  await Promise.all([operations.stop(), ...ends.splice(0)]);
});

/** The supervisor stops what an endpoint ran before it starts something else; that must never be needed. */
function watchTimelines(): void {
  const { start } = engine.supervisor;
  engine.supervisor.start = async (spec, changes) => {
    const address = await start(spec, changes);
    const users = [...engine.computes.values()].filter((one) => one.timeline.timelineId === spec.timeline.timelineId);
    expect(users).toHaveLength(1);
    return address;
  };
}
async function atRest(): Promise<void> {
  await waitFor(
    'the operations',
    async () => {
      operations.queue.poke();
      const [row] = await rules.catalog.query<{ count: number }>(
        `select count(*) as count from operations where project_id = $1
           and status in ('scheduling', 'running', 'cancelling')`,
        [projectId],
      );
      return row!.count === 0;
    },
    { timeoutMs: 20_000 },
  );
}
const statuses = async () =>
  (
    await rules.catalog.query<{ action: string; status: string }>(
      'select action, status from operations where project_id = $1 order by seq',
      [projectId],
    )
  )
    .slice(2)
    .map((row) => `${row.action} ${row.status}`);
const take = async () => {
  const { snapshot } = await rules.plane.snapshots.create(rules.caller, projectId, branchId, {});
  await atRest();
  return snapshot.id;
};
const restore = (id: string, finalize: boolean) =>
  rules.plane.snapshots.restoreSnapshot(rules.caller, projectId, id, { finalize_restore: finalize });
const rows = () =>
  rules.catalog.query<Record<string, unknown>>(
    `select id, name, is_default, current_state, restore_status from branches
     where project_id = $1 and deleted_at is null order by created_at`,
    [projectId],
  );
const endpoint = async () =>
  (
    await rules.catalog.query<{ branchId: string; currentState: string; pendingState: string | null }>(
      'select branch_id, current_state, pending_state from endpoints where id = $1',
      [endpointId],
    )
  )[0]!;

/** As after any restore that went well, whatever happened on the way. */
async function expectRestored(newBranchId: string, snapshotId: string): Promise<void> {
  expect(await rows()).toEqual([
    { id: branchId, name: 'main (old)', isDefault: false, currentState: 'ready', restoreStatus: null },
    { id: newBranchId, name: 'main', isDefault: true, currentState: 'ready', restoreStatus: 'finalized' },
  ]);
  expect(await endpoint()).toEqual({ branchId: newBranchId, currentState: 'active', pendingState: null });
  expect(engine.computes.get(endpointId)!.timeline.timelineId).toBe(newBranchId);
  expect(engine.timelines.get(newBranchId)).toMatchObject({ kind: 'branch', parentTimelineId: snapshotId });
  expect(engine.timelines.has(branchId)).toBe(true);
}

describe('snapshots', () => {
  test('are timelines that no compute runs on', async () => {
    const id = await take();
    expect(engine.timelines.get(id)).toMatchObject({ kind: 'snapshot', parentTimelineId: branchId });
    const [row] = await rules.catalog.query('select * from snapshots where id = $1', [id]);
    expect(row).toMatchObject({ state: 'ready', lsn: '0/1964258', pointTimestamp: '2026-01-16T20:53:56.123456Z' });
  });

  test('one that cannot be made is gone, and the operation says why', async () => {
    engine.fault = (call) => {
      if (call.startsWith('createChild')) throw new AppError('unavailable', 'the pool is full');
    };
    const id = await take();
    expect((await rules.plane.snapshots.list(rules.caller, projectId)).snapshots).toEqual([]);
    expect(
      await rules.catalog.query('select state, deleted_at is null as there from snapshots where id = $1', [id]),
    ).toEqual([{ state: 'failed', there: false }]);
    const [operation] = await rules.catalog.query<{ error: string }>(
      `select error from operations where project_id = $1 and status = 'failed'`,
      [projectId],
    );
    expect(operation!.error).toBe('the pool is full');
    expect(engine.timelines.has(id)).toBe(false);
  });

  test('is still made when its branch is deleted in the meantime, and can be deleted before it is made', async () => {
    let go!: () => void;
    const gate = new Promise<void>((resolve) => (go = resolve));
    engine.fault = (call) => (call.startsWith('suspend') ? gate : undefined);
    await rules.plane.endpoints.suspend(rules.caller, projectId, endpointId);
    const kept = await rules.plane.snapshots.create(rules.caller, projectId, branchId, {});
    const dropped = await rules.plane.snapshots.create(rules.caller, projectId, branchId, {});
    await rules.plane.snapshots.delete(rules.caller, projectId, dropped.snapshot.id);
    await rules.catalog.query('update branches set deleted_at = now() where id = $1', [branchId]);
    go();
    await atRest();
    expect(engine.timelines.has(kept.snapshot.id)).toBe(true);
    expect(engine.timelines.has(dropped.snapshot.id)).toBe(false);
    const { snapshots } = await rules.plane.snapshots.list(rules.caller, projectId);
    expect(snapshots).toMatchObject([{ id: kept.snapshot.id, lsn: '0/1964258' }]);
  });
});

describe('restore', () => {
  test('asked for before the snapshot is there waits for it', async () => {
    let go!: () => void;
    const gate = new Promise<void>((resolve) => (go = resolve));
    engine.fault = (call) => (call.startsWith('createChild snap') ? gate : undefined);
    const { snapshot } = await rules.plane.snapshots.create(rules.caller, projectId, branchId, {});
    const { branch } = await restore(snapshot.id, false);
    await waitFor('the snapshot to be begun', async () => engine.calls.includes(`createChild ${snapshot.id}`));
    operations.queue.poke();
    expect(engine.calls).not.toContain(`createChild ${branch.id}`);
    go();
    await atRest();
    expect(engine.timelines.get(branch.id)).toMatchObject({ parentTimelineId: snapshot.id });
  });

  test('to look at first, then finalized: clients are cut once', async () => {
    const id = await take();
    const { branch } = await restore(id, false);
    await atRest();
    expect(engine.timelines.get(branch.id)).toMatchObject({ parentTimelineId: id });
    expect(await rows()).toMatchObject([{ name: 'main' }, { currentState: 'ready', restoreStatus: 'restored' }]);
    const [row] = await rules.catalog.query('select parent_lsn from branches where id = $1', [branch.id]);
    expect(row).toEqual({ parentLsn: null });
    engine.calls.length = 0;
    await rules.plane.snapshots.finalizeRestore(rules.caller, projectId, branch.id, undefined);
    await atRest();
    await expectRestored(branch.id, id);
    const calls = engine.calls.filter((call) => call.endsWith(endpointId) && !call.startsWith('roles'));
    expect(calls).toEqual([`suspend ${endpointId}`, `start ${endpointId}`]);
  });

  test('what SQL changed on the replaced branch is noted there, not on the new one', async () => {
    const id = await take();
    engine.facts.get(branchId)!.roles.push({ name: 'by_sql', verifier: null, canLogin: true });
    engine.facts.get(id)!.roles.push({ name: 'in_snapshot', verifier: null, canLogin: true });
    const { branch } = await restore(id, true);
    await atRest();
    const roles = async (of: string) =>
      (
        await rules.catalog.query<{ name: string }>('select name from roles where branch_id = $1 order by name', [of])
      ).map(({ name }) => name);
    expect(await roles(branchId)).toEqual(['by_sql', 'neondb_owner']);
    expect(await roles(branch.id)).toEqual(['in_snapshot', 'neondb_owner']);
  });

  test('that cannot be made: everything is as before, and the compute never noticed', async () => {
    const id = await take();
    await rules.plane.backupSchedules.set(rules.caller, projectId, branchId, { schedule: [{ frequency: 'daily' }] });
    const before = await rows();
    engine.calls.length = 0;
    engine.fault = (call) => {
      if (call.startsWith('createChild')) throw new AppError('unavailable', 'the pool is full');
    };
    const { branch } = await restore(id, true);
    expect((await endpoint()).branchId).toBe(branch.id);
    await atRest();
    expect(await rows()).toEqual(before);
    expect(await endpoint()).toEqual({ branchId, currentState: 'active', pendingState: null });
    expect(engine.computes.get(endpointId)!.timeline.timelineId).toBe(branchId);
    expect(engine.calls).not.toContain(`suspend ${endpointId}`);
    expect((await statuses()).slice(-3)).toEqual([
      'create_branch failed',
      'suspend_compute skipped',
      'start_compute skipped',
    ]);
    expect(engine.timelines.has(branch.id)).toBe(false);
    expect((await rules.plane.backupSchedules.get(rules.caller, projectId, branchId)).schedule).toHaveLength(1);
    // Nothing is left that would be in the way of another try.
    engine.fault = () => undefined;
    const again = await restore(id, true);
    await atRest();
    await expectRestored(again.branch.id, id);
  });

  test('a wake in the middle of it ends on the new data', async () => {
    const id = await take();
    await rules.plane.endpoints.suspend(rules.caller, projectId, endpointId);
    await atRest();
    const access = createProxyAccess({
      catalog: rules.catalog,
      queue: operations.queue,
      compute: {
        address: (one) => engine.supervisor.address(one),
        onceStarted: () => () => undefined,
        noteConnections: () => undefined,
        maxConnections: () => 104,
        refreshRoles: async () => false,
        past: { reach: () => Promise.reject(new Error('not asked for')), noteConnections: () => undefined },
      },
      logger: silentLogger(),
    });
    // Known from before, and stale from the request on.
    const known = (await access.endpoint(endpointId))!;
    let go!: () => void;
    const gate = new Promise<void>((resolve) => (go = resolve));
    engine.fault = (call) => (call.startsWith('createChild') ? gate : undefined);
    const { branch } = await restore(id, true);
    const woken = access.wake(known, { signal: AbortSignal.timeout(60_000) });
    await waitFor('the wake', async () => (await endpoint()).pendingState === 'active');
    expect(engine.computes.size).toBe(0);
    go();
    await woken;
    await atRest();
    await expectRestored(branch.id, id);
  });
});

describe('a fault at each step of a restore', () => {
  /** Every call of the engine that the work makes when nothing goes wrong, in order. */
  const steps = async (): Promise<number> => {
    const id = await take();
    engine.calls.length = 0;
    await restore(id, true);
    await atRest();
    return engine.calls.length;
  };

  test('that goes away', async () => {
    const count = await steps();
    expect(count).toBeGreaterThanOrEqual(4);
    for (let step = 0; step < count; step += 1) {
      await renew();
      const id = await take();
      let calls = 0;
      engine.fault = () => {
        if (calls++ === step) throw new Error('once');
      };
      const { branch } = await restore(id, true);
      await atRest();
      engine.fault = () => undefined;
      await expectRestored(branch.id, id);
    }
  }, 120_000);

  test('that is the end of the process', async () => {
    const count = await steps();
    for (let step = 0; step < count; step += 1) {
      await renew();
      const id = await take();
      let calls = 0;
      const never = new Promise<void>(() => undefined);
      let stuck!: () => void;
      const died = new Promise<void>((resolve) => (stuck = resolve));
      engine.fault = () => {
        if (calls++ !== step) return undefined;
        stuck();
        return never;
      };
      const { branch } = await restore(id, true);
      await died;
      engine.fault = () => undefined;
      // Another process takes over what the dead one had begun.
      ends.push(operations.stop());
      operations = makeTestOperations({ catalog: rules.catalog, engine });
      await operations.runner.start();
      await atRest();
      await expectRestored(branch.id, id);
    }
  }, 120_000);

  /** A new project in the place of the one that has been used. */
  async function renew(): Promise<void> {
    await rules.catalog.query(`update projects set node_id = 'another'`);
    const made = await rules.plane.projects.create(rules.caller, { project: {} });
    projectId = made.project.id;
    branchId = made.branch.id;
    endpointId = made.endpoints[0]!.id;
    await rules.catalog.query('update projects set node_id = $2 where id = $1', [projectId, TEST_NODE]);
    await atRest();
  }
});
