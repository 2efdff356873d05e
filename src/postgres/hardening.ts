/**
 * SQL that closes, in a template's catalogs, the doors that stock PostgreSQL leaves open to a tenant's roles.
 *
 * Runs as cloud_admin in every database of a template (template0 too: a tenant may copy it), before any tenant exists.
 * Every statement may run again. Computes check at each start that the shared part still holds (`HOST_ROLES_SQL`).
 */

/** Members of these roles reach the host: programs, files. Nobody can be granted a role that does not exist. */
export const HOST_ROLES = ['pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files'] as const;

/** Logical decoding plugins that a tenant may name; anything else could be any library of the host. */
export const OUTPUT_PLUGINS = ['pgoutput', 'test_decoding', 'wal2json', 'decoderbufs'] as const;

const sqlList = (names: readonly string[]) => names.map((name) => `'${name}'`).join(', ');

/** One row, one column: how many host roles there are. Anything but 0 means that the compute must not be entered. */
export const HOST_ROLES_SQL = `SELECT pg_catalog.count(*)::text FROM pg_catalog.pg_authid WHERE rolname IN (${sqlList(HOST_ROLES)})`;

/**
 * The slot functions hand the plugin's name to dlopen, absolute paths included (true of 14.23, 15.18, 16.14, 17.10,
 * 18.4). The parameter becomes a domain, so that every call checks the name whatever expression it came from; the
 * function itself, its privileges and its callers stay as they are.
 */
const CREATE_PLUGIN_DOMAIN = `DO $do$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_type
                 WHERE typname = 'output_plugin' AND typnamespace = 'pg_catalog'::pg_catalog.regnamespace) THEN
    CREATE DOMAIN pg_catalog.output_plugin AS pg_catalog.name
      CONSTRAINT output_plugin_is_allowed CHECK (VALUE IN (${sqlList(OUTPUT_PLUGINS)}));
  END IF;
END $do$`;

const TYPE_PLUGIN_PARAMETERS = `UPDATE pg_catalog.pg_proc AS p SET
  proargtypes = (SELECT pg_catalog.string_agg(CASE WHEN a.n = k.position THEN k.domain ELSE a.type END::text, ' ' ORDER BY a.n)
                 FROM pg_catalog.unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a(type, n))::pg_catalog.oidvector,
  proallargtypes = CASE WHEN p.proallargtypes IS NOT NULL THEN
                (SELECT pg_catalog.array_agg(CASE WHEN a.n = k.position THEN k.domain ELSE a.type END ORDER BY a.n)
                 FROM pg_catalog.unnest(p.proallargtypes) WITH ORDINALITY AS a(type, n)) END
FROM (SELECT oid AS id, pg_catalog.array_position(proargnames, 'plugin') AS position,
             'pg_catalog.output_plugin'::pg_catalog.regtype::oid AS domain
      FROM pg_catalog.pg_proc
      WHERE pronamespace = 'pg_catalog'::pg_catalog.regnamespace
        AND proname IN ('pg_create_logical_replication_slot', 'pg_copy_logical_replication_slot')
        AND 'plugin' = ANY (proargnames[1:pronargs])) AS k
WHERE p.oid = k.id`;

/**
 * Statements to run one by one, each outside a transaction of the caller, in postgres, template1 and template0.
 * Removing the host roles touches a shared catalog; doing it again in the next database does nothing.
 */
export function hardeningSql(_major: number): string[] {
  return [
    'SET search_path = pg_catalog, pg_temp',
    'SET allow_system_table_mods = on',
    `DELETE FROM pg_catalog.pg_authid WHERE rolname IN (${sqlList(HOST_ROLES)})`,
    CREATE_PLUGIN_DOMAIN,
    TYPE_PLUGIN_PARAMETERS,
    'RESET allow_system_table_mods',
  ];
}

/** One row, one column: slot functions whose plugin parameter is still a plain name. Must be 0 in a hardened database. */
export const UNCHECKED_PLUGIN_FUNCTIONS_SQL = `SELECT pg_catalog.count(*)::text FROM pg_catalog.pg_proc
WHERE pronamespace = 'pg_catalog'::pg_catalog.regnamespace
  AND proname IN ('pg_create_logical_replication_slot', 'pg_copy_logical_replication_slot')
  AND 'plugin' = ANY (proargnames[1:pronargs])
  AND proargtypes[pg_catalog.array_position(proargnames, 'plugin') - 1] = 'pg_catalog.name'::pg_catalog.regtype`;
