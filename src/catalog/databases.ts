/**
 * Queries on `databases` for the control plane. Rows in state `deleting` are gone for readers; they wait for Postgres
 * to drop the database, and their names cannot be used until then.
 */
import type { DatabaseRow, Queryable } from './types.ts';

export interface NewDatabase {
  projectId: string;
  branchId: string;
  name: string;
  ownerName: string;
}

/** A new database is in state `creating` until it exists in Postgres. */
export async function insertDatabase(tx: Queryable, database: NewDatabase): Promise<DatabaseRow> {
  const rows = await tx.query<DatabaseRow>(
    `insert into databases (project_id, branch_id, name, owner_name, state)
     values ($1, $2, $3, $4, 'creating') returning *`,
    [database.projectId, database.branchId, database.name, database.ownerName],
  );
  return rows[0]!;
}

/** As copyRoles: the child begins with what its parent has and with what is pending there. */
export async function copyDatabases(
  tx: Queryable,
  parentBranchId: string,
  childBranchId: string,
): Promise<DatabaseRow[]> {
  const rows = await tx.query<DatabaseRow>(
    `insert into databases (project_id, branch_id, name, owner_name, state, applied_name, created_at, updated_at)
     select project_id, $2, name, owner_name, state, applied_name, created_at, updated_at
     from databases where branch_id = $1 order by id
     returning *`,
    [parentBranchId, childBranchId],
  );
  return rows.filter((database) => database.state !== 'deleting').sort((a, b) => a.id - b.id);
}

/** Rows in any state, `deleting` too. */
export async function findDatabaseInAnyState(
  db: Queryable,
  branchId: string,
  name: string,
): Promise<DatabaseRow | undefined> {
  const rows = await db.query<DatabaseRow>(
    'select * from databases where branch_id = $1 and name = $2',
    [branchId, name],
    'find_database',
  );
  return rows[0];
}

export async function findDatabase(db: Queryable, branchId: string, name: string): Promise<DatabaseRow | undefined> {
  const database = await findDatabaseInAnyState(db, branchId, name);
  return database?.state === 'deleting' ? undefined : database;
}

export async function listDatabases(db: Queryable, branchId: string): Promise<DatabaseRow[]> {
  return db.query<DatabaseRow>(
    `select * from databases where branch_id = $1 and state <> 'deleting' order by id`,
    [branchId],
    'list_databases',
  );
}

/** Databases of a role, without those that are about to be dropped. */
export async function listDatabasesOwnedBy(db: Queryable, branchId: string, role: string): Promise<DatabaseRow[]> {
  return db.query<DatabaseRow>(
    `select * from databases where branch_id = $1 and owner_name = $2 and state <> 'deleting' order by id`,
    [branchId, role],
  );
}

/** `appliedName` is what Postgres calls it now, where that is not the new name. */
export async function updateDatabase(
  tx: Queryable,
  id: number,
  changes: { name: string; ownerName: string; appliedName: string | null },
): Promise<DatabaseRow> {
  const rows = await tx.query<DatabaseRow>(
    `update databases set name = $2, owner_name = $3, applied_name = $4, state = 'updating',
       updated_at = clock_timestamp()
     where id = $1 returning *`,
    [id, changes.name, changes.ownerName, changes.appliedName],
  );
  return rows[0]!;
}

export async function markDatabaseDeleting(tx: Queryable, id: number): Promise<DatabaseRow> {
  const rows = await tx.query<DatabaseRow>(
    `update databases set state = 'deleting', updated_at = clock_timestamp() where id = $1 returning *`,
    [id],
  );
  return rows[0]!;
}
