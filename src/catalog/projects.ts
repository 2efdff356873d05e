/**
 * Queries on `projects`. Deleted projects are invisible to every query here except as the place of a list's cursor, and
 * to lists that ask for them (deletion.ts has the rest).
 */
import type { JsonObject, ProjectRow, Queryable } from './types.ts';

/** The owner is part of what a single project shows, so one query brings both. */
export interface ProjectWithOwner extends ProjectRow {
  ownerName: string;
  ownerEmail: string;
}

export interface ProjectListRow extends ProjectRow {
  orgName: string;
}

export interface NewProject {
  id: string;
  nodeId: string;
  orgId: string;
  ownerId: string;
  name: string;
  regionId: string;
  provisioner: string;
  pgVersion: number;
  storePasswords: boolean;
  historyRetentionSeconds: number;
  defaultEndpointSettings: JsonObject;
  settings: JsonObject;
}

export interface ProjectListOptions {
  /** Undefined: of every organization. */
  orgId: string | undefined;
  search: string | undefined;
  /** Id of the last project of the page before. */
  cursor: string | undefined;
  limit: number;
  /** Those that are deleted and can be had back, instead of those that are there. */
  recoverable: boolean;
}

export async function insertProject(tx: Queryable, project: NewProject): Promise<ProjectRow> {
  const rows = await tx.query<ProjectRow>(
    `insert into projects (id, node_id, org_id, owner_id, name, region_id, provisioner, pg_version, store_passwords,
       history_retention_seconds, default_endpoint_settings, settings)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) returning *`,
    [
      project.id,
      project.nodeId,
      project.orgId,
      project.ownerId,
      project.name,
      project.regionId,
      project.provisioner,
      project.pgVersion,
      project.storePasswords,
      project.historyRetentionSeconds,
      JSON.stringify(project.defaultEndpointSettings),
      JSON.stringify(project.settings),
    ],
  );
  return rows[0]!;
}

export async function findProjects(db: Queryable, ids: readonly string[]): Promise<Map<string, ProjectWithOwner>> {
  const rows = await db.query<ProjectWithOwner>(
    `select p.*, u.name as owner_name, u.email as owner_email
     from projects p join users u on u.id = p.owner_id where p.id = any ($1) and p.deleted_at is null`,
    [ids],
    'find_projects',
  );
  return new Map(rows.map((row) => [row.id, row]));
}

/**
 * Locks the project's row until the end of the transaction: changes of one project happen one after another.
 * The lock leaves foreign keys alone (`no key`), so that it never waits for, or blocks, rows that only point here.
 */
export async function lockProject(tx: Queryable, id: string): Promise<ProjectRow | undefined> {
  const rows = await tx.query<ProjectRow>(
    'select * from projects where id = $1 and deleted_at is null for no key update',
    [id],
    'lock_project',
  );
  return rows[0];
}

/** Newest first. */
export async function listProjects(db: Queryable, options: ProjectListOptions): Promise<ProjectListRow[]> {
  return db.query<ProjectListRow>(
    `select p.*, o.name as org_name from projects p join organizations o on o.id = p.org_id
     where case when $5 then p.deleted_at is not null and p.purged_at is null and p.recoverable_until > now()
       else p.deleted_at is null end
       and ($1::text is null or p.org_id = $1)
       and ($2::text is null or position(lower($2) in lower(p.name)) > 0 or position(lower($2) in p.id) > 0)
       and ($3::text is null or (p.created_at, p.id) < (select c.created_at, c.id from projects c where c.id = $3))
     order by p.created_at desc, p.id desc limit $4`,
    [options.orgId ?? null, options.search ?? null, options.cursor ?? null, options.limit, options.recoverable],
    'list_projects',
  );
}

/** True when the id can be a cursor: it may have been deleted since the page that named it. */
export async function projectEverExisted(db: Queryable, id: string): Promise<boolean> {
  const rows = await db.query('select 1 from projects where id = $1', [id]);
  return rows.length > 0;
}

export async function countProjects(db: Queryable): Promise<number> {
  const rows = await db.query<{ count: number }>('select count(*) as count from projects where deleted_at is null');
  return rows[0]!.count;
}

export interface ProjectChanges {
  name: string;
  historyRetentionSeconds: number;
  defaultEndpointSettings: JsonObject;
  settings: JsonObject;
}

/** The row must be locked: every changeable column is written. */
export async function updateProject(tx: Queryable, id: string, changes: ProjectChanges): Promise<ProjectRow> {
  const rows = await tx.query<ProjectRow>(
    `update projects set name = $2, history_retention_seconds = $3, default_endpoint_settings = $4, settings = $5,
       updated_at = now()
     where id = $1 returning *`,
    [
      id,
      changes.name,
      changes.historyRetentionSeconds,
      JSON.stringify(changes.defaultEndpointSettings),
      JSON.stringify(changes.settings),
    ],
  );
  return rows[0]!;
}
