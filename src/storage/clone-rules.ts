/**
 * What of a data directory a clone takes along.
 *
 * Never: who runs it, replication slots (a cloned slot pins WAL and fights its original), the progress of
 * subscriptions, and what Postgres empties or rebuilds at every start anyway. WAL is staged on purpose, not cloned,
 * unless a clone that has never been started is cloned as it is.
 */

/** Directories that must exist and whose content stays behind. */
export const EMPTIED_DIRECTORIES: readonly string[] = [
  'pg_dynshmem',
  'pg_logical',
  'pg_logical/mappings',
  'pg_logical/snapshots',
  'pg_notify',
  'pg_replslot',
  'pg_serial',
  'pg_snapshots',
  'pg_stat_tmp',
  'pg_subtrans',
  'pg_tblspc',
];

export const WAL_DIRECTORIES: readonly string[] = ['pg_wal', 'pg_wal/archive_status'];

/** How a recovery is told what to do; taken along only when the source has not recovered itself. */
const RECOVERY_FILES: ReadonlySet<string> = new Set(['backup_label', 'recovery.signal']);

/**
 * Copies of the WAL that a replay starts with. Recovery may remove what it has read; should the power fail while it
 * runs without fsync, everything is built anew from these and the base (replay-again.ts).
 */
export const STAGED_WAL = 'ballast_staged_wal';

const DROPPED: ReadonlySet<string> = new Set([
  'postmaster.pid',
  'postmaster.opts',
  'backup_label.old',
  'tablespace_map',
  'tablespace_map.old',
  'standby.signal',
  'backup_manifest',
  'current_logfiles',
  'promote',
  'log',
  'core',
]);

export interface CloneRules {
  /** Keep WAL and recovery files: the source itself has yet to recover. */
  asItIs: boolean;
  /** Keep backup_label: the source is a base that was taken while its timeline ran. */
  backupLabel: boolean;
}

/** For a name directly in the data directory. */
export function isCloned(name: string, rules: CloneRules): boolean {
  if (name === 'base') return true;
  if (EMPTIED_DIRECTORIES.includes(name) || DROPPED.has(name)) return false;
  if (name === 'pg_wal' || name === STAGED_WAL) return rules.asItIs;
  if (name === 'backup_label' && rules.backupLabel) return true;
  return !RECOVERY_FILES.has(name) || rules.asItIs;
}

/** For a name in `base/`. */
export const isClonedDatabase = (name: string): boolean => !name.startsWith('pgsql_tmp');

/** Caches of the system catalogs, one per database and one in global/; a clone builds its own. */
export const RELATION_CACHE = 'pg_internal.init';
