/**
 * apply_schema_from_branch: a new root branch gets the roles, databases and schemas of another branch, at its head or at
 * a point of its past. The branch is ready only then, so that no client meets half of it.
 */
import { schemaCopyWork, type SchemaCopyPayload } from '../../catalog/schema-copies.ts';
import { branchFailed, branchReady, recordFacts, settlePending, timelineWork } from '../../catalog/transitions.ts';
import type { OperationRow } from '../../catalog/types.ts';
import { AppError } from '../../lib/errors.ts';
import type { PointQuery } from '../../lib/point.ts';
import type { Action } from '../types.ts';
import { branchOf, pendingChanges, type ActionContext } from './context.ts';

export function applySchemaFromBranch(context: ActionContext): Action {
  const { catalog, storage, copySchema, ownerOf } = context;
  return {
    run: async (operation, signal) => {
      const branchId = branchOf(operation);
      const branch = await timelineWork(catalog, branchId);
      if (!branch) throw new AppError('not_found', 'branch not found');
      if (context.poolIsFull()) throw new AppError('unavailable', 'the storage pool is full');
      const { projectId, pgVersion, projectNumber } = branch;
      const { sourceBranchId, sourceTimelineId, point, archived = false } = sourceOf(operation);
      const work = await schemaCopyWork(catalog, branchId, sourceBranchId);
      const owner = ownerOf(projectNumber);
      const { endpointId, minCu, maxCu } = work;
      const size = minCu !== null && maxCu !== null ? { size: { minCu, maxCu } } : {};
      const facts = await copySchema.copy(
        {
          source: { projectId, timelineId: sourceTimelineId, pgVersion, owner, endpointId, ...size },
          point,
          // That it may be asked for was found out when it was.
          window: { startMs: 0, nowMs: Date.now() },
          target: {
            projectId,
            timelineId: branch.timelineId,
            pgVersion,
            owner,
            preloadLibraries: context.defaultPreloadLibraries,
          },
          changes: pendingChanges(work),
        },
        signal,
      );
      return {
        transition: async (tx) => {
          await settlePending(tx, branchId, work);
          await recordFacts(tx, { projectId, branchId }, facts);
          await branchReady(tx, { branchId, parentLsn: null, parentTimestamp: null, archived });
        },
      };
    },
    undo: async (operation) => {
      const branchId = branchOf(operation);
      const branch = await timelineWork(catalog, branchId);
      if (branch) {
        await copySchema.abandon(branch);
        await storage.deleteTimeline(branch);
      }
      return { transition: (tx) => branchFailed(tx, branchId) };
    },
  };
}

function sourceOf(operation: OperationRow): SchemaCopyPayload & { point: PointQuery } {
  const payload = operation.payload as Partial<SchemaCopyPayload>;
  const { sourceBranchId, sourceTimelineId, lsn, archived } = payload;
  if (sourceBranchId === undefined || sourceTimelineId === undefined) {
    throw new AppError('unprocessable', 'the operation names no source');
  }
  const point: PointQuery = lsn === undefined ? { kind: 'head' } : { kind: 'lsn', lsn };
  return { sourceBranchId, sourceTimelineId, point, ...(archived && { archived }) };
}
