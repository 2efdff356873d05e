import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { insertBranch, insertProject, type TestBranch } from '../../test/support/catalog-rows.ts';
import { openTestCatalog, type TestCatalog } from '../../test/support/catalog.ts';
import { CatalogDatabase } from '../catalog/database.ts';
import { claimOperations, listOperations } from '../catalog/operations.ts';
import type { OperationAction, OperationRow, Queryable } from '../catalog/types.ts';
import { AppError } from '../lib/errors.ts';
import { silentLogger } from '../lib/log.ts';
import { createQueue, hasEnded, type RunnerQueue } from './queue.ts';
import { Runner, type RunnerLimits } from './runner.ts';
import type { Action, NewOperation } from './types.ts';

const logger = silentLogger();
const NODE = 'node-test';
const ACTIONS: readonly OperationAction[] = [
  'create_timeline',
  'create_branch',
  'delete_timeline',
  'start_compute',
  'suspend_compute',
  'apply_config',
  'sync_dbs_and_roles_from_compute',
];

let db: TestCatalog;
let projectId: string;
let runners: Runner[] = [];
let queues: RunnerQueue[] = [];

beforeAll(async () => {
  db = await openTestCatalog();
});
afterAll(() => db.close());
beforeEach(async () => {
  ({ projectId } = await insertProject(db.catalog, NODE));
});
afterEach(async () => {
  await Promise.all(runners.map((runner) => runner.drain(2_000)));
  for (const queue of queues) queue.close();
  [runners, queues] = [[], []];
  await db.catalog.query('truncate operations');
});

/** One behaviour for every action. */
function allActions(action: Partial<Action>): Record<OperationAction, Action> {
  const whole: Action = { run: async () => undefined, undo: async () => undefined, ...action };
  return Object.fromEntries(ACTIONS.map((name) => [name, whole])) as Record<OperationAction, Action>;
}

function makeQueue(): RunnerQueue {
  const queue = createQueue({ catalog: db.catalog });
  queues.push(queue);
  return queue;
}

async function startRunner(
  action: Partial<Action>,
  options: { queue?: RunnerQueue; limits?: Partial<RunnerLimits>; nodeId?: string } = {},
) {
  const queue = options.queue ?? makeQueue();
  const runner = new Runner({
    catalog: db.catalog,
    queue,
    actions: allActions(action),
    nodeId: options.nodeId ?? NODE,
    logger,
    limits: { retryBaseMs: 5, retryMaxMs: 40, ...options.limits },
  });
  runners.push(runner);
  await runner.start();
  return { runner, queue };
}

async function append(queue: RunnerQueue, operations: NewOperation[]): Promise<OperationRow[]> {
  const rows = await db.catalog.transaction((tx) => queue.append(tx, operations));
  queue.poke();
  return rows;
}

const on = (branch: TestBranch, action: OperationAction = 'apply_config'): NewOperation => ({ ...branch, action });
const ended = (queue: RunnerQueue, rows: readonly OperationRow[]) =>
  Promise.all(rows.map((row) => queue.ended(row.id, AbortSignal.timeout(60_000))));

describe('append', () => {
  test('answers the first of a branch as running and the rest as scheduling, in order', async () => {
    const queue = makeQueue();
    const [a, b] = [await insertBranch(db.catalog, projectId), await insertBranch(db.catalog, projectId)];
    const first = await append(queue, [on(a, 'create_timeline'), on(a, 'start_compute'), on(b, 'create_branch')]);
    expect(first.map((row) => [row.action, row.status])).toEqual([
      ['create_timeline', 'running'],
      ['start_compute', 'scheduling'],
      ['create_branch', 'running'],
    ]);
    expect(first[0]).toMatchObject({
      ...a,
      failuresCount: 0,
      error: null,
      startedAt: null,
      finishedAt: null,
      payload: {},
    });
    expect(first[0]).not.toHaveProperty('pgNotify');
    expect((await append(queue, [on(a)]))[0]!.status).toBe('scheduling');
    const listed = await listOperations(db.catalog, { projectId, limit: 10 });
    expect(listed.map((row) => row.action)).toEqual([
      'apply_config',
      'create_branch',
      'start_compute',
      'create_timeline',
    ]);
    expect(new Set(listed.map((row) => row.createdAt)).size).toBe(4);
    const page = await listOperations(db.catalog, { projectId, limit: 2, before: listed[1]!.createdAt });
    expect(page.map((row) => row.id)).toEqual(listed.slice(2).map((row) => row.id));
  });

  test('belongs to the transaction: a rollback leaves no operation', async () => {
    const queue = makeQueue();
    const branch = await insertBranch(db.catalog, projectId);
    const failure = db.catalog.transaction(async (tx) => {
      await queue.append(tx, [on(branch)]);
      throw new Error('rules say no');
    });
    await expect(failure).rejects.toThrow('rules say no');
    expect(await listOperations(db.catalog, { projectId, limit: 10 })).toEqual([]);
  });
});

