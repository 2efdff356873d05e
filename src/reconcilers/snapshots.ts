/**
 * Snapshots over time: those that expire are deleted, and what each holds alone is measured again as its source changes.
 */
import type { CatalogDatabase } from '../catalog/database.ts';
import { lockProject } from '../catalog/projects.ts';
import {
  expiredSnapshots,
  isCloned,
  isSnapshotExpired,
  markSnapshotDeleted,
  recordSnapshotSizes,
  removalPayload,
  snapshotsToMeasure,
} from '../catalog/snapshots.ts';
import type { Logger } from '../lib/log.ts';
import type { OperationQueue } from '../operations/types.ts';
import type { Storage } from '../storage/types.ts';
import type { Reconciler } from './reconciler.ts';

export interface SnapshotsOptions {
  catalog: CatalogDatabase;
  queue: OperationQueue;
  storage: Pick<Storage, 'size' | 'ownBytes'>;
  nodeId: string;
  logger: Logger;
  now?: () => Date;
}

/** Measuring one reads the maps of a thousand files. */
const MEASURED_AT_ONCE = 20;

export function expireSnapshots({
  catalog,
  queue,
  nodeId,
  logger,
  now = () => new Date(),
}: SnapshotsOptions): Reconciler {
  return {
    name: 'expire-snapshots',
    everyMs: 5_000,
    run: async () => {
      const at = now().toISOString();
      for (const { id, projectId, sourceBranchId, timelineId } of await expiredSnapshots(catalog, nodeId, at)) {
        const done = await catalog.transaction(async (tx) => {
          // As requests do: nobody begins to restore it, or keeps it for longer, until this has ended.
          if (!(await lockProject(tx, projectId)) || !(await isSnapshotExpired(tx, id, at))) return false;
          if (await isCloned(tx, timelineId)) return false;
          await markSnapshotDeleted(tx, id);
          const payload = removalPayload({ timelineId });
          await queue.append(tx, [{ projectId, branchId: sourceBranchId, action: 'delete_timeline', payload }]);
          return true;
        });
        if (done) logger.info({ snapshot: id }, 'a snapshot expired');
        queue.poke();
      }
    },
  };
}

/** A few at each run, in turn. */
export function measureSnapshots({ catalog, storage, nodeId, logger }: SnapshotsOptions): Reconciler {
  let afterId = '';
  return {
    name: 'measure-snapshots',
    everyMs: 600_000,
    run: async () => {
      const some = await snapshotsToMeasure(catalog, { nodeId, afterId, limit: MEASURED_AT_ONCE });
      afterId = some.length === MEASURED_AT_ONCE ? some.at(-1)!.id : '';
      for (const snapshot of some) {
        try {
          const { logicalBytes } = await storage.size(snapshot);
          const ownBytes = await storage.ownBytes(snapshot);
          await recordSnapshotSizes(catalog, snapshot.id, { fullBytes: logicalBytes, ownBytes });
        } catch (error) {
          // Deleted meanwhile, most likely; the others are measured all the same.
          logger.debug({ err: error, snapshot: snapshot.id }, 'a snapshot could not be measured');
        }
      }
    },
  };
}
