/**
 * Projects as text: all rows of one project, as they are, so that a lost catalog can be had back from the pool.
 *
 * Which tables belong to a project is asked of the catalog itself (whatever has a project_id), so that a later one is
 * not forgotten. Operations and API keys are left out: what was under way is over, and keys are no project's property.
 */
import type { JsonObject, Queryable } from './types.ts';

export interface ProjectDescription {
  formatVersion: 1;
  project: JsonObject;
  /** Rows by table, columns as in the catalog. */
  tables: Record<string, JsonObject[]>;
  /** Who its rows refer to; descriptions of earlier releases have none. */
  people?: People;
}

export interface People {
  users: JsonObject[];
  organizations: JsonObject[];
}

const LEFT_OUT = ['operations', 'api_keys'];
/** Others refer to their rows. */
const FIRST = ['branches', 'endpoints'];

export async function projectTables(db: Queryable): Promise<string[]> {
  const rows = await db.query<{ name: string }>(
    `select c.table_name as name from information_schema.columns c
     join information_schema.tables t using (table_schema, table_name)
     where c.table_schema = 'ballast' and c.column_name = 'project_id' and t.table_type = 'BASE TABLE'
     order by c.table_name`,
  );
  const names = rows.map(({ name }) => name).filter((name) => !LEFT_OUT.includes(name));
  return [...FIRST, ...names.filter((name) => !FIRST.includes(name))];
}

/**
 * Projects of the node that were touched after `since` (ISO 8601), or all that are not purged. Rows that were removed
 * leave no trace: only looking at all of them tells.
 */
export async function touchedProjects(db: Queryable, nodeId: string, since: string | undefined): Promise<string[]> {
  const touched = (await timedTables(db)).map(
    (table) => `or exists (select 1 from ${table} t where t.project_id = p.id and t.updated_at > $2)`,
  );
  const rows = await db.query<{ id: string }>(
    `select p.id from projects p where p.node_id = $1 and p.purged_at is null and ($2::timestamptz is null
       or p.updated_at > $2 ${touched.join(' ')})`,
    [nodeId, since ?? null],
  );
  return rows.map(({ id }) => id);
}

/** Tables of projects whose rows say when they changed. */
async function timedTables(db: Queryable): Promise<string[]> {
  const rows = await db.query<{ name: string }>(
    `select c.table_name as name from information_schema.columns c
     join information_schema.columns u using (table_schema, table_name)
     where c.table_schema = 'ballast' and c.column_name = 'project_id' and u.column_name = 'updated_at'
     order by c.table_name`,
  );
  return rows.map(({ name }) => name);
}

/** The catalog's clock: ISO 8601. */
export async function catalogNow(db: Queryable): Promise<string> {
  const [row] = await db.query<{ now: string }>('select now() as now', [], 'catalog_now');
  return row!.now;
}

/**
 * JSON of ProjectDescription, the same text for the same rows; undefined when there is no such project. `tables` is
 * projectTables(), asked for once by who describes many.
 */
export async function describeProject(
  db: Queryable,
  projectId: string,
  tables: readonly string[],
): Promise<string | undefined> {
  const parts = tables.map(
    (table) =>
      `'${table}', (select coalesce(jsonb_agg(to_jsonb(t) order by to_jsonb(t)::text), '[]') from ${table} t
        where t.project_id = p.id)`,
  );
  const [row] = await db.query<{ text: string }>(
    `select jsonb_build_object('formatVersion', 1, 'project', to_jsonb(p),
       'tables', jsonb_build_object(${parts.join(', ')}),
       'people', jsonb_build_object(
         'users', (select coalesce(jsonb_agg(to_jsonb(u) order by u.id), '[]')
           from (select id, email, name, last_name, created_at from users) u where u.id = p.owner_id
             or exists (select 1 from branches b where b.project_id = p.id and b.created_by = u.id)
             or exists (select 1 from snapshots s where s.project_id = p.id and s.created_by = u.id)),
         'organizations', (select jsonb_agg(to_jsonb(o)) from
           (select id, name, handle, plan, created_at, updated_at from organizations) o where o.id = p.org_id)))::text as text
     from projects p where p.id = $1 and p.purged_at is null`,
    [projectId],
  );
  return row?.text;
}

/**
 * Brings back who the projects belong to, under their old ids. The catalog has no projects: whoever is in it was made by
 * a start that did not know of the loss, and its keys go as well. Returns the ids that there are now.
 */
export async function insertPeople(
  tx: Queryable,
  people: readonly People[],
): Promise<{ users: ReadonlySet<unknown>; organizations: ReadonlySet<unknown> }> {
  if (people.length > 0) {
    await tx.query('delete from api_keys');
    await tx.query('delete from organizations');
    await tx.query('delete from users');
  }
  for (const { users, organizations } of people) {
    await tx.query(
      `insert into users (id, email, name, last_name, created_at) select id, email, name, last_name, created_at
       from jsonb_populate_recordset(null::users, $1::jsonb) on conflict do nothing`,
      [JSON.stringify(users)],
    );
    await tx.query(
      `insert into organizations (id, name, handle, plan, created_at, updated_at)
       select id, name, handle, plan, created_at, updated_at
       from jsonb_populate_recordset(null::organizations, $1::jsonb) on conflict do nothing`,
      [JSON.stringify(organizations)],
    );
  }
  const ids = async (table: string) =>
    new Set<unknown>((await tx.query<{ id: string }>(`select id from ${table}`)).map(({ id }) => id));
  return { users: await ids('users'), organizations: await ids('organizations') };
}

/** Writes the rows of a description into a catalog that has none of them. */
export async function insertDescription(tx: Queryable, description: ProjectDescription): Promise<void> {
  await insertRows(tx, 'projects', [description.project]);
  for (const table of await projectTables(tx)) await insertRows(tx, table, description.tables[table] ?? []);
}

/** A column that the description does not know yet gets its default, one that the catalog has no more is left out. */
async function insertRows(tx: Queryable, table: string, rows: readonly JsonObject[]): Promise<void> {
  if (rows.length === 0) return;
  const [found] = await tx.query<{ columns: string | null }>(
    `select string_agg(quote_ident(column_name), ', ') as columns from information_schema.columns
     where table_schema = 'ballast' and table_name = $1 and column_name = any ($2::text[])`,
    [table, [...new Set(rows.flatMap((row) => Object.keys(row)))]],
  );
  const columns = found!.columns!;
  await tx.query(
    `insert into ${table} (${columns}) overriding system value
     select ${columns} from jsonb_populate_recordset(null::${table}, $1::jsonb)`,
    [JSON.stringify(rows)],
  );
}

/** After rows with numbers of their own were inserted: the next ones go on behind them. */
export async function continueNumbering(tx: Queryable): Promise<void> {
  for (const [table, column] of [
    ['projects', 'number'],
    ['databases', 'id'],
  ]) {
    await tx.query(
      `select setval(pg_get_serial_sequence('${table}', '${column}'), m.highest)
       from (select max(${column}) as highest from ${table}) m where m.highest is not null`,
    );
  }
}

export async function countAllProjects(db: Queryable): Promise<number> {
  const [row] = await db.query<{ count: number }>('select count(*) as count from projects');
  return row!.count;
}