describe('order', () => {
  test('operations of one branch run one after another in order; branches run in parallel', async () => {
    const branches = await Promise.all(Array.from({ length: 4 }, () => insertBranch(db.catalog, projectId)));
    const order: number[] = [];
    const active = new Map<string, number>();
    let together = 0;
    let allAtWork!: () => void;
    const atWork = new Promise<void>((resolve) => (allAtWork = resolve));
    const { queue } = await startRunner({
      run: async (operation) => {
        const here = (active.get(operation.branchId!) ?? 0) + 1;
        active.set(operation.branchId!, here);
        expect(here).toBe(1);
        together = Math.max(
          together,
          [...active.values()].reduce((sum, count) => sum + count),
        );
        order.push(operation.seq);
        // The first of each branch waits for the first of every other: it would wait for ever if they took turns.
        if (together === branches.length) allAtWork();
        await atWork;
        active.set(operation.branchId!, here - 1);
      },
    });
    const rows: OperationRow[] = [];
    for (let round = 0; round < 5; round += 1) {
      for (const branch of branches) rows.push(...(await append(queue, [on(branch, ACTIONS[round]!)])));
    }
    const results = await ended(queue, rows);
    expect(results.every((row) => row.status === 'finished' && row.finishedAt !== null && row.startedAt !== null)).toBe(
      true,
    );
    expect(together).toBe(4);
    for (const branch of branches) {
      const mine = rows.filter((row) => row.branchId === branch.branchId).map((row) => row.seq);
      expect(order.filter((seq) => mine.includes(seq))).toEqual(mine);
    }
  });

  test('a waiting retry holds back what is behind it on its branch', async () => {
    const branch = await insertBranch(db.catalog, projectId);
    const ran: string[] = [];
    let failed = false;
    const { queue } = await startRunner({
      run: async (operation) => {
        ran.push(operation.action);
        if (operation.action === 'start_compute' && !failed) {
          failed = true;
          throw new AppError('unavailable', 'not now');
        }
      },
    });
    await ended(queue, await append(queue, [on(branch, 'start_compute'), on(branch, 'apply_config')]));
    expect(ran).toEqual(['start_compute', 'start_compute', 'apply_config']);
  });

  test('a branch is created after its parent, retries and failures of that included, and waits for nothing else', async () => {
    const root = await insertBranch(db.catalog, projectId, { branchState: 'init' });
    const parent = await insertBranch(db.catalog, projectId, { parentId: root.branchId, branchState: 'init' });
    const child = await insertBranch(db.catalog, projectId, { parentId: parent.branchId, branchState: 'init' });
    const order: string[] = [];
    const names = new Map(
      [root, parent, child].map(({ branchId }, index) => [branchId, ['root', 'parent', 'child'][index]]),
    );
    let unlock!: () => void;
    const childEnded = new Promise<void>((resolve) => (unlock = resolve));
    let retried = false;
    const { queue } = await startRunner({
      run: async ({ action, branchId }) => {
        order.push(`${names.get(branchId!)} ${action}`);
        if (action === 'start_compute') return childEnded;
        if (branchId === root.branchId && !retried) {
          retried = true;
          throw new AppError('unavailable', 'not now');
        }
        if (branchId === parent.branchId) throw new AppError('unprocessable', 'never');
      },
    });
    const rows = await append(queue, [
      on(root, 'create_timeline'),
      on(parent, 'create_branch'),
      on(parent, 'start_compute'),
      on(child, 'create_branch'),
    ]);
    const [made, refused, last] = await ended(queue, [rows[0]!, rows[1]!, rows[3]!]);
    unlock();
    await ended(queue, rows);
    expect([made, refused, last].map((row) => row!.status)).toEqual(['finished', 'failed', 'finished']);
    expect(order.filter((step) => !step.endsWith('start_compute'))).toEqual([
      'root create_timeline',
      'root create_timeline',
      'parent create_branch',
      'child create_branch',
    ]);
  });

  test('branches that were deleted before they were made hold nobody up', async () => {
    const parent = await insertBranch(db.catalog, projectId, { branchState: 'init' });
    const child = await insertBranch(db.catalog, projectId, { parentId: parent.branchId, branchState: 'init' });
    await db.catalog.query('update branches set deleted_at = now()');
    const { queue } = await startRunner({});
    const rows = await append(queue, [
      on(parent, 'create_branch'),
      on(child, 'create_branch'),
      on(parent, 'delete_timeline'),
      on(child, 'delete_timeline'),
    ]);
    const statuses = (await ended(queue, rows)).map((row) => row.status);
    expect(statuses).toEqual(['skipped', 'skipped', 'finished', 'finished']);
  });

  test('a runner leaves the operations of other nodes alone', async () => {
    const branch = await insertBranch(db.catalog, projectId);
    const { queue } = await startRunner({}, { nodeId: 'node-other' });
    const [row] = await append(queue, [on(branch)]);
    await expect(queue.ended(row!.id, AbortSignal.timeout(150))).rejects.toThrow(/timeout/i);
  });

  test('work on timelines never takes the slots of computes', async () => {
    const branches = await Promise.all(Array.from({ length: 6 }, () => insertBranch(db.catalog, projectId)));
    let release!: () => void;
    const held = new Promise<void>((resolve) => (release = resolve));
    const { queue } = await startRunner(
      { run: (operation) => (operation.action === 'create_branch' ? held : Promise.resolve()) },
      { limits: { timelineSlots: 2 } },
    );
    const copies = await append(
      queue,
      branches.slice(0, 5).map((branch) => on(branch, 'create_branch')),
    );
    const wake = await append(queue, [on(branches[5]!, 'start_compute')]);
    expect((await ended(queue, wake))[0]!.status).toBe('finished');
    const leased = await db.catalog.query('select 1 from operations where lease_owner is not null');
    expect(leased).toHaveLength(2);
    release();
    await ended(queue, copies);
  });
});

