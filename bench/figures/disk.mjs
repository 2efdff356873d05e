/**
 * Bytes that a fresh branch adds to the pool: cloned only, and once started, written to and put to sleep. Differences of
 * the file system's own count on a pool where nothing else runs.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { usedBytes } from '../lib/machine.mjs';
import { childOf, query } from '../lib/product.mjs';

const ROUNDS = 5;
const MIB = 1024 ** 2;
const SETTLE_MS = 200;

export const needs = ['xfs'];

export async function* measure({ product, pool }) {
  const parent = await product.createProject({ name: 'disk' });
  await product.suspend(parent);
  const cloned = [];
  const started = [];
  for (let round = 0; round <= ROUNDS; round++) {
    const before = await quietBytes(pool);
    const bare = await product.settle(await product.requestBranch(parent, []));
    const afterClone = await quietBytes(pool);
    const { endpoint } = await product.change('POST', `/projects/${parent.projectId}/endpoints`, {
      endpoint: { branch_id: bare.branch.id, type: 'read_write' },
    });
    const child = childOf(parent, { branch: bare.branch, endpoints: [endpoint] });
    await query(child.uri, 'create table t (n int)');
    await product.suspend(child);
    const afterStart = await quietBytes(pool);
    await product.deleteBranch(child);
    if (round === 0) continue;
    cloned.push((afterClone - before) / MIB);
    started.push((afterStart - before) / MIB);
  }
  yield {
    name: `disk that a fresh branch adds, cloned, ${pool.name}`,
    unit: 'MiB',
    samples: cloned,
    note: 'floor seen elsewhere: about 0.6',
  };
  yield {
    name: `disk that a fresh branch adds, started once, ${pool.name}`,
    unit: 'MiB',
    samples: started,
    note: 'floor seen elsewhere: about 2.2',
  };
}

/** The count, once two in a row agree: removals and bases end in the background. */
async function quietBytes(pool) {
  let last = usedBytes(pool.directory);
  for (let attempt = 0; attempt < 50; attempt++) {
    await pause(SETTLE_MS);
    const now = usedBytes(pool.directory);
    if (now === last) break;
    last = now;
  }
  return last;
}
