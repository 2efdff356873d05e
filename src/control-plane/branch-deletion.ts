/**
 * Deleting branches and having them back. A deleted branch is gone for readers at once and keeps its data for a week;
 * its computes are put to sleep, its name is free.
 */
import type { DeleteProjectBranchResponses, Endpoint } from '@neon/sdk/raw';
import { countBranches, countRoots, findBranch, findBranchByName, findFirstChild } from '../catalog/branches.ts';
import { findDeletedBranch, markBranchDeleted, nearestAncestor, recoverBranch } from '../catalog/deletion.ts';
import { listBranchEndpoints } from '../catalog/endpoints.ts';
import type { BranchRow, Queryable } from '../catalog/types.ts';
import { AppError } from '../lib/errors.ts';
import type { NewOperation } from '../operations/types.ts';
import type { Caller } from './caller.ts';
import { changeProject, type Context } from './context.ts';
import { branchNotFound, unprocessable, withDetails } from './errors.ts';
import { LIMITS } from './limits.ts';
import { assertNotRestoring } from './points.ts';
import { presentBranch, presentEndpoint, presentOperation } from './present.ts';

export interface BranchDeletion {
  /** Undefined: there is no such branch any more. */
  delete(
    caller: Caller,
    projectId: string,
    id: string,
    options: { hard: boolean },
  ): Promise<DeleteProjectBranchResponses[200] | undefined>;
  recover(
    caller: Caller,
    projectId: string,
    id: string,
  ): Promise<{ branch: ReturnType<typeof presentBranch>; endpoints: Endpoint[] }>;
}

export function createBranchDeletion(context: Context): BranchDeletion {
  return {
    delete: (caller, projectId, id, options) => remove(context, caller, { projectId, id, ...options }),
    recover: (caller, projectId, id) => recover(context, caller, projectId, id),
  };
}

async function remove(context: Context, caller: Caller, asked: { projectId: string; id: string; hard: boolean }) {
  const { projectId, id } = asked;
  return changeProject(context, caller, projectId, async (tx) => {
    const branch = await findBranch(tx, projectId, id);
    if (!branch) {
      // What was deleted before can still be deleted for good.
      const deleted = asked.hard ? await findDeletedBranch(tx, projectId, id) : undefined;
      return deleted && removeRows(context, tx, deleted, true);
    }
    await assertDeletable(tx, branch);
    // A branch that has not been made yet leaves nothing that could be had back.
    return removeRows(context, tx, branch, asked.hard || branch.currentState === 'init');
  });
}

async function removeRows(context: Context, tx: Queryable, branch: BranchRow, forGood: boolean) {
  const { id, projectId } = branch;
  const endpoints = await listBranchEndpoints(tx, id);
  const row = await markBranchDeleted(tx, id, { method: 'user', forGood });
  const place = { projectId, branchId: id };
  const operations: NewOperation[] = endpoints.map((endpoint) => ({
    ...place,
    endpointId: endpoint.id,
    action: 'suspend_compute',
  }));
  if (forGood) operations.push({ ...place, action: 'delete_timeline' });
  const appended = await context.queue.append(tx, operations);
  const now = context.now();
  return {
    branch: presentBranch(row),
    operations: appended.map((operation) => presentOperation(operation, now)),
  };
}

async function assertDeletable(tx: Queryable, branch: BranchRow): Promise<void> {
  // Further roots come from restores and from schema-only branches: those may go.
  if (branch.parentId === null && (await countRoots(tx, branch.projectId)) === 1) {
    throw unprocessable('cannot delete the root branch');
  }
  if (branch.isDefault) throw unprocessable('cannot delete the default branch');
  if (branch.protected) throw unprocessable('cannot delete protected branch');
  const child = await findFirstChild(tx, branch.id);
  // Clients match this text with the bare id behind it.
  if (child) throw unprocessable(`cannot delete branch that has children: ${child.id}`);
  await assertNotRestoring(tx, branch);
}

async function recover(context: Context, caller: Caller, projectId: string, id: string) {
  return changeProject(context, caller, projectId, async (tx, project) => {
    const deleted = await findDeletedBranch(tx, projectId, id);
    if (!deleted) throw branchNotFound();
    const parent = await nearestAncestor(tx, id);
    if (parent && parent.deletedAt !== null) {
      throw unprocessable('the parent of the branch is deleted, too; recover it first', { branch_id: parent.id });
    }
    if (await findBranchByName(tx, projectId, deleted.name)) {
      // Somebody took the name meanwhile; whoever renames that branch can have this one back.
      throw new AppError('conflict', withDetails('branch already exists', { branch_name: deleted.name }), {
        code: 'BRANCH_ALREADY_EXISTS',
      });
    }
    if ((await countBranches(tx, projectId, undefined)) >= LIMITS.branchesPerProject) {
      throw unprocessable('branches limit exceeded', {}, 'BRANCHES_LIMIT_EXCEEDED');
    }
    const { branch, endpoints } = await recoverBranch(tx, id, parent?.id ?? null);
    return {
      branch: presentBranch(branch),
      endpoints: endpoints.map((row) => presentEndpoint(row, project.provisioner, context.config)),
    };
  });
}
