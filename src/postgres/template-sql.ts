/**
 * What every template is told in single-user mode, as statements per database: what closes the way from a tenant's role
 * to the host (hardening.ts), cloud_admin's verifier, and the group role and grants that Neon's users find.
 */
import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto';
import { hardeningSql } from './hardening.ts';

/**
 * An empty database, cloud_admin's. The first database of a project is this one, renamed: a rename writes next to
 * nothing, while CREATE DATABASE writes (and every replay writes again) some 300 files.
 */
export const SEED_DATABASE = 'ballast_seed';

/** Run in template0, template1 and postgres, in this order. Statements have no closing semicolon. */
export function templateScript(major: number, database: string, secret: string): string[] {
  return [
    ...hardeningSql(major),
    ...(database === 'template0' ? sharedStatements(major, secret) : []),
    ...grantStatements(major),
    // Last of all: it is a copy of template1.
    ...(database === 'postgres' ? [`CREATE DATABASE ${SEED_DATABASE}`] : []),
  ];
}

function sharedStatements(major: number, secret: string): string[] {
  return [
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

/** One iteration: the secret has 256 random bits, there is nothing to stretch, and every login would pay for it. */
export function oneIterationVerifier(secret: string): string {
  const salt = randomBytes(16);
  const salted = pbkdf2Sync(secret.normalize('NFKC'), salt, 1, 32, 'sha256');
  const hmac = (text: string) => createHmac('sha256', salted).update(text).digest();
  const storedKey = createHash('sha256').update(hmac('Client Key')).digest('base64');
  return `SCRAM-SHA-256$1:${salt.toString('base64')}$${storedKey}:${hmac('Server Key').toString('base64')}`;
}
