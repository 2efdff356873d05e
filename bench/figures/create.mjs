/**
 * A project from POST to its first row, beside a bare clone of such a project and a bare Postgres start.
 */
import { bareFloor } from '../lib/floor.mjs';
import { computeOf, place, query } from '../lib/product.mjs';
import { inTurn, timed } from '../lib/stats.mjs';

const ROUNDS = 12;

export const needs = ['xfs'];

export async function* measure({ product, pool }) {
  const model = await product.createProject({ name: 'model' });
  const compute = computeOf(product, model);
  await product.suspend(model);
  const floor = await bareFloor(pool.directory, compute, model, pool.name === 'plain' ? 'never' : 'always');
  const create = async () => {
    let created;
    const ms = await timed(async () => {
      created = place(await product.call('POST', '/projects', { project: {} }));
      await query(created.uri, 'select 1');
    });
    await product.suspend(created);
    await product.call('DELETE', `/projects/${created.projectId}`);
    return ms;
  };
  const { samples, floorSamples } = await inTurn(ROUNDS, create, () => floor.branch());
  floor.remove();
  yield {
    name: `create project to first row, ${pool.name}`,
    unit: 'ms',
    samples,
    floor: { name: 'bare clone + start + first row', samples: floorSamples },
    bar: { atMost: 3, of: 'floor' },
  };
}