describe('failures', () => {
  test('unknown errors are retried with growing pauses, then undone, without telling users what broke', async () => {
    const branch = await insertBranch(db.catalog, projectId);
    const times: number[] = [];
    const undone: string[] = [];
    const { queue } = await startRunner(
      {
        run: async () => {
          times.push(performance.now());
          throw new Error('disk on fire at /secret/path');
        },
        undo: async (operation) => {
          undone.push(operation.id);
          return {
            transition: async (tx) =>
              void (await tx.query(`update endpoints set name = 'undone' where id = $1`, [branch.endpointId])),
          };
        },
      },
      { limits: { tries: 4, retryBaseMs: 40, retryMaxMs: 1_000 } },
    );
    const [result] = await ended(queue, await append(queue, [on(branch)]));
    expect(result).toMatchObject({
      status: 'failed',
      failuresCount: 4,
      error: 'internal error; the log of Ballast has the details',
    });
    expect(undone).toEqual([result!.id]);
    expect(await db.catalog.query('select name from endpoints where id = $1', [branch.endpointId])).toEqual([
      { name: 'undone' },
    ]);
    const pauses = times.slice(1).map((time, index) => time - times[index]!);
    expect(pauses).toHaveLength(3);
    expect(pauses[0]).toBeGreaterThanOrEqual(29);
    expect(pauses[2]).toBeGreaterThan(pauses[0]! * 2);
  });

  test('what cannot get better fails at once, with its own text', async () => {
    const branch = await insertBranch(db.catalog, projectId);
    let runs = 0;
    const { queue } = await startRunner({
      run: async () => {
        runs += 1;
        throw new AppError('unprocessable', 'this setting is refused');
      },
    });
    const [result] = await ended(queue, await append(queue, [on(branch)]));
    expect(result).toMatchObject({ status: 'failed', failuresCount: 1, error: 'this setting is refused' });
    expect(runs).toBe(1);
  });

  test('while a retry waits, the row says why and since when', async () => {
    const branch = await insertBranch(db.catalog, projectId);
    const { queue } = await startRunner(
      { run: () => Promise.reject(new AppError('unavailable', 'the pool is full')) },
      { limits: { retryBaseMs: 3_600_000, retryMaxMs: 3_600_000 } },
    );
    await append(queue, [on(branch)]);
    const read = async () => (await listOperations(db.catalog, { projectId, limit: 1 }))[0]!;
    await expect.poll(async () => (await read()).failuresCount).toBe(1);
    const row = await read();
    expect(row).toMatchObject({ status: 'scheduling', error: 'the pool is full' });
    expect(Date.parse(row.retryAt!) - Date.now()).toBeGreaterThan(600_000);
  });

  test('an undo that throws still ends the operation', async () => {
    const branch = await insertBranch(db.catalog, projectId);
    const { queue } = await startRunner({
      run: () => Promise.reject(new AppError('invalid', 'no')),
      undo: () => Promise.reject(new Error('worse')),
    });
    expect((await ended(queue, await append(queue, [on(branch)])))[0]).toMatchObject({ status: 'failed', error: 'no' });
  });

  test('a transition that fails rolls the end back, and the run is tried again', async () => {
    const branch = await insertBranch(db.catalog, projectId);
    let runs = 0;
    const { queue } = await startRunner({
      run: async () => {
        runs += 1;
        const text = runs === 1 ? 'select 1/0' : 'select 1';
        return { transition: async (tx) => void (await tx.query(text)) };
      },
    });
    const [result] = await ended(queue, await append(queue, [on(branch)]));
    expect(result).toMatchObject({ status: 'finished', failuresCount: 1 });
    expect(runs).toBe(2);
  });

  test('transitions that always fail end the operation all the same', async () => {
    const branch = await insertBranch(db.catalog, projectId);
    const broken = async () => ({ transition: async (tx: Queryable) => void (await tx.query('select 1/0')) });
    const { queue } = await startRunner({ run: broken, undo: broken }, { limits: { tries: 2 } });
    const [result] = await ended(queue, await append(queue, [on(branch)]));
    expect(result).toMatchObject({ status: 'failed', failuresCount: 2 });
  });
});

