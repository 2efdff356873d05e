/**
 * Clone drivers: how a data directory becomes two.
 *
 *   reflink   every file by FICLONE: time and space by extents, not by size (XFS, btrfs, APFS)
 *   snapshot  btrfs subvolumes: one call, however many extents; durable by itself
 *   copy      byte by byte, anywhere
 *
 * A clone under way is garbage until its timeline.json or base.json says otherwise, so drivers need not be atomic.
 * On Linux the files are cloned by GNU cp, run as the project's user: as fast as anything Node can do, outside of our
 * event loop, and unable to read or to follow what a tenant should not. Elsewhere by Node's fs.
 */
import { constants, cp, chown, copyFile, lstat, mkdir, readdir, rm } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import path from 'node:path';
import { run } from '../lib/child-process.ts';
import { syncDirectories } from '../lib/durable.ts';
import type { Durable, SyncStep } from '../lib/durable.ts';
import { errorMessage } from '../lib/errors.ts';
import { EMPTIED_DIRECTORIES, RELATION_CACHE, WAL_DIRECTORIES, isCloned, isClonedDatabase } from './clone-rules.ts';
import type { CloneRules } from './clone-rules.ts';
import type { CloneMode, FileOwner } from './types.ts';

export interface CloneOptions {
  rules: CloneRules;
  /** Files may come and go while they are read. */
  live: boolean;
  /** Of everything in the clone, and able to read the source. Undefined: Ballast's own user. */
  owner: FileOwner | undefined;
}

export interface CloneDriver {
  mode: CloneMode;
  /** An empty directory that this driver can clone later. */
  makeDirectory(directory: string): Promise<void>;
  /** Clones a data directory by the rules; `target` must not exist. */
  cloneData(source: string, target: string, options: CloneOptions): Promise<void>;
  /** Clones single files into a directory under their own names. Rejects with ENOENT when one is not there. */
  cloneFile(source: string, target: string): Promise<void>;
  /** Makes a clone durable, with all that was done to it since; `written` are the files that were written to. */
  sync(durable: Durable, target: string, written: readonly string[]): Promise<void>;
  /** Makes the names in these directories durable. */
  syncNames(durable: Durable, step: SyncStep, directories: readonly string[]): Promise<void>;
  /** Removes a tree that may hold directories made by this driver. */
  remove(directory: string): Promise<void>;
}

/**
 * `journalled`: the file system's journal keeps the order of all changes, and any fsync takes along everything before
 * it (XFS). Then the fsync of the record that vouches for a clone is the fsync of the clone; only bytes that were
 * written through the page cache need their own. Elsewhere every file and every directory is synced.
 */
export function fileDriver(mode: 'reflink' | 'copy', options: { journalled: boolean }): CloneDriver {
  return {
    mode,
    makeDirectory: (directory) => mkdir(directory, { mode: 0o700 }),
    cloneData: (source, target, cloneOptions) => cloneByFiles(mode, source, target, cloneOptions),
    cloneFile: (source, target) => cloneOneFile(mode, source, target),
    sync: async (durable, target, written) => {
      await syncFiles(durable, 'written-file', options.journalled ? written : await filesBelow(target));
      if (!options.journalled) await syncDirectories(durable, 'cloned-directory', target);
    },
    syncNames: async (durable, step, directories) => {
      if (!options.journalled) await Promise.all(directories.map((directory) => durable.directory(step, directory)));
    },
    remove: (directory) => rm(directory, { recursive: true, force: true }),
  };
}

/**
 * Making a snapshot writes back what its source has in the page cache and commits the transaction, and with it every
 * change to the file system before. So one more snapshot, thrown away at once in `scratch`, makes a clone durable.
 */
export function snapshotDriver(scratch: string): CloneDriver {
  return {
    mode: 'snapshot',
    makeDirectory: async (directory) => {
      await run('btrfs', ['subvolume', 'create', directory]);
    },
    cloneData: async (source, target, options) => {
      await run('btrfs', ['subvolume', 'snapshot', source, target]);
      await dropUncloned(target, options);
      await makeSkeleton(target, options);
    },
    cloneFile: (source, target) => cloneOneFile('reflink', source, target),
    sync: (durable, target) => durable.commit('cloned-directory', () => commitBySnapshot(scratch, target)),
    syncNames: async (durable, step, directories) => {
      await Promise.all(directories.map((directory) => durable.directory(step, directory)));
    },
    remove: removeSubvolumes,
  };
}

async function commitBySnapshot(scratch: string, subvolume: string): Promise<void> {
  const throwaway = path.join(scratch, `commit-${randomBytes(6).toString('hex')}`);
  await run('btrfs', ['subvolume', 'snapshot', '-r', subvolume, throwaway]);
  await run('btrfs', ['subvolume', 'delete', throwaway]);
}

async function cloneByFiles(
  mode: 'reflink' | 'copy',
  source: string,
  target: string,
  options: CloneOptions,
): Promise<void> {
  const [names, databases] = await Promise.all([readdir(source), readdir(path.join(source, 'base'))]);
  const base = path.join(target, 'base');
  await mkdir(target, { mode: 0o700 });
  await mkdir(base, { mode: 0o700 });
  await own([target, base], options.owner);
  const inTop = names.filter((name) => name !== 'base' && isCloned(name, options.rules));
  const inBase = databases.filter(isClonedDatabase);
  // Three processes: one kernel thread does not keep a file system busy.
  const parts: [string, string[], string][] = [
    [source, inTop, target],
    [path.join(source, 'base'), inBase.filter((_name, index) => index % 2 === 0), base],
    [path.join(source, 'base'), inBase.filter((_name, index) => index % 2 === 1), base],
  ];
  await Promise.all([
    makeSkeleton(target, options),
    ...parts.map(([directory, entries, to]) => copyEntries(mode, directory, entries, to, options)),
  ]);
  await dropRelationCaches(target, inBase);
}

