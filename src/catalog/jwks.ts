/**
 * Queries on `project_jwks`: who may log in with a JWT, and where the keys are that verify it.
 */
import type { JwksRow, Queryable } from './types.ts';

export type NewJwks = Omit<JwksRow, 'createdAt' | 'updatedAt'>;

export async function insertJwks(tx: Queryable, jwks: NewJwks): Promise<JwksRow> {
  const rows = await tx.query<JwksRow>(
    `insert into project_jwks (id, project_id, branch_id, jwks_url, provider_name, jwt_audience, role_names)
     values ($1, $2, $3, $4, $5, $6, $7) returning *`,
    [jwks.id, jwks.projectId, jwks.branchId, jwks.jwksUrl, jwks.providerName, jwks.jwtAudience, jwks.roleNames],
  );
  return rows[0]!;
}

/** Oldest first. */
export async function listJwks(db: Queryable, projectId: string): Promise<JwksRow[]> {
  return db.query<JwksRow>(
    'select * from project_jwks where project_id = $1 order by created_at, id',
    [projectId],
    'list_jwks',
  );
}

/** Undefined: the project has no such row. */
export async function deleteJwks(tx: Queryable, projectId: string, id: string): Promise<JwksRow | undefined> {
  const [row] = await tx.query<JwksRow>(
    'delete from project_jwks where project_id = $1 and id::text = $2 returning *',
    [projectId, id],
  );
  return row;
}

/** On the branch, or on every branch of the project: roles without rights or password, where there are none of that name. */
export async function insertPlainRoles(
  tx: Queryable,
  projectId: string,
  branchId: string | null,
  names: readonly string[],
): Promise<void> {
  await tx.query(
    `insert into roles (project_id, branch_id, name, state, plain)
     select b.project_id, b.id, n.name, 'creating', true from branches b cross join unnest($3::text[]) as n (name)
     where b.project_id = $1 and b.deleted_at is null and ($2::text is null or b.id = $2)
     on conflict (branch_id, name) do nothing`,
    [projectId, branchId, names],
  );
}
