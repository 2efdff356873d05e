/**
 * The end of branches and projects: those that expire are deleted, deleted ones lose their data when nobody can have
 * them back any more (or, in a pool that runs out of space, before), unused ones are marked as archived.
 */
import type { CatalogDatabase } from '../catalog/database.ts';
import {
  archiveUnused,
  branchesToPurge,
  expiredBranches,
  isExpired,
  isPurging,
  markBranchDeleted,
  projectsToPurge,
  purgeBranch,
  purgeProject,
} from '../catalog/deletion.ts';
import { listBranchEndpoints } from '../catalog/endpoints.ts';
import { lockProject } from '../catalog/projects.ts';
import type { Logger } from '../lib/log.ts';
import type { NewOperation, OperationQueue } from '../operations/types.ts';
import type { Storage } from '../storage/types.ts';
import type { Reconciler } from './reconciler.ts';

export interface LifeCycleOptions {
  catalog: CatalogDatabase;
  queue: OperationQueue;
  storage: Pick<Storage, 'poolStatus'>;
  nodeId: string;
  logger: Logger;
}

export function expireBranches({ catalog, queue, nodeId, logger }: LifeCycleOptions): Reconciler {
  return {
    name: 'expire-branches',
    everyMs: 5_000,
    run: async () => {
      for (const { id, projectId } of await expiredBranches(catalog, nodeId)) {
        const done = await catalog.transaction(async (tx) => {
          // As requests do: what is true now stays true until the end of the transaction.
          if (!(await lockProject(tx, projectId)) || !(await isExpired(tx, id))) return false;
          const endpoints = await listBranchEndpoints(tx, id);
          await markBranchDeleted(tx, id, { method: 'ttl', forGood: false });
          const sleep = endpoints.map((endpoint) => ({
            projectId,
            branchId: id,
            endpointId: endpoint.id,
            action: 'suspend_compute' as const,
          }));
          await queue.append(tx, sleep);
          return true;
        });
        if (done) logger.info({ branch: id }, 'a branch expired');
        queue.poke();
      }
    },
  };
}

/** Data that can still be had back gives way to data that is used: the one deleted longest ago goes first. */
export function purgeDeleted(options: LifeCycleOptions): Reconciler {
  const { catalog, storage, nodeId } = options;
  return {
    name: 'purge-deleted',
    everyMs: 5_000,
    run: async () => {
      await purge(options, false);
      const { watermark } = await storage.poolStatus();
      if (watermark === 'ok' || (await isPurging(catalog, nodeId))) return;
      await purge(options, true);
    },
  };
}

async function purge({ catalog, queue, nodeId, logger }: LifeCycleOptions, early: boolean): Promise<void> {
  const branches = await branchesToPurge(catalog, nodeId, early);
  for (const { id, projectId } of branches) {
    const removal: NewOperation = { projectId, branchId: id, action: 'delete_timeline' };
    await catalog.transaction(async (tx) => {
      if (await purgeBranch(tx, id)) await queue.append(tx, [removal]);
    });
    logger.info({ branch: id, early }, 'a deleted branch cannot be recovered any more');
  }
  if (!early || branches.length === 0) {
    for (const projectId of await projectsToPurge(catalog, nodeId, early)) {
      await catalog.transaction(async (tx) => {
        const removals = (await purgeProject(tx, projectId)).map(({ branchId, timelineId }): NewOperation => ({
          projectId,
          branchId,
          action: 'delete_timeline',
          payload: { wholeProject: true, ...(timelineId !== null && { timelineIds: [timelineId] }) },
        }));
        await queue.append(tx, removals);
      });
      logger.info({ project: projectId, early }, 'a deleted project cannot be recovered any more');
    }
  }
  queue.poke();
}

export function archiveBranches({ catalog, nodeId, logger }: LifeCycleOptions): Reconciler {
  return {
    name: 'archive-branches',
    everyMs: 600_000,
    run: async () => {
      const count = await archiveUnused(catalog, nodeId);
      if (count > 0) logger.info({ count }, 'archived branches that nobody uses');
    },
  };
}
