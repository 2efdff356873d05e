/**
 * The queue, the real actions and a runner over a fake engine, for tests of whatever appends operations.
 */
import type { CatalogDatabase } from '../../src/catalog/database.ts';
import type { OperationRow } from '../../src/catalog/types.ts';
import { silentLogger } from '../../src/lib/log.ts';
import { createActions } from '../../src/operations/actions/actions.ts';
import { createBackground, type Background } from '../../src/operations/background.ts';
import { createQueue, type RunnerQueue } from '../../src/operations/queue.ts';
import { Runner } from '../../src/operations/runner.ts';
import type { SchemaCopier } from '../../src/schema-copy.ts';
import type { FakeEngine } from './fake-engine.ts';

export const TEST_NODE = 'node-test';

export interface TestOperations {
  queue: RunnerQueue;
  runner: Runner;
  background: Background;
  syncedFingerprints: Map<string, string>;
  /** What the actions see of the pool; false at first. */
  pool: { full: boolean };
  stop(): Promise<void>;
}

/** The copy has the roles and databases that the source's Postgres holds. */
function fakeCopySchema(engine: FakeEngine): Pick<SchemaCopier, 'copy' | 'abandon'> {
  return {
    copy: async ({ source, point, target }) => {
      await engine.storage.createRootTimeline(target);
      await engine.fault(`copySchema ${source.timelineId} ${JSON.stringify(point)}`);
      const facts = structuredClone(engine.facts.get(source.timelineId) ?? { roles: [], databases: [] });
      engine.facts.set(target.timelineId, facts);
      return { ...facts, fingerprint: 'copied' };
    },
    abandon: async () => undefined,
  };
}

/** The runner is not started. It tries three times, without pauses to speak of. */
export function makeTestOperations(options: {
  catalog: CatalogDatabase;
  engine: FakeEngine;
  onEnded?: (row: OperationRow) => void;
}): TestOperations {
  const { catalog, engine, onEnded } = options;
  const logger = silentLogger();
  const queue = createQueue({ catalog });
  const background = createBackground({ logger });
  const syncedFingerprints = new Map<string, string>();
  const pool = { full: false };
  const actions = createActions({
    catalog,
    storage: engine.storage,
    supervisor: engine.supervisor,
    copySchema: fakeCopySchema(engine),
    background,
    syncedFingerprints,
    appliedAtMs: new Map(),
    ownerOf: (number) => ({ uid: 700_000 + number, gid: 700_000 + number }),
    poolIsFull: () => pool.full,
    defaultPreloadLibraries: ['pg_stat_statements'],
    logger,
  });
  const limits = { tries: 3, retryBaseMs: 2, retryMaxMs: 5 };
  const runner = new Runner({
    catalog,
    queue,
    actions,
    nodeId: TEST_NODE,
    logger,
    limits,
    ...(onEnded && { onEnded }),
  });
  return {
    queue,
    runner,
    background,
    syncedFingerprints,
    pool,
    stop: async () => {
      await runner.drain(5_000);
      await background.close();
      queue.close();
    },
  };
}
