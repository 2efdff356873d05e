/**
 * Makes rows and engine agree again after a crash, a killed compute or a lost file.
 *
 * Rules: an unfinished operation knows better, so its branch is left alone; what runs without a wish is stopped; what is
 * wanted but does not run becomes idle, and the next connection wakes it; data whose row is deleted is removed by an
 * operation; data without any row is reported and kept, because it may be all that is left of a lost catalog.
 */
import type { CatalogDatabase } from '../catalog/database.ts';
import { pruneOperations } from '../catalog/operations.ts';
import { endpointFound, endpointLost, endpointsAwake, endpointsByIds, timelineOwners } from '../catalog/reconciling.ts';
import type { Supervisor } from '../compute/types.ts';
import type { Logger } from '../lib/log.ts';
import type { OperationQueue } from '../operations/types.ts';
import type { Storage, TimelineRecord } from '../storage/types.ts';
import type { Reconciler } from './reconciler.ts';

export interface RecoverOptions {
  catalog: CatalogDatabase;
  queue: OperationQueue;
  supervisor: Pick<Supervisor, 'running' | 'address' | 'suspend'>;
  storage: Pick<Storage, 'listTimelines' | 'removeGarbage' | 'deleteTimeline'>;
  /** Computes that no row stands for, and that somebody wants all the same. */
  isTemporary?(endpointId: string): boolean;
  nodeId: string;
  logger: Logger;
}

export interface Recover {
  /** Once, after computes were adopted and before the runner starts: only then is it certain that nothing is under way. */
  atStart(): Promise<void>;
  computes: Reconciler;
  timelines: Reconciler;
  /** A compute ended by itself. */
  exited(endpointId: string): Promise<void>;
}

const PRUNE_AFTER_DAYS = 180;

export function createRecover(options: RecoverOptions): Recover {
  const { catalog, storage, logger } = options;
  /** Computes that nobody seemed to want at the last look: one look may fall between an operation and its rows. */
  let suspects = new Set<string>();

  const compareTimelines = async (): Promise<void> => {
    const { timelines } = await storage.listTimelines();
    await removeAbandoned(options, timelines);
    await pruneOperations(catalog, PRUNE_AFTER_DAYS);
  };

  return {
    atStart: async () => {
      const { timelines, garbage } = await storage.listTimelines();
      if (garbage.length > 0) {
        logger.info({ count: garbage.length }, 'removing unfinished timelines of an earlier run');
        await storage.removeGarbage(garbage);
      }
      const strangers = await removeAbandoned(options, timelines);
      if (strangers.length > 0)
        logger.warn(
          { timelines: strangers.slice(0, 20), count: strangers.length },
          'the pool holds timelines that the catalog does not know; they are kept',
        );
      await removeStandbys(options, timelines);
      await settleRows(options);
      for (const endpointId of await unwanted(options)) await options.supervisor.suspend(endpointId);
    },
    computes: {
      name: 'recover-computes',
      everyMs: 15_000,
      run: async () => {
        await settleRows(options);
        const now = new Set(await unwanted(options));
        for (const endpointId of now) {
          if (!suspects.has(endpointId)) continue;
          logger.warn({ endpoint: endpointId }, 'stopping a compute that nothing wants');
          await options.supervisor.suspend(endpointId);
        }
        suspects = now;
      },
    },
    timelines: { name: 'recover-timelines', everyMs: 10 * 60_000, run: compareTimelines },
    exited: async (endpointId) => {
      logger.warn({ endpoint: endpointId }, 'a compute ended by itself');
      await endpointLost(catalog, endpointId);
    },
  };
}

/** Rows that claim something else than what is, with no operation that would explain it. */
async function settleRows({ catalog, nodeId, supervisor, logger }: RecoverOptions): Promise<void> {
  for (const endpoint of await endpointsAwake(catalog, nodeId)) {
    if (endpoint.busy) continue;
    const runs = supervisor.address(endpoint.id) !== undefined;
    if (runs && endpoint.currentState === 'active' && endpoint.pendingState === null) continue;
    if (runs) await endpointFound(catalog, endpoint.id);
    else if (await endpointLost(catalog, endpoint.id))
      logger.info({ endpoint: endpoint.id }, 'a compute was not running any more; its endpoint is idle');
  }
}

/** Running computes whose endpoints are unknown, deleted, or idle without an operation under way. */
async function unwanted({ catalog, supervisor, isTemporary }: RecoverOptions): Promise<string[]> {
  const running = supervisor.running().filter((endpointId) => !isTemporary?.(endpointId));
  const rows = new Map((await endpointsByIds(catalog, running)).map((row) => [row.id, row]));
  return running.filter((endpointId) => {
    const row = rows.get(endpointId);
    if (!row) return true;
    return !row.busy && (row.deleted || row.currentState !== 'active');
  });
}

/** Returns the timelines that no row has ever stood for. */
async function removeAbandoned(
  { catalog, queue, logger }: RecoverOptions,
  timelines: readonly TimelineRecord[],
): Promise<string[]> {
  const ids = timelines.filter(({ kind }) => kind !== 'standby' && kind !== 'copy').map(({ timelineId }) => timelineId);
  const owners = await timelineOwners(catalog, ids);
  const abandoned = owners.filter((owner) => owner.abandoned);
  for (const { timelineId, projectId, branchId } of abandoned) {
    logger.info({ timeline: timelineId }, 'removing the data of a deleted branch');
    const removal = { projectId, branchId, action: 'delete_timeline', payload: { timelineIds: [timelineId] } } as const;
    await catalog.transaction((tx) => queue.append(tx, [removal]));
  }
  if (abandoned.length > 0) queue.poke();
  const known = new Set(owners.map(({ timelineId }) => timelineId));
  return ids.filter((id) => !known.has(id));
}

/** Of standbys whose compute did not outlive Ballast. */
async function removeStandbys(
  { storage, supervisor }: RecoverOptions,
  timelines: readonly TimelineRecord[],
): Promise<void> {
  for (const timeline of timelines) {
    if (timeline.kind === 'standby' && !supervisor.address(timeline.timelineId)) await storage.deleteTimeline(timeline);
  }
}
