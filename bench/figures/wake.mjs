/**
 * A sleeping compute from connect to the first row through the proxy, beside a bare start of the same Postgres, and what of
 * that time each phase took, by Ballast's own count.
 */
import { bareFloor } from '../lib/floor.mjs';
import { computeOf, query } from '../lib/product.mjs';
import { inTurn, timed } from '../lib/stats.mjs';

const ROUNDS = 15;

export const needs = ['xfs'];

export async function* measure({ product, pool, quick }) {
  const sleeper = await product.createProject({ name: 'sleeper' });
  const compute = computeOf(product, sleeper);
  await product.suspend(sleeper);
  const floor = await bareFloor(pool.directory, compute, sleeper, pool.name === 'plain' ? 'never' : 'always');
  const phases = new Map();
  const wake = async (round) => {
    const before = await phaseSeconds(product);
    const ms = await timed(() => query(sleeper.uri, 'select 1'));
    await product.suspend(sleeper);
    // The first round is thrown away, as inTurn does.
    if (round === 0) return ms;
    for (const [phase, seconds] of await phaseSeconds(product)) {
      phases.set(phase, [...(phases.get(phase) ?? []), (seconds - (before.get(phase) ?? 0)) * 1000]);
    }
    return ms;
  };
  const { samples, floorSamples } = await inTurn(quick ? 3 : ROUNDS, wake, () => floor.wake());
  floor.remove();
  yield {
    name: `wake on connect to first row, ${pool.name}`,
    unit: 'ms',
    samples,
    floor: { name: 'bare start + first row', samples: floorSamples },
    bar: { atMost: 1.5, of: 'floor' },
  };
  for (const [phase, ms] of phases) yield { name: `wake, phase ${phase}`, unit: 'ms', samples: ms };
}

/** Seconds that starts of computes have spent in each phase so far. */
async function phaseSeconds(product) {
  const metrics = await product.metrics();
  const sums = metrics.matchAll(/^ballast_wake_phase_seconds_sum\{phase="(\w+)"\} ([\d.e+-]+)$/gm);
  return new Map([...sums].map(([, phase, seconds]) => [phase, Number(seconds)]));
}
