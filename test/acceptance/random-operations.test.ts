/**
 * Branches are made, written, restored, reset, deleted and had back at random, and after each step every branch that was
 * touched holds exactly what a model of it says. BALLAST_TEST_SEED repeats a run.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { childPlace, type Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { query } from '../support/sql.ts';

const STEPS = 40;
const MOST_BRANCHES = 8;

let ballast: Ballast;
let main: Place;
let nextRow = 1;
const seed = Number(process.env['BALLAST_TEST_SEED'] ?? Date.now() % 1_000_000);

/** What a branch held, and from when on (as the database's clock has it). */
interface State {
  since: string;
  rows: readonly number[];
}

interface Branch {
  place: Place;
  /** Ids: what the API must say. */
  parent: string | undefined;
  name: string;
  /** Oldest first; of its present timeline. */
  history: State[];
  readOnly?: Place;
}

const branches = new Map<string, Branch>();

beforeAll(async () => {
  ballast = await Ballast.boot();
}, 300_000);

afterAll(async () => {
  await ballast?.destroy();
});

/** xorshift: the same numbers for the same seed. */
function makeRandom(state: number): () => number {
  let x = state || 1;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) / 2 ** 32;
  };
}
const random = makeRandom(seed);
const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;

const path = (branch?: Branch) => `/projects/${main.projectId}/branches${branch ? `/${branch.place.branchId}` : ''}`;
const childrenOf = (branch: Branch) => [...branches.values()].filter((other) => other.parent === branch.place.branchId);
const leaves = () => [...branches.values()].filter((branch) => branch.parent && childrenOf(branch).length === 0);
const newest = (branch: Branch) => branch.history.at(-1)!;

/** Nothing commits in the milliseconds around it. */
async function clock(place: Place): Promise<string> {
  await pause(3);
  const [row] = await query(
    place.uri,
    `select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as now`,
  );
  await pause(3);
  return row.now as string;
}

async function expectRows(branch: Branch): Promise<void> {
  const held = async (place: Place) => (await query(place.uri, 'select n from ledger order by n')).map((row) => row.n);
  expect(await held(branch.place), branch.name).toEqual(newest(branch).rows);
  const { readOnly } = branch;
  if (readOnly) await expect.poll(() => held(readOnly)).toEqual(newest(branch).rows);
  const shown = (await ballast.api.call('GET', path(branch))).branch;
  expect(shown).toMatchObject({ name: branch.name, current_state: 'ready' });
  expect(shown.parent_id, branch.name).toBe(branch.parent);
}

async function begins(branch: Branch, rows: readonly number[]): Promise<void> {
  branch.history = [{ since: await clock(branch.place), rows }];
  await expectRows(branch);
}

