/**
 * Watches the pool's free space. On a copy-on-write file system even an overwrite needs room, so before the very end
 * every compute that may write is put to sleep; starts are refused until there is room again.
 * (Branches are refused much earlier, by storage itself.)
 */
import type { CatalogDatabase } from '../catalog/database.ts';
import { endpointsByIds } from '../catalog/reconciling.ts';
import type { Supervisor } from '../compute/types.ts';
import type { Logger } from '../lib/log.ts';
import type { OperationQueue } from '../operations/types.ts';
import type { Storage } from '../storage/types.ts';
import type { Reconciler } from './reconciler.ts';
import { suspend } from './suspend-idle.ts';

export interface WatchSpaceOptions {
  catalog: CatalogDatabase;
  queue: OperationQueue;
  supervisor: Pick<Supervisor, 'running'>;
  storage: Pick<Storage, 'poolStatus'>;
  logger: Logger;
}

export interface WatchSpace extends Reconciler {
  /** As of the last look. */
  isFull(): boolean;
}

export function watchSpace(options: WatchSpaceOptions): WatchSpace {
  let watermark: string | undefined;
  return {
    name: 'watch-space',
    everyMs: 2_000,
    isFull: () => watermark === 'full',
    run: async () => {
      const status = await options.storage.poolStatus();
      if (watermark !== undefined && watermark !== status.watermark) {
        options.logger.warn(
          { watermark: status.watermark, freeBytes: status.freeBytes, totalBytes: status.totalBytes },
          'free space of the pool',
        );
      }
      watermark = status.watermark;
      if (watermark !== 'full') return;
      const endpoints = await endpointsByIds(options.catalog, options.supervisor.running());
      for (const endpoint of endpoints) {
        if (endpoint.type === 'read_write') await suspend(options.catalog, options.queue, endpoint, { force: true });
      }
    },
  };
}
