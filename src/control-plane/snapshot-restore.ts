/**
 * Restoring a snapshot: it becomes a root branch of its own, to be looked at first or to take the place of another branch
 * at once. Taking the place means: the computes of that branch, its name, its flags and its backup schedule are the new
 * branch's from the request on (catalog/snapshot-restores.ts); hosts stay, clients are cut once when the data is there.
 * The branch that was replaced keeps its data and its children under another name.
 */
import type { FinalizeRestoreBranchResponses, RestoreSnapshotData, RestoreSnapshotResponses } from '@neon/sdk/raw';
import { countBranches, findBranch, findBranchByName } from '../catalog/branches.ts';
import { lockReadWriteEndpoint, markEndpointDeleted } from '../catalog/endpoints.ts';
import {
  copySettledRows,
  insertRestoredBranch,
  isUnderWay,
  moveEndpoints,
  replaceBranch,
  type Replacement,
} from '../catalog/snapshot-restores.ts';
import type { BranchRow, EndpointRow, ProjectRow, Queryable, SnapshotRow } from '../catalog/types.ts';
import { AppError } from '../lib/errors.ts';
import { newBranchId } from '../lib/ids.ts';
import type { NewOperation } from '../operations/types.ts';
import type { Caller } from './caller.ts';
import { changeProject, readProject, type Context } from './context.ts';
import { isAwake } from './endpoint-rules.ts';
import { conflictingOperations, invalidRequest, unprocessable, withDetails } from './errors.ts';
import { LIMITS } from './limits.ts';
import { validateDisplayName } from './names.ts';
import { assertNotRestoring, branchOf } from './points.ts';
import { presentBranch, presentEndpoint, presentOperation, presentTime } from './present.ts';
import { snapshotOf } from './snapshots.ts';

export type RestoreBody = NonNullable<RestoreSnapshotData['body']>;

export interface SnapshotRestores {
  restoreSnapshot(
    caller: Caller,
    projectId: string,
    snapshotId: string,
    body: RestoreBody,
  ): Promise<RestoreSnapshotResponses[200]>;
  /** `name` is what the replaced branch is called from then on. */
  finalizeRestore(
    caller: Caller,
    projectId: string,
    branchId: string,
    name: string | undefined,
  ): Promise<FinalizeRestoreBranchResponses[200]>;
}

const MAX_NAME = 256;

export function createSnapshotRestores(context: Context): SnapshotRestores {
  return {
    restoreSnapshot: async (caller, projectId, snapshotId, body) => {
      if (body.name) validateName(body.name);
      await readProject(context, caller, projectId);
      await context.assertRoomForTimeline();
      return changeProject(context, caller, projectId, (tx, project) =>
        restore(context, tx, { caller, project, snapshotId, body }),
      );
    },
    finalizeRestore: (caller, projectId, branchId, name) => {
      if (name) validateName(name);
      return changeProject(context, caller, projectId, (tx) => finalize(context, tx, { projectId, branchId, name }));
    },
  };
}

function validateName(name: string): void {
  if (name.length > MAX_NAME) throw invalidRequest('branch name is too long');
  validateDisplayName('branch', name);
}

interface RestorePlan {
  caller: Caller;
  project: ProjectRow;
  snapshotId: string;
  body: RestoreBody;
}

async function restore(context: Context, tx: Queryable, plan: RestorePlan): Promise<RestoreSnapshotResponses[200]> {
  const { caller, project, body } = plan;
  const snapshot = await snapshotOf(tx, project.id, plan.snapshotId);
  const target = await targetOf(tx, project.id, snapshot, body);
  if ((await countBranches(tx, project.id, undefined)) >= LIMITS.branchesPerProject) {
    throw unprocessable('branches limit exceeded', {}, 'BRANCHES_LIMIT_EXCEEDED');
  }
  const id = newBranchId();
  if (body.name) await assertFree(tx, project.id, body.name);
  const branch = await insertRestoredBranch(tx, {
    id,
    projectId: project.id,
    // With finalize_restore both names are settled below.
    name: (!body.finalize_restore && body.name) || (await previewName(tx, context, snapshot, id)),
    snapshotId: snapshot.id,
    targetId: target?.id ?? null,
    logicalSizeBytes: snapshot.fullSizeBytes,
    createdBy: caller.userId,
  });
  await copySettledRows(tx, snapshot.sourceBranchId, id);
  const create: NewOperation = {
    projectId: project.id,
    branchId: id,
    action: 'create_branch',
    payload: { parentTimelineId: snapshot.timelineId },
  };
  if (!body.finalize_restore) return present(context, project, branch, [], await context.queue.append(tx, [create]));

  if (!target) throw replacedIsGone();
  const replaced = await takePlace(tx, target, branch, body.name || undefined);
  create.payload = { ...create.payload, replacement: replaced.replacement };
  const operations = await context.queue.append(tx, [create, ...replaced.operations]);
  return present(context, project, replaced.branch, replaced.endpoints, operations);
}

/** Undefined: the branch that the snapshot was taken of is deleted, and none else was named. */
async function targetOf(
  tx: Queryable,
  projectId: string,
  snapshot: SnapshotRow,
  body: RestoreBody,
): Promise<BranchRow | undefined> {
  if (body.target_branch_id) return branchOf(tx, projectId, body.target_branch_id);
  return findBranch(tx, projectId, snapshot.sourceBranchId);
}

const replacedIsGone = () =>
  unprocessable(
    'the branch that the restored one is to replace does not exist any more; name another target_branch_id',
  );

