/**
 * A branch of a suspended parent, from POST to the first row through the proxy, beside a bare clone and a bare Postgres
 * start: with 10 MB, with 1 GB of fresh data, and with 1 GB after 100,000 random updates behind an earlier branch.
 * On XFS and on btrfs. And a branch of a running parent, under writes.
 */
import { bareFloor } from '../lib/floor.mjs';
import { extents } from '../lib/machine.mjs';
import { childOf, computeOf, query } from '../lib/product.mjs';
import { inTurn, quantile, timed } from '../lib/stats.mjs';

const ROUNDS = 10;
const BIG_ROUNDS = 8;
const ROWS_PER_MB = 1000;
const UPDATES = 100_000;
const UPDATE_BATCH = 2000;

export const needs = ['xfs', 'btrfs'];

export async function* measure({ product, pool, subset }) {
  const reflink = pool.name === 'plain' ? 'never' : 'always';
  const small = await product.createProject({ name: 'small' });
  await fill(small, 10);
  let smallFigure;
  if (subset('suspended')) {
    smallFigure = await suspendedParent(product, pool, small, reflink, '10 MB', ROUNDS);
    yield smallFigure;
  }
  if (subset('running')) yield* runningParent(product, pool, small, reflink);
  if (!subset('big')) return;
  const big = await product.createProject({ name: 'big' });
  await fill(big, 1024);
  const fresh = await suspendedParent(product, pool, big, reflink, '1 GB fresh', BIG_ROUNDS);
  yield fresh;
  if (smallFigure !== undefined) yield* besideSmall(fresh, smallFigure, pool, '1 GB fresh');
  // The earlier branch is what makes the parent's pages shared, so that the updates fragment them.
  await product.settle(await product.requestBranch(big, []));
  await updateAtRandom(big);
  const used = await suspendedParent(product, pool, big, reflink, '1 GB used', BIG_ROUNDS);
  yield used;
  if (smallFigure !== undefined) yield* besideSmall(used, smallFigure, pool, '1 GB used');
}

async function suspendedParent(product, pool, parent, reflink, size, rounds) {
  await query(parent.uri, 'select 1');
  const compute = computeOf(product, parent);
  await product.suspend(parent);
  const floor = await bareFloor(pool.directory, compute, parent, reflink);
  const extentCount = extents(compute.dataDirectory);
  const { samples, floorSamples } = await inTurn(
    rounds,
    () => branchOnce(product, parent),
    () => floor.branch(),
  );
  floor.remove();
  return {
    name: `branch of a suspended parent, ${size}, ${pool.name}: POST to first row`,
    unit: 'ms',
    samples,
    floor: { name: 'bare clone + start + first row', samples: floorSamples },
    bar: { atMost: 2, of: 'floor' },
    note: `parent: ${extentCount ?? 'unknown'} extents in files over 64 kB before, ${extents(compute.dataDirectory) ?? 'unknown'} after the rounds`,
  };
}

/** Milliseconds from the request to the child's first row; the child is removed again. */
async function branchOnce(product, parent) {
  let child;
  const ms = await timed(async () => {
    child = childOf(parent, await product.requestBranch(parent));
    await query(child.uri, 'select 1');
  });
  await product.suspend(child);
  await product.deleteBranch(child);
  return ms;
}

/** Time must not grow with size: the second bar of large parents. */
function* besideSmall(large, small, pool, size) {
  yield {
    name: `branch of a suspended parent, ${size} beside 10 MB, ${pool.name}`,
    unit: 'ms',
    samples: large.samples,
    floor: { name: 'the same with 10 MB', samples: small.samples },
    bar: { atMost: 1.2, of: 'floor' },
    note: `the bare floors beside each other: ${(quantile(large.floor.samples, 0.5) / quantile(small.floor.samples, 0.5)).toFixed(2)} x`,
  };
}

async function* runningParent(product, pool, parent, reflink) {
  await query(parent.uri, 'select 1');
  const compute = computeOf(product, parent);
  await product.suspend(parent);
  const floor = await bareFloor(pool.directory, compute, parent, reflink);
  await query(parent.uri, 'select 1');
  const branch = async () => {
    await query(parent.uri, 'update big set n = n + 1 where id % 100 = 0');
    return branchOnce(product, parent);
  };
  const { samples, floorSamples } = await inTurn(ROUNDS, branch, () => floor.branch());
  floor.remove();
  yield {
    name: `branch of a running parent, 10 MB, ${pool.name}: POST to first row`,
    unit: 'ms',
    samples,
    floor: { name: 'bare clone + start + first row', samples: floorSamples },
    bar: { atMost: 3, of: 'floor' },
  };
}

/** About a kilobyte a row. */
async function fill(place, megabytes) {
  await query(place.uri, 'create table big (id int primary key, n int, filler text)');
  for (let from = 0; from < megabytes; from += 64) {
    const upTo = Math.min(megabytes, from + 64);
    await query(
      place.uri,
      `insert into big select id, 0, repeat(md5(id::text), 29) from generate_series($1::int + 1, $2::int) id`,
      [from * ROWS_PER_MB, upTo * ROWS_PER_MB],
    );
  }
}

async function updateAtRandom(place) {
  for (let done = 0; done < UPDATES; done += UPDATE_BATCH) {
    await query(
      place.uri,
      `update big set n = n + 1 where id in (select 1 + (random() * (select max(id) - 1 from big))::int from generate_series(1, $1::int))`,
      [UPDATE_BATCH],
    );
  }
}
