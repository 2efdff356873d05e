/**
 * What tenants may install. They are no superusers, so PostgreSQL lets them create an extension only where its control
 * file says `trusted = true`; `prepareExtensions` edits the copies in Ballast's private installation tree:
 *
 * - forbidden (they reach the host's files or programs, or corrupt pages by design): removed, so not available at all;
 * - allowed: trusted, and their scripts grant neon_superuser what upstream keeps for superusers;
 * - anything else that is installed: visible, but not trusted.
 *
 * Scripts of trusted extensions run as cloud_admin. Only what creates objects without running the tenant's code may be
 * allowed here.
 */
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';

const FORBIDDEN =
  /^(file_fdw|adminpack|pg_surgery|pageinspect|old_snapshot|basic_archive|basebackup_to_shell|plperlu?|pltclu?|plpython[23]?u|plsh|.*_plperlu?|.*_plpython[23]?u)$/;

const ALLOWED: ReadonlySet<string> = new Set([
  ...['amcheck', 'autoinc', 'bloom', 'btree_gin', 'btree_gist', 'citext', 'cube', 'dblink', 'dict_int', 'dict_xsyn'],
  ...['earthdistance', 'fuzzystrmatch', 'hstore', 'insert_username', 'intagg', 'intarray', 'isn', 'lo', 'ltree'],
  ...['moddatetime', 'pg_buffercache', 'pg_freespacemap', 'pg_prewarm', 'pg_stat_statements', 'pg_trgm'],
  ...['pg_visibility', 'pgcrypto', 'pgrowlocks', 'pgstattuple', 'plpgsql', 'postgres_fdw', 'refint', 'seg'],
  ...['tablefunc', 'tcn', 'tsm_system_rows', 'tsm_system_time', 'unaccent', 'uuid-ossp', 'xml2'],
  // Not part of PostgreSQL; used where the installation has them.
  ...['hll', 'ip4r', 'pg_uuidv7', 'prefix', 'semver', 'unit', 'vector'],
]);

/** Functions that their scripts take from everybody and that neon_superuser gets back. */
const GRANT_REVOKED_FUNCTIONS: ReadonlySet<string> = new Set(['amcheck', 'pg_stat_statements']);

/** Foreign data wrappers on which neon_superuser may create servers. */
const GRANT_WRAPPERS: ReadonlySet<string> = new Set(['dblink', 'postgres_fdw']);

export interface PreloadLibrary {
  name: string;
  description: string;
  /** Part of shared_preload_libraries unless the project's settings say otherwise. */
  isDefault: boolean;
}

const PRELOAD_LIBRARIES: readonly PreloadLibrary[] = [
  {
    name: 'pg_stat_statements',
    description: 'track planning and execution statistics of all SQL statements executed',
    isDefault: true,
  },
];

/** Libraries that shared_preload_libraries may name. Every one runs inside the postmaster: keep it short. */
export function preloadLibraries(): readonly PreloadLibrary[] {
  return PRELOAD_LIBRARIES;
}

export function isPreloadLibrary(name: string): boolean {
  return PRELOAD_LIBRARIES.some((library) => library.name === name);
}

/**
 * Edits the control files and scripts of a private tree in place. May run again on the same tree.
 * `extensionDirectory` is share/…/extension; the files must be copies, never links into a package.
 */
export async function prepareExtensions(extensionDirectory: string, _major: number): Promise<void> {
  const files = await readdir(extensionDirectory);
  const controls = files.filter((file) => file.endsWith('.control'));
  await Promise.all(
    controls.map(async (control) => {
      const extension = path.basename(control, '.control');
      const scripts = files.filter((file) => file.startsWith(`${extension}--`) && file.endsWith('.sql'));
      if (FORBIDDEN.test(extension)) {
        await Promise.all(
          [control, ...scripts].map((file) => rm(path.join(extensionDirectory, file), { force: true })),
        );
        return;
      }
      await rewrite(path.join(extensionDirectory, control), (text) => trust(text, ALLOWED.has(extension)));
      if (GRANT_REVOKED_FUNCTIONS.has(extension) || GRANT_WRAPPERS.has(extension)) {
        const edit = (text: string) => withGrants(extension, text);
        await Promise.all(scripts.map((script) => rewrite(path.join(extensionDirectory, script), edit)));
      }
    }),
  );
}

async function rewrite(file: string, edit: (text: string) => string): Promise<void> {
  const before = await readFile(file, 'utf8');
  const after = edit(before);
  if (after !== before) await writeFile(file, after);
}

/** A control file that says whether its extension is trusted, whatever it said before. */
export function trust(control: string, trusted: boolean): string {
  const rest = control.replace(/^\s*trusted\s*=.*(\n|$)/gm, '');
  return trusted ? `${rest.replace(/\n?$/, '\n')}trusted = true\n` : rest;
}

const GRANTS_HEADER = '-- Ballast: privileges of neon_superuser';

/** The script with grants at its end for what it made; the same script when there is nothing to grant. */
export function withGrants(extension: string, script: string): string {
  if (script.includes(GRANTS_HEADER)) return script;
  const grants: string[] = [];
  if (GRANT_REVOKED_FUNCTIONS.has(extension)) {
    for (const [, signature] of script.matchAll(/^REVOKE ALL ON FUNCTION ([^;]+?)\s+FROM PUBLIC;/gim)) {
      grants.push(`GRANT EXECUTE ON FUNCTION ${signature} TO neon_superuser WITH GRANT OPTION;`);
    }
  }
  if (GRANT_WRAPPERS.has(extension)) {
    for (const [, wrapper] of script.matchAll(/^CREATE FOREIGN DATA WRAPPER (\w+)/gim)) {
      grants.push(`GRANT USAGE ON FOREIGN DATA WRAPPER ${wrapper} TO neon_superuser WITH GRANT OPTION;`);
    }
  }
  return grants.length === 0 ? script : `${script}\n${GRANTS_HEADER}\n${grants.join('\n')}\n`;
}