/** The directories whose content stays behind. */
async function makeSkeleton(target: string, options: CloneOptions): Promise<void> {
  const wanted = options.rules.asItIs ? EMPTIED_DIRECTORIES : [...EMPTIED_DIRECTORIES, ...WAL_DIRECTORIES];
  const directories = wanted.map((name) => path.join(target, name));
  await Promise.all(directories.map((directory) => mkdir(directory, { recursive: true, mode: 0o700 })));
  await own(directories, options.owner);
}

async function own(paths: readonly string[], owner: FileOwner | undefined): Promise<void> {
  if (owner) await Promise.all(paths.map((item) => chown(item, owner.uid, owner.gid)));
}

async function dropRelationCaches(target: string, databases: readonly string[]): Promise<void> {
  const directories = ['global', ...databases.map((name) => path.join('base', name))];
  await Promise.all(directories.map((name) => rm(path.join(target, name, RELATION_CACHE), { force: true })));
}

const VANISHED = /^cp: cannot (stat|access|open) .*: No such file or directory$/;

/** As root, cp runs as the owner: its files are the owner's from the start, and it can read nothing else. */
async function copyEntries(
  mode: 'reflink' | 'copy',
  directory: string,
  names: readonly string[],
  target: string,
  options: CloneOptions,
): Promise<void> {
  if (names.length === 0) return;
  const sources = names.map((name) => path.join(directory, name));
  if (process.platform !== 'linux') return copyEntriesWithNode(mode, sources, target, options.owner);
  const args = ['-r', `--reflink=${mode === 'reflink' ? 'always' : 'never'}`, '-t', target, '--', ...sources];
  try {
    await run('cp', args, { env: { PATH: '/usr/bin:/bin', LC_ALL: 'C' }, owner: options.owner });
  } catch (error) {
    // `run` puts the command's name before what it said.
    const said = errorMessage(error).replace(/^cp: /, '').split('\n');
    if (!options.live || !said.every((line) => VANISHED.test(line))) throw error;
  }
}

async function copyEntriesWithNode(
  mode: 'reflink' | 'copy',
  sources: readonly string[],
  target: string,
  owner: FileOwner | undefined,
): Promise<void> {
  const flag = mode === 'reflink' ? constants.COPYFILE_FICLONE_FORCE : 0;
  for (const source of sources) {
    const to = path.join(target, path.basename(source));
    await cp(source, to, { recursive: true, mode: flag, verbatimSymlinks: true });
    if (owner) await run('chown', ['-hR', `${owner.uid}:${owner.gid}`, to]);
  }
}

async function cloneOneFile(mode: 'reflink' | 'copy', source: string, target: string): Promise<void> {
  const from = await lstat(source);
  if (!from.isFile()) throw new Error(`not a file: ${source}`);
  await copyFile(source, target, mode === 'reflink' ? constants.COPYFILE_FICLONE_FORCE : 0);
  if (process.getuid?.() === 0) await chown(target, from.uid, from.gid);
}

/** A snapshot has everything; this takes away what cloneByFiles would not have copied. */
async function dropUncloned(target: string, options: CloneOptions): Promise<void> {
  const names = await readdir(target);
  const dropped = names.filter((name) => !isCloned(name, options.rules)).map((name) => path.join(target, name));
  const databases = await readdir(path.join(target, 'base'));
  const temporary = databases.filter((name) => !isClonedDatabase(name)).map((name) => path.join(target, 'base', name));
  for (const item of [...dropped, ...temporary]) await rm(item, { recursive: true, force: true });
  await dropRelationCaches(target, databases.filter(isClonedDatabase));
}

const SYNCED_AT_ONCE = 16;

async function filesBelow(root: string): Promise<string[]> {
  const entries = await readdir(root, { withFileTypes: true, recursive: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => path.join(entry.parentPath, entry.name));
}

async function syncFiles(durable: Durable, step: SyncStep, files: readonly string[]): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < files.length) await durable.file(step, files[next++]!);
  };
  await Promise.all(Array.from({ length: SYNCED_AT_ONCE }, worker));
}

/** Subvolumes first, by name: the only places where a driver made some. `rm` removes them too, only slower. */
async function removeSubvolumes(directory: string): Promise<void> {
  const bases = await readdir(path.join(directory, 'bases')).catch(() => []);
  const candidates = [
    directory,
    path.join(directory, 'pgdata'),
    ...bases.map((n) => path.join(directory, 'bases', n, 'pgdata')),
  ];
  for (const candidate of candidates.toReversed()) {
    if (await isSubvolume(candidate)) await run('btrfs', ['subvolume', 'delete', candidate]).catch(() => undefined);
  }
  await rm(directory, { recursive: true, force: true });
}

/** The root of a btrfs subvolume always has inode 256. */
async function isSubvolume(directory: string): Promise<boolean> {
  const found = await lstat(directory).catch(() => undefined);
  return found !== undefined && found.isDirectory() && found.ino === 256;
}
