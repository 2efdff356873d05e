/**
 * Roles of a branch. A change is a row that says what is pending, and an operation that brings it into Postgres.
 */
import type {
  CreateProjectBranchRoleResponses,
  DeleteProjectBranchRoleResponses,
  GetProjectBranchRolePasswordResponses,
  GetProjectBranchRoleResponses,
  ListProjectBranchRolesResponses,
  ResetProjectBranchRolePasswordResponses,
  RoleCreateRequest,
} from '@neon/sdk/raw';
import { findBranch } from '../catalog/branches.ts';
import { listDatabasesOwnedBy } from '../catalog/databases.ts';
import { lockReadWriteEndpoint } from '../catalog/endpoints.ts';
import {
  findRole,
  findRoleInAnyState,
  insertRole,
  listRoles,
  setRoleState,
  updateRolePassword,
} from '../catalog/roles.ts';
import type { EndpointRow, ProjectRow, Queryable, RoleRow } from '../catalog/types.ts';
import { AppError } from '../lib/errors.ts';
import type { Caller } from './caller.ts';
import { changeProject, readProject, type Context } from './context.ts';
import { applyConfigOperations } from './endpoint-rules.ts';
import { branchNotFound, conflictingOperations, roleNotFound, unprocessable, withDetails } from './errors.ts';
import { LIMITS } from './limits.ts';
import { validateRoleName } from './names.ts';
import { makePassword } from './passwords.ts';
import { presentOperation, presentRole } from './present.ts';

export interface Roles {
  list(caller: Caller, projectId: string, branchId: string): Promise<ListProjectBranchRolesResponses[200]>;
  get(caller: Caller, projectId: string, branchId: string, name: string): Promise<GetProjectBranchRoleResponses[200]>;
  create(
    caller: Caller,
    projectId: string,
    branchId: string,
    body: RoleCreateRequest,
  ): Promise<CreateProjectBranchRoleResponses[201]>;
  /** Undefined: there is no such role any more. */
  delete(
    caller: Caller,
    projectId: string,
    branchId: string,
    name: string,
  ): Promise<DeleteProjectBranchRoleResponses[200] | undefined>;
  revealPassword(
    caller: Caller,
    projectId: string,
    branchId: string,
    name: string,
  ): Promise<GetProjectBranchRolePasswordResponses[200]>;
  resetPassword(
    caller: Caller,
    projectId: string,
    branchId: string,
    name: string,
  ): Promise<ResetProjectBranchRolePasswordResponses[200]>;
}

export function createRoles(context: Context): Roles {
  const readBranch = async (caller: Caller, projectId: string, branchId: string) => {
    const project = await readProject(context, caller, projectId);
    if (!(await findBranch(context.catalog, projectId, branchId))) throw branchNotFound();
    return project;
  };
  return {
    list: async (caller, projectId, branchId) => {
      await readBranch(caller, projectId, branchId);
      return { roles: (await listRoles(context.catalog, branchId)).map((row) => presentRole(row)) };
    },
    get: async (caller, projectId, branchId, name) => {
      await readBranch(caller, projectId, branchId);
      const row = await findRole(context.catalog, branchId, name);
      if (!row) throw roleNotFound();
      return { role: presentRole(row) };
    },
    revealPassword: async (caller, projectId, branchId, name) => {
      const project = await readBranch(caller, projectId, branchId);
      const row = await findRole(context.catalog, branchId, name);
      if (!row) throw roleNotFound();
      return { password: openPassword(context, project, row) };
    },
    create: (caller, projectId, branchId, body) => create(context, caller, projectId, branchId, body),
    delete: (caller, projectId, branchId, name) => remove(context, caller, projectId, branchId, name),
    resetPassword: (caller, projectId, branchId, name) => reset(context, caller, projectId, branchId, name),
  };
}

/** Throws 'precondition' where there is no password to show. */
export function openPassword(context: Context, project: ProjectRow, role: RoleRow): string {
  if (role.sealedPassword !== null) return context.secretBox.open(role.sealedPassword);
  if (!project.storePasswords) throw new AppError('precondition', 'Storing passwords is disabled');
  throw new AppError(
    'precondition',
    withDetails('the password of this role is not stored; reset it to get a new one', { role_name: role.name }),
  );
}

