/**
 * A sleeping compute from connect to the first row through the proxy, beside a bare start of the same Postgres.
 */
import { bareFloor } from '../lib/floor.mjs';
import { computeOf, query } from '../lib/product.mjs';
import { inTurn, timed } from '../lib/stats.mjs';

const ROUNDS = 15;

export const needs = ['xfs'];

export async function* measure({ product, pool }) {
  const sleeper = await product.createProject({ name: 'sleeper' });
  const compute = computeOf(product, sleeper);
  await product.suspend(sleeper);
  const floor = await bareFloor(pool.directory, compute, sleeper, pool.name === 'plain' ? 'never' : 'always');
  const wake = async () => {
    const ms = await timed(() => query(sleeper.uri, 'select 1'));
    await product.suspend(sleeper);
    return ms;
  };
  const { samples, floorSamples } = await inTurn(ROUNDS, wake, () => floor.wake());
  floor.remove();
  yield {
    name: `wake on connect to first row, ${pool.name}`,
    unit: 'ms',
    samples,
    floor: { name: 'bare start + first row', samples: floorSamples },
    bar: { atMost: 1.5, of: 'floor' },
  };
}
