/**
 * Restore and reset: a branch gets the data of a point of its own past, or of another branch, and keeps its id, name,
 * endpoints and hosts. What it had is kept under another name if asked for (with the children, which hang on it).
 *
 * Lineage: restored from its own past a branch becomes a child of its backup, restored from another branch a child of
 * that one; a root stays a root. catalog/restores.ts has the rows, operations/actions/create-branch.ts the work.
 */
import type { BranchRestoreRequest, RestoreProjectBranchResponses } from '@neon/sdk/raw';
import { countBranches, findBranchByName, findFirstChild } from '../catalog/branches.ts';
import { listBranchEndpoints, setEndpointPendingState } from '../catalog/endpoints.ts';
import {
  beginRestore,
  hasProtectedAncestor,
  insertBackup,
  type RestoredRows,
  type RestorePayload,
} from '../catalog/restores.ts';
import type { BranchRow, ProjectRow, Queryable } from '../catalog/types.ts';
import { AppError } from '../lib/errors.ts';
import { newBranchId } from '../lib/ids.ts';
import type { PointQuery } from '../lib/point.ts';
import type { NewOperation } from '../operations/types.ts';
import type { Caller } from './caller.ts';
import { changeProject, readProject, type Context } from './context.ts';
import { isAwake } from './endpoint-rules.ts';
import { conflictingOperations, invalidRequest, unprocessable, withDetails } from './errors.ts';
import { assertMayBeParent } from './expiration.ts';
import { LIMITS } from './limits.ts';
import { validateDisplayName } from './names.ts';
import {
  assertBranchable,
  assertNotRestoring,
  branchOf,
  cloneSource,
  parsePoint,
  resolvePoint,
  type PointOf,
} from './points.ts';
import { presentBranch, presentOperation } from './present.ts';

type Restored = RestoreProjectBranchResponses[200];

export interface Restores {
  restore(caller: Caller, projectId: string, branchId: string, body: BranchRestoreRequest): Promise<Restored>;
  /** To the head of the parent. */
  resetToParent(caller: Caller, projectId: string, branchId: string): Promise<Restored>;
}

export function createRestores(context: Context): Restores {
  return {
    restore: async (caller, projectId, branchId, body) => {
      const query = parsePoint(
        { lsn: body.source_lsn, time: body.source_timestamp },
        { lsn: 'source_lsn', time: 'source_timestamp' },
      );
      const name = body.preserve_under_name || null;
      if (name !== null) validateName(name);
      return perform(context, caller, { projectId, branchId, sourceId: body.source_branch_id, query, name });
    },
    resetToParent: async (caller, projectId, branchId) => {
      await readProject(context, caller, projectId);
      const { parentId } = await branchOf(context.catalog, projectId, branchId);
      if (parentId === null) throw unprocessable('cannot reset the root branch: it has no parent');
      return perform(context, caller, { projectId, branchId, sourceId: parentId, query: { kind: 'head' }, name: null });
    },
  };
}

function validateName(name: string): void {
  if (name.length > 256) throw invalidRequest('preserve_under_name is too long');
  validateDisplayName('branch', name);
}

interface Asked {
  projectId: string;
  branchId: string;
  sourceId: string;
  query: PointQuery;
  /** What the state that is replaced is kept under. */
  name: string | null;
}

async function perform(context: Context, caller: Caller, asked: Asked): Promise<Restored> {
  const project = await readProject(context, caller, asked.projectId);
  const target = await branchOf(context.catalog, project.id, asked.branchId);
  const source = await branchOf(context.catalog, project.id, asked.sourceId);
  await assertRestorable(context.catalog, target, source, asked);
  await context.assertRoomForTimeline();
  const point = await resolvePoint(context, project, source, asked.query);
  const shown = point ?? (await headNow(context, project, source));
  return changeProject(context, caller, project.id, (tx) =>
    record(context, tx, caller, { project, asked, point, shown }),
  );
}

async function assertRestorable(db: Queryable, target: BranchRow, source: BranchRow, asked: Asked): Promise<void> {
  if (target.protected) throw unprocessable('cannot reset protected branch');
  if (target.id === source.id) {
    if (asked.query.kind === 'head') {
      throw invalidRequest('source_timestamp or source_lsn is required to restore a branch from its own history');
    }
    if (asked.name === null) {
      throw invalidRequest('preserve_under_name is required to restore a branch from its own history');
    }
  }
  if (asked.name === null && (await findFirstChild(db, target.id))) {
    throw unprocessable('Branch has children, preserve_under_name is required');
  }
  if (target.currentState === 'init') throw unprocessable('branch not ready yet');
  assertBranchable(source);
  await assertNotRestoring(db, target);
  if (target.id !== source.id && target.parentId !== null) assertMayBeParent(source);
}

interface Shown {
  lsn: string | null;
  time: string | null;
}