type RoleWork = (tx: Queryable, project: ProjectRow) => Promise<{ role: RoleRow; password?: string } | undefined>;

/** Changes a role of a branch that has a compute to change it in, and appends what brings it into Postgres. */
async function changeRole(
  context: Context,
  caller: Caller,
  place: { projectId: string; branchId: string },
  work: RoleWork,
) {
  return changeProject(context, caller, place.projectId, async (tx, project) => {
    if (!(await findBranch(tx, place.projectId, place.branchId))) throw branchNotFound();
    const changed = await work(tx, project);
    if (!changed) return undefined;
    const endpoint = await requireEndpoint(tx, place.branchId, 'roles');
    const operations = await context.queue.append(tx, applyConfigOperations(endpoint));
    const now = context.now();
    return {
      role: presentRole(changed.role, changed.password),
      operations: operations.map((operation) => presentOperation(operation, now)),
    };
  });
}

/** Roles and databases live in Postgres, so there must be one that can write. */
export async function requireEndpoint(
  tx: Queryable,
  branchId: string,
  what: 'roles' | 'databases',
): Promise<EndpointRow> {
  const endpoint = await lockReadWriteEndpoint(tx, branchId);
  if (endpoint) return endpoint;
  throw new AppError('precondition', `create a read-write endpoint to manage ${what} on this branch`);
}

async function create(
  context: Context,
  caller: Caller,
  projectId: string,
  branchId: string,
  body: RoleCreateRequest,
): Promise<CreateProjectBranchRoleResponses[201]> {
  const name = validateRoleName(body.role.name);
  const noLogin = body.role.no_login ?? false;
  const { storePasswords } = await readProject(context, caller, projectId);
  const password = noLogin ? undefined : await makePassword(context.secretBox, storePasswords);
  const made = await changeRole(context, caller, { projectId, branchId }, async (tx) => {
    const existing = await findRoleInAnyState(tx, branchId, name);
    // Its name is free once Postgres has dropped it.
    if (existing?.state === 'deleting') throw conflictingOperations();
    if (existing) throw new AppError('conflict', withDetails('role already exists', { role_name: name }));
    if ((await listRoles(tx, branchId)).length >= LIMITS.rolesPerBranch) {
      throw unprocessable('roles limit exceeded', {}, 'ROLES_LIMIT_EXCEEDED');
    }
    const role = await insertRole(tx, {
      projectId,
      branchId,
      name,
      verifier: password?.verifier ?? null,
      sealedPassword: password?.sealedPassword ?? null,
      noLogin,
    });
    return { role, password: password?.password };
  });
  return made!;
}

async function remove(context: Context, caller: Caller, projectId: string, branchId: string, name: string) {
  return changeRole(context, caller, { projectId, branchId }, async (tx) => {
    const role = await findRole(tx, branchId, name);
    if (!role) return undefined;
    if (role.protected) throw unprocessable('cannot delete protected role', { role_name: name });
    const [owned] = await listDatabasesOwnedBy(tx, branchId, name);
    if (owned) {
      throw unprocessable('cannot delete role that owns a database', { role_name: name, database_name: owned.name });
    }
    return { role: await setRoleState(tx, branchId, name, 'deleting') };
  });
}

async function reset(context: Context, caller: Caller, projectId: string, branchId: string, name: string) {
  const { storePasswords } = await readProject(context, caller, projectId);
  const password = await makePassword(context.secretBox, storePasswords);
  const changed = await changeRole(context, caller, { projectId, branchId }, async (tx) => {
    const role = await findRole(tx, branchId, name);
    if (!role) throw roleNotFound();
    if (role.protected) throw unprocessable('cannot reset the password of a protected role', { role_name: name });
    if (role.noLogin) throw unprocessable('role cannot log in', { role_name: name });
    return { role: await updateRolePassword(tx, branchId, name, password), password: password.password };
  });
  return changed!;
}
