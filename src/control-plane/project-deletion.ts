/**
 * Deleting projects and having them back: within a week with all that was in them, under the same connection strings.
 */
import type { DeleteProjectResponses, RecoverProjectResponses } from '@neon/sdk/raw';
import { listAllBranches } from '../catalog/branches.ts';
import { lockDeletedProject, markProjectDeleted, recoverProject } from '../catalog/deletion.ts';
import { listProjectEndpoints } from '../catalog/endpoints.ts';
import { countProjects, findProjects } from '../catalog/projects.ts';
import { AppError } from '../lib/errors.ts';
import { assertKeyCovers, mayReach } from './access.ts';
import type { Caller } from './caller.ts';
import { changeProject, type Context } from './context.ts';
import { conflictingOperations, projectNotFound, unprocessable } from './errors.ts';
import { LIMITS } from './limits.ts';
import { presentBranch, presentProject } from './present.ts';

export interface ProjectDeletion {
  delete(caller: Caller, id: string): Promise<DeleteProjectResponses[200]>;
  recover(caller: Caller, id: string): Promise<RecoverProjectResponses[200]>;
}

export function createProjectDeletion(context: Context): ProjectDeletion {
  return {
    delete: (caller, id) => remove(context, caller, id),
    recover: (caller, id) => recover(context, caller, id),
  };
}

function assertNoProjectKey(caller: Caller): void {
  if (caller.kind === 'project') throw new AppError('not_found', 'not allowed for project-scoped API keys');
}

async function remove(context: Context, caller: Caller, id: string): Promise<DeleteProjectResponses[200]> {
  assertNoProjectKey(caller);
  return changeProject(context, caller, id, async (tx) => {
    const branches = await listAllBranches(tx, id);
    const guarded = branches.find((branch) => branch.protected);
    if (guarded) throw unprocessable('cannot delete project with protected branches', { branch_id: guarded.id });
    if (branches.some((branch) => branch.currentState === 'resetting')) throw conflictingOperations();
    const endpoints = await listProjectEndpoints(tx, id);
    const row = await markProjectDeleted(tx, id);
    const sleep = endpoints.map((endpoint) => ({
      projectId: id,
      branchId: endpoint.branchId,
      endpointId: endpoint.id,
      action: 'suspend_compute' as const,
    }));
    await context.queue.append(tx, sleep);
    return { project: presentProject(row, context.config) };
  });
}

async function recover(context: Context, caller: Caller, id: string): Promise<RecoverProjectResponses[200]> {
  assertNoProjectKey(caller);
  assertKeyCovers(caller, id);
  const answer = await context.catalog.transaction(async (tx) => {
    const deleted = await lockDeletedProject(tx, id);
    if (!deleted || !mayReach(caller, deleted)) throw projectNotFound();
    if ((await countProjects(tx)) >= LIMITS.projects) {
      throw unprocessable('projects limit exceeded', {}, 'PROJECTS_LIMIT_EXCEEDED');
    }
    await recoverProject(tx, id);
    const row = (await findProjects(tx, [id])).get(id)!;
    const branches = await listAllBranches(tx, id);
    return { project: presentProject(row, context.config), branches: branches.map(presentBranch) };
  });
  context.onProjectChanged(id);
  return answer;
}
