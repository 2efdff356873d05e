/**
 * Queries on `organizations`. The oldest one is the default organization.
 */
import type { OrganizationRow, Queryable } from './types.ts';

export async function findOrganization(db: Queryable, id: string): Promise<OrganizationRow | undefined> {
  const rows = await db.query<OrganizationRow>('select * from organizations where id = $1', [id], 'find_organization');
  return rows[0];
}

export async function findDefaultOrganization(db: Queryable): Promise<OrganizationRow | undefined> {
  const rows = await db.query<OrganizationRow>('select * from organizations order by created_at, id limit 1');
  return rows[0];
}

export async function listOrganizations(db: Queryable): Promise<OrganizationRow[]> {
  return db.query<OrganizationRow>('select * from organizations order by created_at, id');
}

export async function insertOrganization(
  db: Queryable,
  organization: Pick<OrganizationRow, 'id' | 'name' | 'handle'>,
): Promise<OrganizationRow> {
  const rows = await db.query<OrganizationRow>(
    'insert into organizations (id, name, handle) values ($1, $2, $3) returning *',
    [organization.id, organization.name, organization.handle],
  );
  return rows[0]!;
}
