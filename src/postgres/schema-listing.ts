/**
 * The tables of a database as a listing: columns, and the constraints that tie tables together. What extensions made is
 * left out, as in a dump.
 */
import { withInternalSession, type InternalLogin } from './internal-session.ts';

export interface SchemaListing {
  tables: ListedTable[];
}

export interface ListedTable {
  schema: string;
  name: string;
  columns: { name: string; type: string; nullable: boolean; generated: boolean }[];
  constraints: ListedConstraint[];
}

export interface ListedConstraint {
  name: string;
  type: 'primary_key' | 'unique' | 'foreign_key';
  columns: string[];
  referenced_table?: { schema: string; table: string; columns: string[] };
}

const columnNames = (table: string, numbers: string) => `
  (SELECT pg_catalog.json_agg(a.attname ORDER BY key.n)
   FROM pg_catalog.unnest(${numbers}) WITH ORDINALITY AS key(attnum, n)
   JOIN pg_catalog.pg_attribute a ON a.attrelid = ${table} AND a.attnum = key.attnum)`;

const COLUMNS = `
  SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_object(
    'name', a.attname, 'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
    'nullable', NOT a.attnotnull, 'generated', a.attgenerated <> '') ORDER BY a.attnum), '[]')
  FROM pg_catalog.pg_attribute a
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped`;

const CONSTRAINTS = `
  SELECT COALESCE(pg_catalog.json_agg(
    CASE WHEN k.contype = 'f' THEN pg_catalog.json_build_object(
      'name', k.conname, 'type', 'foreign_key', 'columns', ${columnNames('k.conrelid', 'k.conkey')},
      'referenced_table', pg_catalog.json_build_object(
        'schema', fn.nspname, 'table', f.relname, 'columns', ${columnNames('k.confrelid', 'k.confkey')}))
    ELSE pg_catalog.json_build_object(
      'name', k.conname, 'type', CASE k.contype WHEN 'p' THEN 'primary_key' ELSE 'unique' END,
      'columns', ${columnNames('k.conrelid', 'k.conkey')}) END
    ORDER BY pg_catalog.strpos('puf', k.contype::text), k.conname), '[]')
  FROM pg_catalog.pg_constraint k
  LEFT JOIN pg_catalog.pg_class f ON f.oid = k.confrelid
  LEFT JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace
  WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'f')`;

const TABLES_SQL = `
  SELECT n.nspname::text, c.relname::text, (${COLUMNS})::text, (${CONSTRAINTS})::text
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'f')
    AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')
  ORDER BY n.nspname, c.relname`;

/** Throws AppError 'unavailable' when the database cannot be entered. */
export async function listSchema(login: InternalLogin): Promise<SchemaListing> {
  const rows = await withInternalSession(login, (session) => session.query(TABLES_SQL));
  return {
    tables: rows.map(([schema, name, columns, constraints]) => ({
      schema: schema!,
      name: name!,
      columns: JSON.parse(columns!) as ListedTable['columns'],
      constraints: JSON.parse(constraints!) as ListedConstraint[],
    })),
  };
}
