/**
 * Lets go of the WAL that is older than each project's history window.
 */
import { historyWindows } from '../catalog/reconciling.ts';
import type { Queryable } from '../catalog/types.ts';
import type { Storage } from '../storage/types.ts';
import type { Reconciler } from './reconciler.ts';

export interface TrimHistoryOptions {
  catalog: Queryable;
  storage: Pick<Storage, 'trimHistory'>;
  nodeId: string;
  nowMs?: () => number;
}

export function trimHistory({ catalog, storage, nodeId, nowMs = Date.now }: TrimHistoryOptions): Reconciler {
  return {
    name: 'trim-history',
    everyMs: 600_000,
    run: async () => {
      for (const { projectId, branchId, windowSeconds } of await historyWindows(catalog, nodeId)) {
        await storage.trimHistory({ projectId, branchId }, nowMs() - windowSeconds * 1_000);
      }
    },
  };
}
