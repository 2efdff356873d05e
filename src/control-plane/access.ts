/**
 * Who may do what, by kind of key: personal keys reach everything, organization keys the projects of their
 * organization, project keys one project. What a key cannot reach looks as if it did not exist.
 */
import type { ProjectRow } from '../catalog/types.ts';
import { AppError } from '../lib/errors.ts';
import type { Caller } from './caller.ts';
import { organizationNotFound } from './errors.ts';

/** For operations on a user's own things. */
export function assertPersonalKey(caller: Caller): void {
  if (caller.kind === 'organization') throw new AppError('not_found', 'not allowed for organization API keys');
  if (caller.kind === 'project') throw outsideOfProject(caller);
}

/** For operations that are about more than one project. */
export function assertNotProjectKey(caller: Caller): void {
  if (caller.kind === 'project') throw outsideOfProject(caller);
}

/** A project key touches its own project only; needs no look at the catalog. */
export function assertKeyCovers(caller: Caller, projectId: string): void {
  if (caller.kind === 'project' && caller.projectId !== projectId) throw outsideOfProject(caller);
}

export function mayReach(caller: Caller, project: Pick<ProjectRow, 'id' | 'orgId'>): boolean {
  if (caller.kind === 'personal') return true;
  if (caller.kind === 'organization') return project.orgId === caller.orgId;
  return project.id === caller.projectId;
}

/** Throws 'not_found' when the organization is out of the caller's reach; it may still not exist. */
export function assertOrganizationInReach(caller: Caller, orgId: string): void {
  assertNotProjectKey(caller);
  if (caller.kind === 'organization' && caller.orgId !== orgId) throw organizationNotFound();
}

// Clients take the project's id out of this text.
function outsideOfProject(caller: Caller): AppError {
  return new AppError(
    'not_found',
    `not allowed to perform actions outside the project this key is scoped to; subject_project_id:"${caller.projectId}"`,
  );
}