/** Where the source stands now, to be shown; where it is when the operation comes to it, the operation tells. */
async function headNow(context: Context, project: ProjectRow, source: BranchRow): Promise<Shown> {
  const nowMs = context.now().getTime();
  const time = `${new Date(nowMs).toISOString().slice(0, 19)}.000000Z`;
  if (source.currentState === 'init' || source.currentState === 'resetting') return { lsn: null, time };
  const timeline = { projectId: project.id, timelineId: source.timelineId };
  try {
    const head = await context.resolvePoint(timeline, { kind: 'head' }, { startMs: 0, nowMs });
    return { ...head, time: head.time ?? time };
  } catch {
    return { lsn: null, time };
  }
}

async function record(
  context: Context,
  tx: Queryable,
  caller: Caller,
  plan: { project: ProjectRow; asked: Asked; point: PointOf | undefined; shown: Shown },
): Promise<Restored> {
  const { asked, point, shown } = plan;
  const target = await branchOf(tx, asked.projectId, asked.branchId);
  const source = await branchOf(tx, asked.projectId, asked.sourceId);
  await assertRestorable(tx, target, source, asked);
  const isReady = source.currentState === 'ready' || source.currentState === 'archived';
  // A branch waits for its parent to be made; a root has none.
  if (target.parentId === null && !isReady) throw conflictingOperations();
  const clone = await cloneSource(tx, source, point);
  const restore = await planRestore(tx, target, source, asked.name);
  if (asked.name !== null) await assertNameAndRoom(tx, asked.projectId, asked.name);
  const { backupId: id, timelineId } = restore;
  await insertBackup(tx, target, { id, timelineId, name: asked.name, createdBy: caller.userId });
  const parentId = target.id === source.id ? id : source.id;
  const row = await beginRestore(tx, target.id, {
    parentId: target.parentId === null ? null : parentId,
    parentLsn: shown.lsn,
    parentTimestamp: shown.time,
  });
  const create: NewOperation = {
    projectId: target.projectId,
    branchId: target.id,
    action: 'create_branch',
    payload: { ...clone, restore },
  };
  const operations = await context.queue.append(tx, await around(tx, target, create, restore.preserved));
  const now = context.now();
  return { branch: presentBranch(row), operations: operations.map((operation) => presentOperation(operation, now)) };
}

async function planRestore(
  tx: Queryable,
  target: BranchRow,
  source: BranchRow,
  name: string | null,
): Promise<RestorePayload> {
  const { currentState, parentId, parentLsn, parentTimestamp, expiresAt, lastResetAt } = target;
  return {
    // A timeline's name is its own, so a branch's id does for one.
    timelineId: newBranchId(),
    backupId: newBranchId(),
    preserved: name !== null,
    sourceBranchId: source.id,
    rows: await rowsAfter(tx, target, source),
    before: { currentState, parentId, parentLsn, parentTimestamp, expiresAt, lastResetAt },
  };
}

/** Nobody who knows a password of a protected branch gets into another one with it. */
async function rowsAfter(tx: Queryable, target: BranchRow, source: BranchRow): Promise<RestoredRows> {
  if (target.id === source.id) return (await hasProtectedAncestor(tx, target.id)) ? 'own-keep' : 'keep';
  return source.protected ? 'own' : 'source';
}

async function assertNameAndRoom(tx: Queryable, projectId: string, name: string): Promise<void> {
  if (await findBranchByName(tx, projectId, name)) {
    throw new AppError('conflict', withDetails('branch already exists', { branch_name: name }), {
      code: 'BRANCH_ALREADY_EXISTS',
    });
  }
  if ((await countBranches(tx, projectId, undefined)) >= LIMITS.branchesPerProject) {
    throw unprocessable('branches limit exceeded', {}, 'BRANCHES_LIMIT_EXCEEDED');
  }
}

/** Computes that are awake sleep meanwhile; the read-write one is back first, the others follow it. */
async function around(
  tx: Queryable,
  target: BranchRow,
  create: NewOperation,
  preserved: boolean,
): Promise<NewOperation[]> {
  const place = { projectId: target.projectId, branchId: target.id };
  const endpoints = (await listBranchEndpoints(tx, target.id)).filter(isAwake);
  for (const endpoint of endpoints) await setEndpointPendingState(tx, endpoint.id, 'active');
  const writersFirst = endpoints.toSorted((a, b) => Number(a.type === 'read_only') - Number(b.type === 'read_only'));
  const each = (list: typeof endpoints, action: 'suspend_compute' | 'start_compute') =>
    list.map((endpoint): NewOperation => ({ ...place, endpointId: endpoint.id, action }));
  const timelineIds = [target.timelineId];
  return [
    ...each(writersFirst.toReversed(), 'suspend_compute'),
    create,
    ...each(writersFirst, 'start_compute'),
    ...(preserved ? [] : [{ ...place, action: 'delete_timeline' as const, payload: { timelineIds } }]),
  ];
}
