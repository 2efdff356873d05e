/**
 * Deep lineages: branch by branch, each written to, files do not fall into ever more pieces, asleep or running.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { EXTENT_BUDGET } from './rest-work.ts';
import { makeEngine, ref } from '../../test/support/engine.ts';
import type { Engine } from '../../test/support/engine.ts';
import { makePool, missingFor } from '../../test/support/pool.ts';
import type { TestPool } from '../../test/support/pool.ts';

const DEPTH = 30;
const ROWS = 200_000;
const UPDATES = 300;
const missing = missingFor('xfs');
const testHere = test.skipIf(missing !== '');
let pool: TestPool;
let engine: Engine;

beforeAll(async () => {
  if (missing !== '') return;
  pool = await makePool('xfs');
  engine = await makeEngine({ pool: pool.directory });
});
afterAll(async () => {
  await engine?.close();
  await pool?.remove();
});

testHere.each([{ asleep: true }, { asleep: false }])(
  `${DEPTH} levels, parent asleep: $asleep (${missing})`,
  async ({ asleep }) => {
    const prefix = asleep ? 'sleeping' : 'running';
    const id = (level: number) => `${prefix}-${level}`;
    await engine.root(id(0));
    await engine.start(id(0));
    await engine.sql(
      id(0),
      `create table public.wide as select n as id, 0 as touched, repeat('x', 80) as filler
      from generate_series(1, ${ROWS}) n`,
    );
    await engine.sql(id(0), 'alter table public.wide add primary key (id)');
    await engine.sql(id(0), 'vacuum analyze public.wide');
    const sleepAndTidyUp = async (timelineId: string) => {
      await engine.stop(timelineId);
      await engine.storage.afterSuspend(ref(timelineId));
    };
    for (let level = 1; level <= DEPTH; level += 1) {
      if (asleep) await sleepAndTidyUp(id(level - 1));
      await engine.child(id(level), id(level - 1));
      await engine.start(id(level));
      if (!asleep) {
        await engine.storage.keepHistory(ref(id(level - 1)), { windowMs: 86_400_000 });
        await sleepAndTidyUp(id(level - 1));
      }
      await engine.sql(
        id(level),
        `update public.wide set touched = ${level} where id in
           (select (random() * ${ROWS})::int from generate_series(1, ${UPDATES}))`,
      );
    }
    const { extents } = await engine.storage.size(ref(id(DEPTH)));
    // Clones of clones would have some 600 more at each level.
    expect(extents).toBeLessThan(2 * EXTENT_BUDGET);
    const [count] = await engine.sql(id(DEPTH), 'select count(distinct touched)::text from public.wide');
    expect(Number(count![0])).toBe(DEPTH + 1);
  },
  900_000,
);
