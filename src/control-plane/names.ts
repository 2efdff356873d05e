/**
 * Which names users may give to roles, databases and branches. Names of roles and databases become Postgres
 * identifiers: at most 63 bytes.
 */
import { invalidRequest, unprocessable } from './errors.ts';

const MAX_IDENTIFIER_BYTES = 63;

const RESERVED_DATABASES = new Set(['postgres', 'template0', 'template1']);

/** Postgres' own, the internal superuser, and what the superuser's grants hang on. */
const RESERVED_ROLES = new Set([
  'neon_superuser',
  'cloud_admin',
  'zenith_admin',
  'public',
  'none',
  'current_user',
  'session_user',
  'current_role',
]);

export function validateRoleName(name: string): string {
  validateIdentifier('role', name);
  if (RESERVED_ROLES.has(name) || name.startsWith('pg_')) {
    throw unprocessable('role name is reserved', { role_name: name });
  }
  return name;
}

export function validateDatabaseName(name: string): string {
  validateIdentifier('database', name);
  if (RESERVED_DATABASES.has(name)) throw unprocessable('database name is reserved', { database_name: name });
  return name;
}

/** Names of projects, branches and endpoints: anything that a line can show. */
export function validateDisplayName(what: string, name: string): string {
  if (hasControlCharacter(name) || name.trim() === '') throw invalidRequest(`${what} name is not valid`);
  return name;
}

function validateIdentifier(what: 'role' | 'database', name: string): void {
  const bytes = Buffer.byteLength(name, 'utf8');
  if (bytes === 0 || bytes > MAX_IDENTIFIER_BYTES) {
    throw invalidRequest(`${what} name must have 1 to ${MAX_IDENTIFIER_BYTES} bytes`, {
      [`${what}_name`]: name.slice(0, 100),
    });
  }
  if (hasControlCharacter(name) || /\p{Surrogate}/u.test(name)) throw invalidRequest(`${what} name is not valid`);
}

function hasControlCharacter(name: string): boolean {
  // eslint-disable-next-line no-control-regex
  return /[\u0000-\u001f\u007f]/.test(name);
}
