/**
 * Reads roles and databases back from a running compute, Ballast's and PostgreSQL's own left out.
 *
 * Postgres is the truth for both: SQL changes them as it likes, and the fingerprint says cheaply that it did.
 */
import type { InternalSession } from '../postgres/internal-session.ts';
import { SEED_DATABASE } from '../postgres/template-sql.ts';
import type { RolesAndDatabases } from './types.ts';

const VISIBLE_ROLE = `rolname NOT LIKE 'pg\\_%' AND rolname NOT IN ('cloud_admin', 'neon_superuser')`;
/** The bootstrap superuser, cloud_admin, always has this oid. */
const CLOUD_ADMIN_OID = 10;
/** A seed that is not used yet: a tenant's database may have that name, but never that owner. */
export const IS_SEED = `(datname = '${SEED_DATABASE}' AND datdba = ${CLOUD_ADMIN_OID})`;
/** An interrupted DROP DATABASE leaves datconnlimit = -2 and nothing to work with. */
const VISIBLE_DATABASE = `datname NOT IN ('template0', 'template1', 'postgres') AND datconnlimit <> -2 AND NOT ${IS_SEED}`;

const asRow = (...columns: string[]) =>
  columns.map((column) => `pg_catalog.quote_nullable(${column})`).join(` || ' ' || `);

/**
 * SQL expression that changes when a role's name, verifier or login, or a database's name or owner does. Both readers
 * use it, so that their answers can be compared.
 */
export const FINGERPRINT = `pg_catalog.md5(
  COALESCE((SELECT pg_catalog.string_agg(${asRow('rolname', 'rolpassword', 'rolcanlogin')}, E'\\n' ORDER BY oid)
            FROM pg_catalog.pg_authid WHERE ${VISIBLE_ROLE}), '') || E'\\n\\n' ||
  COALESCE((SELECT pg_catalog.string_agg(${asRow('datname', 'datdba')}, E'\\n' ORDER BY oid)
            FROM pg_catalog.pg_database WHERE ${VISIBLE_DATABASE}), ''))`;

/** `session` is in the database `postgres`. */
export async function readRolesAndDatabases(session: InternalSession): Promise<RolesAndDatabases> {
  const rows = await session.query(`
    SELECT 'fingerprint', ${FINGERPRINT}, NULL, NULL
    UNION ALL (SELECT 'role', rolname::text, rolpassword, rolcanlogin::text
               FROM pg_catalog.pg_authid WHERE ${VISIBLE_ROLE} ORDER BY oid)
    UNION ALL (SELECT 'database', datname::text, pg_catalog.pg_get_userbyid(datdba)::text, NULL
               FROM pg_catalog.pg_database WHERE ${VISIBLE_DATABASE} ORDER BY oid)`);
  const of = (kind: string) => rows.filter((row) => row[0] === kind);
  return {
    fingerprint: of('fingerprint')[0]![1]!,
    roles: of('role').map((row) => ({ name: row[1]!, verifier: row[2] ?? null, canLogin: row[3] === 'true' })),
    databases: of('database').map((row) => ({ name: row[1]!, owner: row[2]! })),
  };
}
