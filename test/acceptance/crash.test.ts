/**
 * kill -9 of Ballast at random moments of create project, create branch, start, suspend and delete. After a restart
 * everything converges: every operation ends well, directories and Postgres processes are exactly those of the branches
 * and active endpoints that the API knows, and committed rows are there.
 *
 * BALLAST_TEST_SEED repeats a run's moments.
 */
import path from 'node:path';
import { realpath } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { childPlace, type Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { query } from '../support/sql.ts';
import { waitFor } from '../support/wait.ts';

const ROUNDS = 4;
const LATEST_KILL_MS = 400;
const seed = Number(process.env['BALLAST_TEST_SEED'] ?? Date.now() % 1_000_000);

let ballast: Ballast;
let parent: Place;
let acknowledged = 0;

beforeAll(async () => {
  ballast = await Ballast.boot();
  parent = await ballast.api.createProject({ name: 'survivor' });
  await query(parent.uri, 'create table ledger (n int primary key)');
}, 300_000);

afterAll(async () => {
  await ballast?.destroy();
});

/** Numerical Recipes' generator: enough to spread the moments, and the same for the same seed. */
function randomMoments(start: number): () => number {
  let state = start >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

async function commit(): Promise<void> {
  await query(parent.uri, 'insert into ledger values ($1)', [acknowledged + 1]);
  acknowledged += 1;
}

interface Known {
  branches: { id: string; projectId: string; state: string; pending: string | undefined }[];
  endpoints: { id: string; branchId: string; projectId: string; state: string; pending: string | undefined }[];
}

async function everything(): Promise<Known> {
  const { projects } = await ballast.api.call('GET', '/projects?limit=400');
  const known: Known = { branches: [], endpoints: [] };
  for (const { id: projectId } of projects as { id: string }[]) {
    const { branches } = await ballast.api.call('GET', `/projects/${projectId}/branches?limit=1000`);
    for (const branch of branches) {
      known.branches.push({ id: branch.id, projectId, state: branch.current_state, pending: branch.pending_state });
    }
    const { endpoints } = await ballast.api.call('GET', `/projects/${projectId}/endpoints`);
    for (const endpoint of endpoints) {
      const { id, branch_id: branchId, current_state: state, pending_state: pending } = endpoint;
      known.endpoints.push({ id, branchId, projectId, state, pending });
    }
  }
  return known;
}

/** Timelines in whose data directory a Postgres runs, as `<project>/<branch>`. */
async function runningTimelines(): Promise<string[]> {
  const pool = await realpath(ballast.pool);
  const found = new Set<string>();
  for (const { cwd } of await ballast.postgresProcesses()) {
    if (!cwd.startsWith(`${pool}/`)) continue;
    const [project, branch] = path.relative(pool, cwd).split('/');
    found.add(`${project}/${branch}`);
  }
  return [...found].toSorted();
}

async function expectConverged(): Promise<void> {
  const known = await waitFor(
    'every operation and transition to end',
    async () => {
      const now = await everything();
      const waiting = [...now.branches, ...now.endpoints].some((each) => each.pending !== undefined);
      if (waiting || now.branches.some((branch) => branch.state === 'init')) return undefined;
      const projectIds = new Set(now.branches.map((branch) => branch.projectId));
      for (const projectId of projectIds) {
        if ((await ballast.api.unfinished(projectId)).length > 0) return undefined;
      }
      return now;
    },
    { timeoutMs: 60_000 },
  );
  for (const projectId of new Set(known.branches.map((branch) => branch.projectId))) {
    const { operations } = await ballast.api.call('GET', `/projects/${projectId}/operations?limit=1000`);
    const bad = operations.filter(
      (operation: { status: string }) => !['finished', 'skipped'].includes(operation.status),
    );
    expect(bad).toEqual([]);
  }
  // A branch that was restored has a timeline of another name, so they are counted. Deleted projects keep their data.
  const wanted = known.branches.map((branch) => branch.projectId).toSorted();
  const poll = { timeout: 60_000, interval: 50 };
  const there = async () => {
    const { projects } = await ballast.api.call('GET', '/projects?recoverable=true&limit=400');
    const deleted = new Set((projects as { id: string }[]).map(({ id }) => id));
    const owners = (await ballast.timelineDirectories()).map((directory) => directory.split('/')[0]!);
    return owners.filter((id) => !deleted.has(id)).toSorted();
  };
  await expect.poll(there, poll).toEqual(wanted);
  const active = known.endpoints.filter((endpoint) => endpoint.state === 'active');
  const running = async () => (await runningTimelines()).map((timeline) => timeline.split('/')[0]!).toSorted();
  await expect.poll(running, poll).toEqual(active.map((endpoint) => endpoint.projectId).toSorted());
}

async function expectCommitted(): Promise<void> {
  const rows = await query(parent.uri, 'select n from ledger order by n');
  const held = rows.map((row) => row.n as number);
  expect(held.slice(0, acknowledged)).toEqual(Array.from({ length: acknowledged }, (_, index) => index + 1));
  // One more may be there: committed, but not acknowledged when the machine's plug was pulled.
  acknowledged = held.length;
}

const branchesPath = () => `/projects/${parent.projectId}/branches`;
const newBranch = () =>
  ballast.api.call('POST', branchesPath(), {
    branch: { parent_id: parent.branchId },
    endpoints: [{ type: 'read_write' }],
  });

/** Each prepares in peace and gives the request in whose middle the kill comes. */
const ACTIONS: Record<string, () => Promise<() => Promise<unknown>>> = {
  'create project': async () => () => ballast.api.call('POST', '/projects', { project: { name: 'newcomer' } }),
  'create branch of a running parent': async () => {
    await commit();
    return newBranch;
  },
  'create branch of a suspended parent': async () => {
    await commit();
    await ballast.api.suspend(parent);
    return newBranch;
  },
  start: async () => {
    await ballast.api.suspend(parent);
    return () => commit();
  },
  suspend: async () => {
    await commit();
    return () => ballast.api.call('POST', `${ballast.api.endpointPath(parent)}/suspend`);
  },
  'delete branch': async () => {
    const created = await newBranch();
    await ballast.api.settle(created);
    return () => ballast.api.call('DELETE', `${branchesPath()}/${created.branch.id}?hard_delete=true`);
  },
  'reset branch': async () => {
    const created = await newBranch();
    await ballast.api.settle(created);
    await commit();
    return () => ballast.api.call('POST', `${branchesPath()}/${created.branch.id}/reset_to_parent`);
  },
  'restore branch': async () => {
    const created = await newBranch();
    await ballast.api.settle(created);
    const { id, parent_lsn: lsn } = (await ballast.api.call('GET', `${branchesPath()}/${created.branch.id}`)).branch;
    const body = { source_branch_id: id, source_lsn: lsn, preserve_under_name: `before ${id}` };
    return () => ballast.api.call('POST', `${branchesPath()}/${id}/restore`, body);
  },
  'delete project': async () => {
    const place = await ballast.api.createProject({ name: 'goner' });
    return () => ballast.api.call('DELETE', `/projects/${place.projectId}`);
  },
  'create role and database': async () => {
    const created = await newBranch();
    await ballast.api.settle(created);
    const at = `${branchesPath()}/${childPlace(parent, created).branchId}`;
    return async () => {
      await ballast.api.call('POST', `${at}/roles`, { role: { name: 'r' } });
      await ballast.api.call('POST', `${at}/databases`, { database: { name: 'd', owner_name: 'r' } });
    };
  },
};

test.each(Object.keys(ACTIONS))(
  'kill -9 in the middle of %s',
  async (name) => {
    expect.hasAssertions();
    const random = randomMoments(seed + Object.keys(ACTIONS).indexOf(name) * 7919);
    for (let round = 0; round < ROUNDS; round++) {
      const act = await ACTIONS[name]!();
      const killAfterMs = Math.floor(random() * LATEST_KILL_MS);
      const acting = act().catch(() => undefined);
      // The moment itself is what is being varied: this pause waits for nothing.
      await pause(killAfterMs);
      await ballast.kill9();
      await acting;
      await ballast.start();
      try {
        await expectConverged();
        await expectCommitted();
      } catch (error) {
        throw new Error(`killed ${killAfterMs} ms into "${name}" (seed ${seed}, round ${round})`, { cause: error });
      }
    }
    await removeNewcomers();
  },
  600_000,
);

test('after all that it stops cleanly and starts again', async () => {
  expect.hasAssertions();
  await ballast.stop();
  await ballast.start();
  await expectCommitted();
  await expectConverged();
});

/** One that was restored is a child of its backup. */
async function removeBranch(id: string): Promise<void> {
  const { branches } = await ballast.api.call('GET', `${branchesPath()}?limit=1000`);
  for (const child of branches as { id: string; parent_id?: string }[]) {
    if (child.parent_id === id) await removeBranch(child.id);
  }
  await ballast.api.callAndSettle('DELETE', `${branchesPath()}/${id}?hard_delete=true`);
}

/** Everything but the parent, so that the rounds stay short. */
async function removeNewcomers(): Promise<void> {
  const { projects } = await ballast.api.call('GET', '/projects?limit=400');
  for (const { id } of projects as { id: string }[]) {
    if (id !== parent.projectId) await ballast.api.call('DELETE', `/projects/${id}`);
  }
  const { branches } = await ballast.api.call('GET', `${branchesPath()}?limit=1000`);
  for (const { id } of branches as { id: string }[]) {
    if (id !== parent.branchId) await removeBranch(id);
  }
  await expectConverged();
}
