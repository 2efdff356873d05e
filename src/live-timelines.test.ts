/**
 * What storage is told of endpoints that move to other data, without any Postgres.
 */
import { expect, test } from 'vitest';
import { createFakeEngine } from '../test/support/fake-engine.ts';
import type { ComputeSpec } from './compute/types.ts';
import { createLiveTimelines } from './live-timelines.ts';

const ref = (timelineId: string) => ({ projectId: 'p', timelineId });
const spec = (timelineId: string) =>
  ({ endpointId: 'ep-1', timeline: ref(timelineId), pgVersion: 17 }) as unknown as ComputeSpec;

test('an endpoint that starts on other data is off the old data before it is on the new', async () => {
  const engine = createFakeEngine();
  const live = createLiveTimelines({ secrets: '/none' });
  const supervisor = live.watch(engine.supervisor);
  engine.timelines.set('old', {} as never).set('new', {} as never);
  await supervisor.start(spec('old'), []);
  expect(live.find(ref('old'))).toBeDefined();
  let during: unknown;
  engine.fault = (call) => {
    if (call === 'start ep-1') during = live.find(ref('old'));
  };
  await supervisor.start(spec('new'), []);
  expect(engine.calls).toEqual(['start ep-1', 'suspend ep-1', 'start ep-1']);
  expect(during).toBeUndefined();
  expect(live.find(ref('old'))).toBeUndefined();
  expect(live.find(ref('new'))).toBeDefined();
});

test('an adopted compute is on what it runs on, not on what its row says by now', async () => {
  const engine = createFakeEngine();
  engine.timelines.set('old', {} as never);
  await engine.supervisor.start(spec('old'), []);
  const live = createLiveTimelines({ secrets: '/none' });
  live.watch(engine.supervisor);
  const row = { id: 'ep-1', timelineId: 'new', type: 'read_write', pgVersion: 17 };
  await live.learn({ query: async () => [row] as never }, ['ep-1']);
  expect(live.find(ref('old'))).toBeDefined();
  expect(live.find(ref('new'))).toBeUndefined();
});
