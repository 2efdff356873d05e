/**
 * Points in the past, as requests name them. They are resolved while the request waits, before its transaction: whoever
 * asks for a point that does not exist is told so at once.
 */
import { findBranch } from '../catalog/branches.ts';
import { pendingRestore } from '../catalog/restores.ts';
import type { BranchRow, ProjectRow, Queryable } from '../catalog/types.ts';
import { isAppError } from '../lib/errors.ts';
import { parseLsn } from '../lib/lsn.ts';
import { parseTime, timeToMs, type PointQuery, type ResolvedPoint } from '../lib/point.ts';
import type { Context } from './context.ts';
import { branchNotFound, conflictingOperations, invalidRequest, unprocessable } from './errors.ts';

/** Throws 'invalid'. Without either the head is meant. `names` are those of the request's fields. */
export function parsePoint(
  asked: { lsn?: string | undefined; time?: string | undefined },
  names: { lsn: string; time: string },
): PointQuery {
  const { lsn, time } = asked;
  if (lsn !== undefined && time !== undefined) {
    throw invalidRequest(`${names.lsn} and ${names.time} cannot be used together`);
  }
  if (lsn !== undefined) {
    try {
      parseLsn(lsn);
    } catch {
      throw invalidRequest(`${names.lsn} is not an LSN`, { [names.lsn]: lsn.slice(0, 100) });
    }
    return { kind: 'lsn', lsn };
  }
  if (time === undefined) return { kind: 'head' };
  const parsed = parseTime(time);
  if (parsed === undefined) {
    throw invalidRequest(`${names.time} is not a time with a time zone`, { [names.time]: time.slice(0, 100) });
  }
  return { kind: 'time', time: parsed };
}

/** A point, and the timeline that it is in. */
export interface PointOf extends ResolvedPoint {
  timelineId: string;
}

/**
 * Undefined for the head: that is where the branch stands when the operation comes to it.
 * Throws 'unprocessable' for what the history does not hold, 'locked' while the branch gets another one.
 */
export async function resolvePoint(
  context: Context,
  project: ProjectRow,
  branch: BranchRow,
  query: PointQuery,
): Promise<PointOf | undefined> {
  if (query.kind === 'head') return undefined;
  if (branch.currentState === 'init') throw unprocessable('branch not ready yet');
  if (await pendingRestore(context.catalog, branch)) throw conflictingOperations();
  const nowMs = context.now().getTime();
  const window = { startMs: nowMs - project.historyRetentionSeconds * 1_000, nowMs };
  const { timelineId } = branch;
  const resolve = (asked: PointQuery) => context.resolvePoint({ projectId: project.id, timelineId }, asked, window);
  try {
    return { ...(await resolve(query)), timelineId };
  } catch (error) {
    const first = firstState(branch, query, nowMs);
    if (!first || !isAppError(error, 'unprocessable')) throw error;
    return { ...(await resolve(first)), timelineId };
  }
}

/** Its data is made a moment after a branch was asked for (or its restore); what it was in between is what it began as. */
function firstState(branch: BranchRow, query: PointQuery, nowMs: number): PointQuery | undefined {
  if (query.kind !== 'time' || branch.parentLsn === null || timeToMs(query.time) > nowMs) return undefined;
  const asked = `${(branch.lastResetAt ?? branch.createdAt).slice(0, 19)}.000000Z`;
  return query.time >= asked ? { kind: 'lsn', lsn: branch.parentLsn } : undefined;
}

/**
 * What `create_branch` is to clone. The branch may have been restored since the point was resolved ('locked': the client
 * asks again). One that is being restored will have another timeline by the time that its head is cloned.
 */
export async function cloneSource(
  tx: Queryable,
  branch: BranchRow,
  point: PointOf | undefined,
): Promise<{ parentTimelineId: string; lsn?: string }> {
  const pending = await pendingRestore(tx, branch);
  if (point) {
    if (pending || point.timelineId !== branch.timelineId) throw conflictingOperations();
    return { parentTimelineId: point.timelineId, lsn: point.lsn };
  }
  if (pending && pending.branchId !== branch.id) throw conflictingOperations();
  return { parentTimelineId: pending?.restore.timelineId ?? branch.timelineId };
}

/** Throws 'locked' while the branch, or the one that it is the backup of, is being restored. */
export async function assertNotRestoring(tx: Queryable, branch: BranchRow): Promise<void> {
  if (await pendingRestore(tx, branch)) throw conflictingOperations();
}

/** Throws 'locked' while it is not certain that the branch will stay. */
export async function assertNotBackup(tx: Queryable, branch: BranchRow): Promise<void> {
  const pending = await pendingRestore(tx, branch);
  if (pending && pending.branchId !== branch.id) throw conflictingOperations();
}

/** Throws 'not_found'. */
export async function branchOf(db: Queryable, projectId: string, id: string): Promise<BranchRow> {
  const branch = await findBranch(db, projectId, id);
  if (!branch) throw branchNotFound();
  return branch;
}

/** The runner creates a parent before its children; one that could not be made never will be. */
export function assertBranchable(parent: BranchRow): void {
  const failed = parent.currentState === 'init' && parent.pendingState === null;
  if (failed) throw unprocessable('branch not ready yet');
}