describe('deleted things', () => {
  test('operations on them are skipped, except those that delete', async () => {
    const branch = await insertBranch(db.catalog, projectId);
    await db.catalog.query('update branches set deleted_at = now() where id = $1', [branch.branchId]);
    const ran: string[] = [];
    const { queue } = await startRunner({ run: async (operation) => void ran.push(operation.action) });
    const rows = await append(
      queue,
      (['start_compute', 'apply_config', 'suspend_compute', 'delete_timeline'] as const).map((action) =>
        on(branch, action),
      ),
    );
    expect((await ended(queue, rows)).map((row) => row.status)).toEqual(['skipped', 'skipped', 'finished', 'finished']);
    expect(ran).toEqual(['suspend_compute', 'delete_timeline']);
  });

  test('an action may say itself that there was nothing to do', async () => {
    const branch = await insertBranch(db.catalog, projectId);
    const { queue } = await startRunner({ run: async () => ({ skip: true }) });
    expect((await ended(queue, await append(queue, [on(branch)])))[0]!.status).toBe('skipped');
  });
});

describe('crashes', () => {
  /** Claims as a runner would and then never says anything again. */
  const claimAndDie = (owner: string, leaseMs: number, tx: Queryable = db.catalog) =>
    claimOperations(tx, { owner, leaseMs, nodeId: NODE, actions: ACTIONS, limit: 10 });

  test('a runner that starts takes over what its predecessor held, at once', async () => {
    const branch = await insertBranch(db.catalog, projectId);
    const queue = makeQueue();
    const rows = await append(queue, [on(branch), on(branch, 'start_compute')]);
    expect(await claimAndDie('node-test/dead', 3_600_000)).toHaveLength(1);
    // Long before the lease, which is an hour.
    await startRunner({}, { queue });
    expect((await ended(queue, rows)).map((row) => row.status)).toEqual(['finished', 'finished']);
  });

  test('a lease that ran out is taken over by whoever looks next', async () => {
    const branch = await insertBranch(db.catalog, projectId);
    const { queue } = await startRunner({}, { limits: { pollMs: 50 } });
    // Before the runner can see it.
    const rows = await db.catalog.transaction(async (tx) => {
      const appended = await queue.append(tx, [on(branch)]);
      expect(await claimAndDie('node-test/other', 200, tx)).toHaveLength(1);
      return appended;
    });
    queue.poke();
    expect((await ended(queue, rows))[0]!.status).toBe('finished');
  });

  test('an end comes too late after the lease was lost: nothing of it is written', async () => {
    const branch = await insertBranch(db.catalog, projectId);
    let release!: () => void;
    const held = new Promise<void>((resolve) => (release = resolve));
    const { runner, queue } = await startRunner({
      run: async () => {
        await held;
        return {
          transition: async (tx) =>
            void (await tx.query(`update endpoints set name = 'late' where id = $1`, [branch.endpointId])),
        };
      },
    });
    const [row] = await append(queue, [on(branch)]);
    await expect
      .poll(async () => (await db.catalog.query('select 1 from operations where lease_owner is not null')).length)
      .toBe(1);
    await db.catalog.query(
      `update operations set lease_owner = 'somebody-else', lease_until = now() + interval '1 hour' where id = $1`,
      [row!.id],
    );
    release();
    await expect.poll(() => runner.idle).toBe(true);
    expect(await db.catalog.query('select name from endpoints where id = $1', [branch.endpointId])).toEqual([
      { name: null },
    ]);
    expect((await listOperations(db.catalog, { projectId, limit: 1 }))[0]!.status).toBe('running');
  });

  test('a lost lease aborts the work; long work keeps its lease', async () => {
    const [lost, kept] = [await insertBranch(db.catalog, projectId), await insertBranch(db.catalog, projectId)];
    const aborted: string[] = [];
    const { queue } = await startRunner(
      {
        run: (operation, signal) =>
          new Promise((resolve, reject) => {
            if (operation.branchId === kept.branchId) setTimeout(() => resolve(), 6_000);
            signal.addEventListener('abort', () => {
              aborted.push(operation.branchId!);
              reject(signal.reason as Error);
            });
          }),
      },
      { limits: { leaseMs: 2_500 } },
    );
    const rows = await append(queue, [on(lost), on(kept)]);
    await expect
      .poll(async () => (await db.catalog.query('select 1 from operations where lease_owner is not null')).length)
      .toBe(2);
    await db.catalog.query(
      `update operations set lease_owner = 'somebody-else', lease_until = now() + interval '1 hour' where id = $1`,
      [rows[0]!.id],
    );
    expect((await ended(queue, [rows[1]!]))[0]).toMatchObject({ status: 'finished', failuresCount: 0 });
    expect(aborted).toEqual([lost.branchId]);
  });

  test('draining waits for what runs, gives back what takes too long, and claims nothing more', async () => {
    const [quick, slow, waiting] = [
      await insertBranch(db.catalog, projectId),
      await insertBranch(db.catalog, projectId),
      await insertBranch(db.catalog, projectId),
    ];
    let finishQuick!: () => void;
    const { runner, queue } = await startRunner({
      run: (operation, signal) =>
        new Promise((resolve, reject) => {
          if (operation.branchId === quick.branchId) finishQuick = () => resolve();
          signal.addEventListener('abort', () => reject(signal.reason as Error));
        }),
    });
    const rows = await append(queue, [on(quick), on(slow)]);
    await expect
      .poll(async () => (await db.catalog.query('select 1 from operations where lease_owner is not null')).length)
      .toBe(2);
    await expect.poll(() => finishQuick).toBeDefined();
    const draining = runner.drain(3_000);
    finishQuick();
    rows.push(...(await append(queue, [on(waiting)])));
    await draining;
    const states = await db.catalog.query('select status, lease_owner, failures_count from operations order by seq');
    expect(states).toEqual([
      { status: 'finished', leaseOwner: null, failuresCount: 0 },
      { status: 'running', leaseOwner: null, failuresCount: 0 },
      { status: 'running', leaseOwner: null, failuresCount: 0 },
    ]);
    await startRunner({}, { queue });
    expect((await ended(queue, rows)).every((row) => row.status === 'finished')).toBe(true);
  });

  test('dying between any two steps, every operation still ends exactly once', async () => {
    const branches = await Promise.all(Array.from({ length: 10 }, () => insertBranch(db.catalog, projectId)));
    const queue = makeQueue();
    const chain = ['create_branch', 'start_compute', 'apply_config'] as const;
    const rows = await append(
      queue,
      branches.flatMap((branch) => chain.map((action) => on(branch, action))),
    );
    await db.catalog.query('create table endings (operation_id uuid primary key)');
    const end = (operation: OperationRow) => ({
      transition: async (tx: Queryable) => void (await tx.query('insert into endings values ($1)', [operation.id])),
    });
    let ran = 0;
    for (let life = 0; life < 12; life += 1) {
      // This process dies at its n-th statement, wherever that is: claiming, reading, committing the end.
      const mortal = mortalCatalog(`mortal-${life}`, 2 + Math.floor(Math.random() * 25));
      const runner = new Runner({
        catalog: mortal.catalog,
        queue: createQueue({ catalog: mortal.catalog }),
        nodeId: NODE,
        logger,
        actions: allActions({
          run: async (operation) => {
            ran += 1;
            return end(operation);
          },
        }),
      });
      runner.start().catch(() => undefined);
      await mortal.died;
    }
    expect(ran).toBeGreaterThan(0);
    await startRunner({ run: async (operation) => end(operation) }, { queue });
    const results = await ended(queue, rows);
    expect(results.every((row) => row.status === 'finished')).toBe(true);
    expect(await db.catalog.query('select count(*) as count from endings')).toEqual([{ count: rows.length }]);
  });

  /** The catalog as a process sees it that is killed at its `steps`-th statement: the server ends its sessions, and nothing ever answers. */
  function mortalCatalog(name: string, steps: number): { catalog: CatalogDatabase; died: Promise<void> } {
    const real = new CatalogDatabase({ connection: db.connection, logger, name });
    let left = steps;
    let dead!: () => void;
    const died = new Promise<void>((resolve) => (dead = resolve)).then(async () => {
      // Waits until they are gone: what they were doing is then either committed or not.
      await db.catalog.query(
        'select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = $1',
        [name],
      );
    });
    // One that has nothing left to do is killed as well.
    setTimeout(() => {
      left = 0;
      dead();
    }, 1_000);
    const step = async (): Promise<void> => {
      left -= 1;
      if (left === 0) dead();
      if (left <= 0) await new Promise(() => undefined);
    };
    const catalog = {
      query: async (...args: Parameters<CatalogDatabase['query']>) => {
        await step();
        return real.query(...args);
      },
      transaction: async <T>(work: (tx: Queryable) => Promise<T>) => {
        await step();
        return real.transaction(async (tx) => {
          const result = await work({
            query: async (text, values, statement) => {
              await step();
              return tx.query(text, values, statement);
            },
          });
          await step();
          return result;
        });
      },
      listen: () => ({ close: async () => undefined }),
    };
    return { catalog: catalog as unknown as CatalogDatabase, died };
  }
});

