/**
 * Storage and supervisor together, as main.ts wires them: whoever clones a timeline finds it at rest or live, never
 * in between, whatever its compute is going through.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openTestEngine, testMajors, testVerifier } from '../test/support/computes.ts';
import type { TestEngine } from '../test/support/computes.ts';
import { createSupervisor } from './compute/supervisor.ts';
import type { ComputeChange, ComputeSpec, Supervisor } from './compute/types.ts';
import { silentLogger } from './lib/log.ts';
import { createLiveTimelines } from './live-timelines.ts';
import { createStorage } from './storage/storage.ts';
import type { Storage } from './storage/types.ts';

const CHILDREN = 16;
/** As many as the runner has slots for timelines. */
const AT_ONCE = 4;

let engine: TestEngine;
let storage: Storage;
let supervisor: Supervisor;
let spec: ComputeSpec;

beforeAll(async () => {
  const logger = silentLogger();
  engine = await openTestEngine(logger);
  const { home, installations, owner } = engine;
  const live = createLiveTimelines(home);
  storage = await createStorage({ home, installations, logger, findLivePostgres: live.find });
  supervisor = live.watch(createSupervisor({ home, storage, installations, logger }));
  const pgVersion = (await testMajors()).at(-1)!;
  spec = engine.spec('ep-parent', pgVersion);
  await storage.createRootTimeline({ ...spec.timeline, pgVersion, owner });
});
afterAll(async () => {
  await supervisor.stopAll();
  await engine.close();
});

async function changesOf(round: number): Promise<ComputeChange[]> {
  const verifier = await testVerifier();
  return Array.from({ length: 2 }, (_, n) => `shop_${round}_${n}`).flatMap((name): ComputeChange[] => [
    { kind: 'create_role', name, verifier, noLogin: false },
    { kind: 'create_database', name, owner: name },
  ]);
}

test(`${CHILDREN} children of a parent that is started with changes and suspended all the while`, async () => {
  const { projectId, timelineId: parentTimelineId } = spec.timeline;
  const ids = Array.from({ length: CHILDREN }, (_, n) => `br-child-${n}`);
  const waiting = [...ids];
  const makeChildren = async () => {
    for (let timelineId = waiting.shift(); timelineId !== undefined; timelineId = waiting.shift()) {
      const child = { projectId, timelineId, parentTimelineId, owner: engine.owner };
      await storage.createChildTimeline({ ...child, point: { kind: 'head' } });
    }
  };
  const moveParent = async () => {
    for (let round = 0; round === 0 || waiting.length > 0; round += 1) {
      await supervisor.start(spec, await changesOf(round));
      await supervisor.suspend(spec.endpointId);
    }
  };
  await Promise.all([moveParent(), ...Array.from({ length: AT_ONCE }, makeChildren)]);
  const { timelines } = await storage.listTimelines();
  expect(timelines.map(({ timelineId }) => timelineId).toSorted()).toEqual([parentTimelineId, ...ids].toSorted());
});