const STEP: Record<string, () => Promise<void>> = {
  write: async () => {
    const branch = pick([...branches.values()]);
    const n = nextRow++;
    await query(branch.place.uri, 'insert into ledger values ($1)', [n]);
    branch.history.push({ since: await clock(branch.place), rows: [...newest(branch).rows, n] });
    await expectRows(branch);
  },
  create: async () => {
    if (branches.size >= MOST_BRANCHES) return;
    const parent = pick([...branches.values()]);
    const past = random() < 0.5;
    const state = past ? pick(parent.history) : newest(parent);
    const created = await ballast.api.callAndSettle('POST', path(), {
      branch: { parent_id: parent.place.branchId, ...(past && { parent_timestamp: state.since }) },
      endpoints: [{ type: 'read_write' }],
    });
    const place = childPlace(main, created);
    const made: Branch = { place, parent: parent.place.branchId, name: created.branch.name, history: [] };
    branches.set(place.branchId, made);
    await begins(made, state.rows);
  },
  'read replica': async () => {
    const branch = pick([...branches.values()]);
    if (branch.readOnly) return;
    const { endpoint } = await ballast.api.callAndSettle('POST', `/projects/${main.projectId}/endpoints`, {
      endpoint: { branch_id: branch.place.branchId, type: 'read_only' },
    });
    const uri = branch.place.uri.replaceAll(branch.place.endpointId, endpoint.id);
    branch.readOnly = { ...branch.place, endpointId: endpoint.id, uri };
    await expectRows(branch);
  },
  reset: async () => {
    const [branch] = [pick(leaves())];
    if (!branch) return;
    const parent = branches.get(branch.parent!)!;
    await ballast.api.callAndSettle('POST', `${path(branch)}/reset_to_parent`);
    await begins(branch, newest(parent).rows);
  },
  restore: async () => {
    const branch = pick([...branches.values()]);
    if (branches.size >= MOST_BRANCHES) return;
    const state = pick(branch.history);
    const name = `before ${nextRow++}`;
    const answer = await ballast.api.callAndSettle('POST', `${path(branch)}/restore`, {
      source_branch_id: branch.place.branchId,
      source_timestamp: state.since,
      preserve_under_name: name,
    });
    const listed = await ballast.api.call('GET', `${path()}?search=${encodeURIComponent(name)}`);
    const { id } = listed.branches[0];
    const { endpoint } = await ballast.api.callAndSettle('POST', `/projects/${main.projectId}/endpoints`, {
      endpoint: { branch_id: id, type: 'read_write' },
    });
    const uri = main.uri.replaceAll(main.endpointId, endpoint.id);
    const place = { ...main, branchId: id, endpointId: endpoint.id, uri };
    for (const child of childrenOf(branch)) child.parent = id;
    branches.set(id, { place, parent: branch.parent, name, history: branch.history });
    if (branch.parent !== undefined) branch.parent = id;
    expect(answer.branch.parent_id).toBe(branch.parent);
    await expectRows(branches.get(id)!);
    await begins(branch, state.rows);
  },
  'restore from another': async () => {
    const branch = pick(leaves());
    const source = pick([...branches.values()]);
    if (!branch || branch === source) return;
    const past = random() < 0.5;
    const state = past ? pick(source.history) : newest(source);
    await ballast.api.callAndSettle('POST', `${path(branch)}/restore`, {
      source_branch_id: source.place.branchId,
      ...(past && { source_timestamp: state.since }),
    });
    branch.parent = source.place.branchId;
    await begins(branch, state.rows);
  },
  delete: async () => {
    const branch = pick(leaves());
    if (!branch) return;
    const hard = random() < 0.5;
    await ballast.api.callAndSettle('DELETE', `${path(branch)}?hard_delete=${hard}`);
    if (!hard && random() < 0.5) {
      await ballast.api.call('POST', `${path(branch)}/recover`);
      await expectRows(branch);
      return;
    }
    branches.delete(branch.place.branchId);
  },
  sleep: async () => {
    const branch = pick([...branches.values()]);
    await ballast.api.suspend(branch.place);
  },
};

test(`${STEPS} random steps (seed ${seed})`, async () => {
  main = await ballast.api.createProject({ name: 'random' });
  await query(main.uri, 'create table ledger (n int primary key)');
  const root: Branch = { place: main, parent: undefined, name: 'main', history: [] };
  branches.set(main.branchId, root);
  await begins(root, []);
  const weighted = [...Object.keys(STEP), 'write', 'write', 'write', 'create', 'restore'];
  const done: string[] = [];
  for (let step = 0; step < STEPS; step++) {
    const name = pick(weighted);
    done.push(name);
    try {
      await STEP[name]!();
    } catch (error) {
      throw new Error(`after ${done.join(', ')} (seed ${seed})`, { cause: error });
    }
  }
  for (const branch of branches.values()) await expectRows(branch);
  await ballast.api.idle(main.projectId);
  const { operations } = await ballast.api.call('GET', `/projects/${main.projectId}/operations?limit=1000`);
  const bad = operations.filter((operation: { status: string }) => !['finished', 'skipped'].includes(operation.status));
  expect(bad).toEqual([]);
}, 600_000);
