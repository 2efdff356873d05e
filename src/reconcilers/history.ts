/**
 * Keeps the history of branches: bases where they are due, and nothing that is older than the project's window.
 */
import { endpointsByIds, historiesToTrim } from '../catalog/reconciling.ts';
import type { Queryable } from '../catalog/types.ts';
import type { Supervisor } from '../compute/types.ts';
import type { Storage } from '../storage/types.ts';
import type { Reconciler } from './reconciler.ts';

export interface HistoryOptions {
  catalog: Queryable;
  storage: Pick<Storage, 'trimHistory' | 'keepHistory'>;
  supervisor: Pick<Supervisor, 'running' | 'timelineOf'>;
  nodeId: string;
  nowMs?: () => number;
}

/** A request that was let in at the edge of the window is carried out a moment later. */
const SLACK_MS = 60_000;

/** Those that run: only they write. */
export function keepHistory({ catalog, storage, supervisor }: HistoryOptions): Reconciler {
  return {
    name: 'keep-history',
    everyMs: 10_000,
    run: async () => {
      for (const endpoint of await endpointsByIds(catalog, supervisor.running())) {
        if (endpoint.type === 'read_only' || endpoint.deleted) continue;
        // Not what the row names: the endpoint may have moved to other data that it does not run on yet.
        const timeline = supervisor.timelineOf(endpoint.id) ?? endpoint;
        await storage.keepHistory(timeline, { windowMs: endpoint.historyRetentionSeconds * 1_000 });
      }
    },
  };
}

export function trimHistory({ catalog, storage, nodeId, nowMs = Date.now }: HistoryOptions): Reconciler {
  return {
    name: 'trim-history',
    everyMs: 600_000,
    run: async () => {
      for (const { projectId, timelineId, windowSeconds, pinned } of await historiesToTrim(catalog, nodeId)) {
        await storage.keepHistory({ projectId, timelineId }, { windowMs: windowSeconds * 1_000 });
        const startMs = nowMs() - windowSeconds * 1_000 - SLACK_MS;
        await storage.trimHistory({ projectId, timelineId }, { startMs, pinned });
      }
    },
  };
}
