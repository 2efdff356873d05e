/**
 * Connections to the past: which compute stands at a point of a branch's history.
 *
 * The branch is looked up for each of them, because a restore gives it other data.
 */
import { pastWork } from '../catalog/proxy-lookups.ts';
import { AppError } from '../lib/errors.ts';
import type { PointQuery } from '../lib/point.ts';
import type { ProxyAccessDependencies } from './proxy-access.ts';
import type { ProxyEndpoint, SocketAddress } from './proxy-access.types.ts';

export interface PastAccess {
  /** Throws AppError with a text for the client. */
  reach(endpoint: ProxyEndpoint, point: PointQuery, stale: SocketAddress | undefined): Promise<SocketAddress>;
  noteConnections(endpoint: ProxyEndpoint, open: number): void;
}

const MAX_KEPT = 10_000;

export const BRANCH_NOT_READY = 'the branch has no history yet';

export function createPastAccess({ catalog, compute }: ProxyAccessDependencies): PastAccess {
  /** By branch: the timeline that its clients were sent to last. */
  const timelines = new Map<string, { projectId: string; timelineId: string }>();
  const open = new Map<string, number>();
  return {
    reach: async ({ branchId }, point, stale) => {
      const work = await pastWork(catalog, branchId);
      if (!work) throw new AppError('unprocessable', BRANCH_NOT_READY);
      const { projectId, projectNumber, timelineId, pgVersion, minCu, maxCu } = work;
      if (timelines.size >= MAX_KEPT) timelines.clear();
      timelines.set(branchId, { projectId, timelineId });
      compute.past.noteConnections({ projectId, timelineId }, open.get(branchId) ?? 0);
      const nowMs = Date.now();
      const window = { startMs: nowMs - work.historyRetentionSeconds * 1_000, nowMs };
      const size = minCu === null || maxCu === null ? {} : { size: { minCu, maxCu } };
      const branch = { projectId, projectNumber, timelineId, pgVersion, ...size };
      const refused = stale && { stale: addressOf(stale) };
      const { socketDirectory, port } = await compute.past.reach(branch, point, window, refused ?? {});
      return { path: `${socketDirectory}/.s.PGSQL.${port}` };
    },
    noteConnections: ({ branchId }, count) => {
      if (count === 0) open.delete(branchId);
      else open.set(branchId, count);
      const timeline = timelines.get(branchId);
      if (timeline) compute.past.noteConnections(timeline, count);
    },
  };
}

function addressOf({ path }: SocketAddress): { socketDirectory: string; port: number } {
  const [, socketDirectory, port] = /^(.*)\/\.s\.PGSQL\.(\d+)$/.exec(path) ?? ['', '', '0'];
  return { socketDirectory: socketDirectory!, port: Number(port) };
}