function present(
  context: Context,
  project: ProjectRow,
  branch: BranchRow,
  endpoints: readonly EndpointRow[],
  operations: Parameters<typeof presentOperation>[0][],
): RestoreSnapshotResponses[200] {
  const now = context.now();
  return {
    branch: presentBranch(branch),
    endpoints: endpoints.map((endpoint) => presentEndpoint(endpoint, project.provisioner, context.config)),
    operations: operations.map((operation) => presentOperation(operation, now)),
  };
}

async function finalize(
  context: Context,
  tx: Queryable,
  asked: { projectId: string; branchId: string; name: string | undefined },
): Promise<FinalizeRestoreBranchResponses[200]> {
  const { projectId, branchId } = asked;
  const branch = await branchOf(tx, projectId, branchId);
  if (branch.restoreStatus === 'finalized') throw unprocessable('the restore of this branch is finalized already');
  if (branch.restoreStatus !== 'restored' || branch.restoredFrom === null) {
    throw unprocessable('the branch was not restored from a snapshot');
  }
  if (branch.currentState === 'init' && branch.pendingState === null) throw unprocessable('branch not ready yet');
  if (branch.restoredAs === null) throw replacedIsGone();
  const target = await findBranch(tx, projectId, branch.restoredAs);
  if (!target) throw replacedIsGone();
  if (asked.name) await assertFree(tx, projectId, asked.name);
  const own = await lockReadWriteEndpoint(tx, branch.id);
  const { operations } = await takePlace(tx, target, branch, asked.name || undefined, own);
  const appended = await context.queue.append(tx, operations);
  const now = context.now();
  return { operations: appended.map((operation) => presentOperation(operation, now)) };
}

interface Taken {
  branch: BranchRow;
  endpoints: EndpointRow[];
  replacement: Replacement;
  /** Cut the clients off the old data and bring the computes up on the new; only what was awake. */
  operations: NewOperation[];
}

/**
 * `own` is the read-write endpoint that the branch had for itself: it goes when that of the replaced branch comes,
 * because a branch has but one. Throws 'locked' while anything else is under way on either branch: whose data an
 * operation was meant for would not be certain any more.
 */
async function takePlace(
  tx: Queryable,
  target: BranchRow,
  branch: BranchRow,
  name: string | undefined,
  own?: EndpointRow,
): Promise<Taken> {
  if (target.id === branch.id) throw unprocessable('a branch cannot replace itself');
  if (await isUnderWay(tx, [target.id, branch.id])) throw conflictingOperations();
  await assertNotRestoring(tx, target);
  if (target.currentState === 'init') throw unprocessable('branch not ready yet');
  const oldName = name ?? (await freeName(tx, target.projectId, `${target.name} (old)`));
  const comes = await lockReadWriteEndpoint(tx, target.id);
  const { projectId } = branch;
  const operations: NewOperation[] = [];
  if (own && comes) {
    await markEndpointDeleted(tx, own.id);
    operations.push({ projectId, branchId: branch.id, endpointId: own.id, action: 'suspend_compute' });
  }
  const row = await replaceBranch(tx, target, { branchId: branch.id, oldName });
  const endpoints = await moveEndpoints(tx, target.id, branch.id);
  const { name: before, isDefault, protected: isProtected, expiresAt, ttlIntervalSeconds } = target;
  return {
    branch: row,
    endpoints,
    replacement: {
      replacedBranchId: target.id,
      oldName,
      before: { name: before, isDefault, protected: isProtected, expiresAt, ttlIntervalSeconds },
      endpointIds: endpoints.map((endpoint) => endpoint.id),
    },
    operations: [...operations, ...restarts(target, branch, endpoints)],
  };
}

/** Read replicas stop before what they follow, and start after it. */
function restarts(target: BranchRow, branch: BranchRow, endpoints: readonly EndpointRow[]): NewOperation[] {
  const writersFirst = endpoints
    .filter(isAwake)
    .toSorted((a, b) => Number(a.type === 'read_only') - Number(b.type === 'read_only'));
  const place = { projectId: branch.projectId, branchId: branch.id };
  const ran = { branchId: target.id, timelineId: target.timelineId };
  return [
    ...writersFirst.toReversed().map((endpoint): NewOperation => ({
      ...place,
      endpointId: endpoint.id,
      action: 'suspend_compute',
      payload: { ran },
    })),
    ...writersFirst.map((endpoint): NewOperation => ({
      ...place,
      endpointId: endpoint.id,
      action: 'start_compute',
    })),
  ];
}

async function assertFree(tx: Queryable, projectId: string, name: string): Promise<void> {
  if (!(await findBranchByName(tx, projectId, name))) return;
  throw new AppError('conflict', withDetails('branch already exists', { branch_name: name }), {
    code: 'BRANCH_ALREADY_EXISTS',
  });
}

async function previewName(tx: Queryable, context: Context, snapshot: SnapshotRow, id: string): Promise<string> {
  const name = `${snapshot.name} (restored ${presentTime(context.now().toISOString())})`;
  return name.length > MAX_NAME || (await findBranchByName(tx, snapshot.projectId, name)) ? id : name;
}

/** The name itself, or with the first number that makes it free. */
async function freeName(tx: Queryable, projectId: string, name: string): Promise<string> {
  for (let number = 1; ; number += 1) {
    const candidate = number === 1 ? name : `${name} ${number}`;
    if (!(await findBranchByName(tx, projectId, candidate))) return candidate;
  }
}
