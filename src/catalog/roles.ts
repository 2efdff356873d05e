/**
 * Queries on `roles` for the control plane. Rows in state `deleting` are gone for readers; they wait for Postgres to
 * drop the role, and their names cannot be used until then.
 */
import type { PendingState, Queryable, RoleRow } from './types.ts';

export interface NewRole {
  projectId: string;
  branchId: string;
  name: string;
  verifier: string | null;
  sealedPassword: Buffer | null;
  noLogin: boolean;
}

/** A new role is in state `creating` until it exists in Postgres. */
export async function insertRole(tx: Queryable, role: NewRole): Promise<RoleRow> {
  const rows = await tx.query<RoleRow>(
    `insert into roles (project_id, branch_id, name, state, verifier, sealed_password, no_login)
     values ($1, $2, $3, 'creating', $4, $5, $6) returning *`,
    [role.projectId, role.branchId, role.name, role.verifier, role.sealedPassword, role.noLogin],
  );
  return rows[0]!;
}

/**
 * Gives a child branch the roles of its parent, with what is still pending: whether the clone already holds it or not,
 * applying it again does no harm.
 */
export async function copyRoles(tx: Queryable, parentBranchId: string, childBranchId: string): Promise<RoleRow[]> {
  const rows = await tx.query<RoleRow>(
    `insert into roles (project_id, branch_id, name, state, verifier, sealed_password, no_login, protected, plain, created_at,
       updated_at)
     select project_id, $2, name, state, verifier, sealed_password, no_login, protected, plain, created_at, updated_at
     from roles where branch_id = $1
     returning *`,
    [parentBranchId, childBranchId],
  );
  return rows.filter((role) => role.state !== 'deleting').sort(byCreation);
}

/** Rows in any state, `deleting` too. */
export async function findRoleInAnyState(db: Queryable, branchId: string, name: string): Promise<RoleRow | undefined> {
  const rows = await db.query<RoleRow>(
    'select * from roles where branch_id = $1 and name = $2',
    [branchId, name],
    'find_role',
  );
  return rows[0];
}

export async function findRole(db: Queryable, branchId: string, name: string): Promise<RoleRow | undefined> {
  const role = await findRoleInAnyState(db, branchId, name);
  return role?.state === 'deleting' ? undefined : role;
}

export async function listRoles(db: Queryable, branchId: string): Promise<RoleRow[]> {
  return db.query<RoleRow>(
    `select * from roles where branch_id = $1 and state <> 'deleting' order by created_at, name`,
    [branchId],
    'list_roles',
  );
}

/** Sets a password; a role that Postgres does not have yet stays `creating`. */
export async function updateRolePassword(
  tx: Queryable,
  branchId: string,
  name: string,
  password: { verifier: string; sealedPassword: Buffer | null },
): Promise<RoleRow> {
  const rows = await tx.query<RoleRow>(
    `update roles set verifier = $3, sealed_password = $4, updated_at = clock_timestamp(),
       state = case when state = 'creating' then state else 'updating' end
     where branch_id = $1 and name = $2 returning *`,
    [branchId, name, password.verifier, password.sealedPassword],
  );
  return rows[0]!;
}

export async function setRoleState(
  tx: Queryable,
  branchId: string,
  name: string,
  state: PendingState,
): Promise<RoleRow> {
  const rows = await tx.query<RoleRow>(
    'update roles set state = $3, updated_at = clock_timestamp() where branch_id = $1 and name = $2 returning *',
    [branchId, name, state],
  );
  return rows[0]!;
}

function byCreation(a: RoleRow, b: RoleRow): number {
  if (a.createdAt !== b.createdAt) return a.createdAt < b.createdAt ? -1 : 1;
  return a.name < b.name ? -1 : 1;
}
