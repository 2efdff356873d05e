/**
 * What every template is told in single-user mode, as statements per database.
 *
 * Two aims: the roles and grants that Neon's users find, and no way from a tenant's role to the host:
 * - the predefined roles that run programs or read and write files of the server are gone (before 16 any role that may
 *   create roles can grant them to itself);
 * - a logical slot names a library that the server loads; the function that makes one is replaced by one that takes
 *   only known names, for the plain one loads any path on some minors.
 */
import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto';

const HOST_ROLES = ['pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files'];

/** Output plugins that come with Postgres or that Neon's users know. */
const OUTPUT_PLUGINS = ['pgoutput', 'test_decoding', 'wal2json', 'decoderbufs'];

/** Run in template0, template1 and postgres, in this order. Statements have no closing semicolon. */
export function templateScript(major: number, database: string, secret: string): string[] {
  return [
    ...(database === 'template0' ? sharedStatements(major, secret) : []),
    ...slotStatements(major),
    ...grantStatements(major),
  ];
}

function sharedStatements(major: number, secret: string): string[] {
  const hostRoles = HOST_ROLES.map((role) => `'${role}'`).join(', ');
  return [
    `DELETE FROM pg_catalog.pg_authid WHERE rolname IN (${hostRoles})`,
    `ALTER ROLE cloud_admin PASSWORD '${oneIterationVerifier(secret)}'`,
    'CREATE ROLE neon_superuser CREATEDB CREATEROLE NOLOGIN REPLICATION BYPASSRLS IN ROLE pg_read_all_data, pg_write_all_data',
    ...(major >= 16 ? ['GRANT pg_create_subscription TO neon_superuser'] : []),
    'GRANT pg_monitor TO neon_superuser WITH ADMIN OPTION',
    'GRANT pg_signal_backend TO neon_superuser WITH ADMIN OPTION',
  ];
}

function grantStatements(major: number): string[] {
  const grantable = (kind: string) =>
    `ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON ${kind} TO neon_superuser WITH GRANT OPTION`;
  return [
    'GRANT EXECUTE ON FUNCTION pg_catalog.pg_export_snapshot() TO neon_superuser',
    ...(major >= 16 ? ['GRANT EXECUTE ON FUNCTION pg_catalog.pg_log_standby_snapshot() TO neon_superuser'] : []),
    'GRANT EXECUTE ON FUNCTION pg_catalog.pg_show_replication_origin_status() TO neon_superuser',
    grantable('TABLES'),
    grantable('SEQUENCES'),
  ];
}

/**
 * The wrapper runs as cloud_admin, so it must ask for itself whether the caller may replicate: the session's own role.
 * The question is a function of its own, because PL/pgSQL refuses the two parameters called slot_name.
 * pg_init_privs is told about the revokes so that a dump of a user's database does not carry them along.
 */
function slotStatements(major: number): string[] {
  const flags = ['temporary', 'twophase', ...(major >= 17 ? ['failover'] : [])];
  const plainTypes = ['name', 'name', ...flags.map(() => 'boolean')].join(', ');
  const inputs = flags.map((flag) => `${flag} boolean DEFAULT false`).join(', ');
  const plugins = OUTPUT_PLUGINS.map((plugin) => `'${plugin}'`).join(', ');
  const hidden = 'pg_create_logical_replication_slot_unchecked';
  const copying = 'pg_copy_logical_replication_slot(name, name, boolean, name)';
  const passed = ['$1', 'pg_catalog.pg_checked_output_plugin($2)', ...flags.map((_flag, index) => `$${index + 3}`)];
  return [
    `ALTER FUNCTION pg_catalog.pg_create_logical_replication_slot(${plainTypes}) RENAME TO ${hidden}`,
    `REVOKE EXECUTE ON FUNCTION pg_catalog.${hidden}(${plainTypes}) FROM PUBLIC`,
    `REVOKE EXECUTE ON FUNCTION pg_catalog.${copying} FROM PUBLIC`,
    `CREATE FUNCTION pg_catalog.pg_checked_output_plugin(plugin name) RETURNS name ` +
      `LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$ BEGIN ` +
      `IF NOT (SELECT r.rolreplication OR r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = session_user) THEN ` +
      `RAISE EXCEPTION 'permission denied to use replication slots' USING ERRCODE = '42501'; END IF; ` +
      `IF plugin NOT IN (${plugins}) THEN ` +
      `RAISE EXCEPTION 'output plugin "%" is not available', plugin USING ERRCODE = '42501'; END IF; ` +
      `RETURN plugin; END $body$`,
    `CREATE FUNCTION pg_catalog.pg_create_logical_replication_slot(slot_name name, plugin name, ${inputs}, OUT slot_name name, OUT lsn pg_catalog.pg_lsn) ` +
      `LANGUAGE sql SECURITY DEFINER STRICT SET search_path = pg_catalog, pg_temp ` +
      `AS $body$ SELECT s.slot_name, s.lsn FROM pg_catalog.${hidden}(${passed.join(', ')}) s $body$`,
    `INSERT INTO pg_catalog.pg_init_privs SELECT p.oid, 'pg_catalog.pg_proc'::pg_catalog.regclass, 0, 'i', p.proacl ` +
      `FROM pg_catalog.pg_proc p WHERE p.oid IN ('pg_catalog.${hidden}'::pg_catalog.regproc, 'pg_catalog.${copying}'::pg_catalog.regprocedure)`,
  ];
}

/** One iteration: the secret has 256 random bits, there is nothing to stretch, and every login would pay for it. */
export function oneIterationVerifier(secret: string): string {
  const salt = randomBytes(16);
  const salted = pbkdf2Sync(secret.normalize('NFKC'), salt, 1, 32, 'sha256');
  const hmac = (text: string) => createHmac('sha256', salted).update(text).digest();
  const storedKey = createHash('sha256').update(hmac('Client Key')).digest('base64');
  return `SCRAM-SHA-256$1:${salt.toString('base64')}$${storedKey}:${hmac('Server Key').toString('base64')}`;
}
