/**
 * Children of a parent that is on its way: they wait in its queue until it is at rest or live, and never fail for it.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeEngine, ref } from '../../test/support/engine.ts';
import type { Engine } from '../../test/support/engine.ts';
import { makePool } from '../../test/support/pool.ts';
import type { TestPool } from '../../test/support/pool.ts';

let pool: TestPool;
let engine: Engine;
let impatient: Engine;

beforeAll(async () => {
  pool = await makePool('plain');
  // Nobody ever answers for a Postgres that runs here.
  const storage = { findLivePostgres: () => undefined };
  engine = await makeEngine({ pool: pool.directory, storage: { ...storage, parentWithinMs: 600_000 } });
  impatient = await makeEngine({ pool: pool.directory, storage: { ...storage, parentWithinMs: 500 } });
  await engine.root('main');
});
afterAll(async () => {
  await impatient?.close();
  await engine?.close();
  await pool?.remove();
});

const child = (timelineId: string, signal?: AbortSignal, by = engine) =>
  by.storage.createChildTimeline(
    { ...ref(timelineId), parentTimelineId: 'main', owner: engine.owner, point: { kind: 'head' } },
    signal,
  );

test('a Postgres of the parent that nobody answers for is waited for', async () => {
  await engine.start('main');
  const waiting = child('patient');
  await engine.stop('main');
  expect(await waiting).toMatchObject({ recovery: 'promote' });
});

test('waiting ends with the signal, or when it has taken too long', async () => {
  await engine.start('main');
  await expect(child('given-back', AbortSignal.timeout(200))).rejects.toMatchObject({ name: 'TimeoutError' });
  await expect(child('late', undefined, impatient)).rejects.toMatchObject({ kind: 'unavailable' });
  await engine.stop('main');
  const { timelines, garbage } = await engine.storage.listTimelines();
  expect(timelines.map(({ timelineId }) => timelineId).toSorted()).toEqual(['main', 'patient']);
  expect(garbage).toEqual([]);
});

test('so does waiting for the lock', async () => {
  await engine.storage.withDataDirectory(ref('main'), async () => {
    await expect(child('behind', AbortSignal.timeout(200))).rejects.toMatchObject({ name: 'TimeoutError' });
  });
  await impatient.storage.withDataDirectory(ref('main'), async () => {
    await expect(child('behind', undefined, impatient)).rejects.toMatchObject({ kind: 'unavailable' });
  });
  expect(await child('behind')).toMatchObject({ recovery: 'promote' });
});

test('a start gets its turn between children that queue', async () => {
  const order: string[] = [];
  const children = Array.from({ length: 4 }, (_, n) => child(`before-${n}`).then(() => order.push('before')));
  // Behind those that have entered; ahead of those that have not.
  await new Promise((resolve) => setImmediate(resolve));
  const turn = engine.storage.withDataDirectory(ref('main'), async () => void order.push('start'));
  const later = Array.from({ length: 16 }, (_, n) => child(`after-${n}`).then(() => order.push('after')));
  await Promise.all([...children, turn, ...later]);
  expect(order.indexOf('start')).toBeLessThan(order.indexOf('after'));
});