describe('many', () => {
  test('200 parallel appends on one project and fifty branches: no deadlock, nothing lost, nothing out of order', async () => {
    const branches = await Promise.all(Array.from({ length: 50 }, () => insertBranch(db.catalog, projectId)));
    const seen = new Map<string, number[]>();
    const { queue } = await startRunner({
      run: async (operation) => {
        seen.set(operation.branchId!, [...(seen.get(operation.branchId!) ?? []), operation.seq]);
        return {
          transition: async (tx) =>
            void (await tx.query('update endpoints set updated_at = now() where branch_id = $1', [operation.branchId])),
        };
      },
    });
    const requests = Array.from({ length: 200 }, (_one, index) =>
      db.catalog
        .transaction(async (tx) => {
          const branch = branches[index % 50]!;
          await tx.query('select 1 from projects where id = $1 for no key update', [projectId]);
          await tx.query(`update endpoints set pending_state = 'active' where id = $1`, [branch.endpointId]);
          return queue.append(tx, [on(branch, 'start_compute'), on(branch, 'suspend_compute')]);
        })
        .then((rows) => {
          queue.poke();
          return rows;
        }),
    );
    const rows = (await Promise.all(requests)).flat();
    const results = await ended(queue, rows);
    expect(results).toHaveLength(400);
    expect(results.every((row) => row.status === 'finished' && row.failuresCount === 0)).toBe(true);
    for (const order of seen.values()) {
      expect(order).toHaveLength(8);
      expect(order).toEqual([...order].sort((a, b) => a - b));
    }
  });

  /** Claims, and counts what that read of operations. What the session did before may not have been reported yet. */
  async function countingRows(): Promise<{ claimed: OperationRow[]; rows: number }> {
    return db.catalog.transaction(async (tx) => {
      const count = async () => {
        const [read] = await tx.query<{ rows: number }>(
          `select seq_tup_read + idx_tup_fetch as rows from pg_stat_xact_user_tables where relname = 'operations'`,
        );
        return read!.rows;
      };
      const before = await count();
      const claim = { owner: 'x', leaseMs: 1_000, nodeId: NODE, actions: ACTIONS, limit: 10 };
      const claimed = await claimOperations(tx, claim);
      return { claimed, rows: (await count()) - before };
    });
  }

  async function insertFinished(branch: TestBranch): Promise<void> {
    await db.catalog.query(
      `insert into operations (id, project_id, branch_id, endpoint_id, action, status, finished_at)
       select gen_random_uuid(), $1, $2, $3, 'start_compute', 'finished', now() from generate_series(1, 20000)`,
      [projectId, branch.branchId, branch.endpointId],
    );
    await db.catalog.query('analyze operations');
  }

  test('finished operations cost a claim nothing', async () => {
    const branch = await insertBranch(db.catalog, projectId);
    await insertFinished(branch);
    await append(makeQueue(), [on(branch)]);
    const { claimed, rows } = await countingRows();
    expect(claimed).toHaveLength(1);
    expect(rows).toBeLessThan(50);
  });

  test('children that wait for their parent cost a claim a few rows each', async () => {
    const parent = await insertBranch(db.catalog, projectId, { branchState: 'init' });
    const children = await Promise.all(
      Array.from({ length: 20 }, () => insertBranch(db.catalog, projectId, { parentId: parent.branchId })),
    );
    await insertFinished(parent);
    await append(
      makeQueue(),
      [parent, ...children].map((branch) => on(branch, 'create_branch')),
    );
    const { claimed, rows } = await countingRows();
    expect(claimed.map((row) => row.branchId)).toEqual([parent.branchId]);
    // Among so few, the plan may compare each unfinished one with every other.
    expect(rows).toBeLessThan(2 * children.length ** 2);
  });

  test('an operation is picked up at once, not by the poll, here and by another process', async () => {
    const branch = await insertBranch(db.catalog, projectId);
    const { queue } = await startRunner({}, { limits: { pollMs: 3_600_000 } });
    const laps: number[] = [];
    for (let lap = 0; lap < 30; lap += 1) {
      const begunMs = performance.now();
      await ended(queue, await append(queue, [on(branch)]));
      laps.push(performance.now() - begunMs);
    }
    laps.sort((a, b) => a - b);
    console.info(`append to end: p50 ${laps[15]!.toFixed(1)} ms, p95 ${laps[28]!.toFixed(1)} ms`);
    // Another process appends: NOTIFY tells the runner.
    const elsewhere = makeQueue();
    const [row] = await append(elsewhere, [on(branch)]);
    await expect
      .poll(async () => hasEnded((await listOperations(db.catalog, { projectId, limit: 1 }))[0]!), { interval: 5 })
      .toBe(true);
    expect((await elsewhere.ended(row!.id, AbortSignal.timeout(60_000))).status).toBe('finished');
  });
});

describe('ended', () => {
  test('finds an end that happened before and one that happens in another process, and can be given up', async () => {
    const branch = await insertBranch(db.catalog, projectId);
    const { queue } = await startRunner({});
    const [row] = await append(queue, [on(branch)]);
    await ended(queue, [row!]);
    expect((await queue.ended(row!.id, AbortSignal.timeout(60_000))).status).toBe('finished');
    const elsewhere = makeQueue();
    const [next] = await db.catalog.transaction((tx) => elsewhere.append(tx, [on(branch)]));
    const waiting = elsewhere.ended(next!.id, AbortSignal.timeout(60_000));
    expect((await waiting).status).toBe('finished');
    await expect(elsewhere.ended('00000000-0000-4000-8000-000000000000', AbortSignal.timeout(50))).rejects.toThrow(
      /timeout/i,
    );
  });
});
