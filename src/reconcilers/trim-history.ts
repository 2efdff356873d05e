/**
 * Lets go of the bases and the WAL that are older than each project's history window.
 */
import { historiesToTrim } from '../catalog/reconciling.ts';
import type { Queryable } from '../catalog/types.ts';
import type { Storage } from '../storage/types.ts';
import type { Reconciler } from './reconciler.ts';

export interface TrimHistoryOptions {
  catalog: Queryable;
  storage: Pick<Storage, 'trimHistory'>;
  nodeId: string;
  nowMs?: () => number;
}

/** A request that was let in at the edge of the window is carried out a moment later. */
const SLACK_MS = 60_000;

export function trimHistory({ catalog, storage, nodeId, nowMs = Date.now }: TrimHistoryOptions): Reconciler {
  return {
    name: 'trim-history',
    everyMs: 600_000,
    run: async () => {
      for (const { projectId, timelineId, windowSeconds, pinned } of await historiesToTrim(catalog, nodeId)) {
        const startMs = nowMs() - windowSeconds * 1_000 - SLACK_MS;
        await storage.trimHistory({ projectId, timelineId }, { startMs, pinned });
      }
    },
  };
}
