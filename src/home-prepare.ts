/**
 * Makes a data directory ready: directories with the right owners and modes, links, secrets.
 *
 * As an ordinary user everything is 0700 and stays below the data directory. As root, Postgres runs as other users, so
 * they must be able to pass through (0711) to what is theirs, and to nothing else. Where the way to the data directory is
 * closed to them (`/root`), the engine's directories live in `/var/lib/ballast/<hash of the data directory>`, with links
 * in the data directory. Sockets move to a short directory when their paths would not fit `sun_path`.
 *
 * Idempotent; deletes nothing, and refuses what it does not understand with a message that says what to do.
 */
import { createHash, randomBytes } from 'node:crypto';
import type { Stats } from 'node:fs';
import { chmod, chown, lstat, mkdir, readFile, readdir, realpath, stat, symlink } from 'node:fs/promises';
import path from 'node:path';
import type { Config } from './config.ts';
import { ConfigError } from './config.ts';
import type { Home } from './home.ts';
import { durable, writeFileDurably } from './lib/durable.ts';

export interface HomeOptions {
  /** Who Ballast runs as; tests may say otherwise. */
  uid?: number;
  /** Where root keeps the engine's directories of a data directory that other users cannot enter. */
  sharedDirectory?: string;
}

/** Directories that Postgres must reach, in root's case as another user. */
const ENGINE = ['pool', 'catalog', 'run', 'postgres'] as const;
/** Only Ballast itself enters these. */
const PRIVATE = ['secrets', 'tls', 'log'] as const;
const KNOWN_NAMES = new Set<string>([
  ...ENGINE,
  ...PRIVATE,
  'api-key',
  'postgres-packages',
  'pool.img',
  'pool.image.json',
  'lost+found',
]);
const DEFAULT_SHARED_DIRECTORY = '/var/lib/ballast';
const CLOUD_ADMIN_BYTES = 32;
const SEAL_KEY_BYTES = 32;
/** `/<endpoint id>/.s.PGSQL.5432`, the id up to 40 characters. */
const SOCKET_TAIL_LENGTH = 55;
const SOCKET_PATH_LENGTH = process.platform === 'darwin' ? 103 : 107;

/** Throws ConfigError (the message says what to do) when the data directory cannot be used. */
export async function prepareHome(config: Config, options: HomeOptions = {}): Promise<Home> {
  const uid = options.uid ?? process.getuid!();
  await claimDataDirectory(config.dataDir, uid);
  const shared = await sharedDirectoryOf(config, options);
  const hadSecrets = (await present(path.join(config.dataDir, 'secrets/seal-key'))) !== undefined;
  for (const name of PRIVATE) await ownDirectory(path.join(config.dataDir, name), 0o700, uid);
  await prepareEngineDirectories(config, uid, shared);
  const home = await locateHome(config, { ...options, uid });
  await prepareSockets(home, uid, shared);
  await ownDirectory(path.join(home.log, 'computes'), 0o700, uid);
  if (uid === 0) await ownDirectory(home.catalog, 0o700, uid, config.computeUidBase);
  await prepareSecrets(home, hadSecrets);
  return home;
}

/** Where everything is or would be; creates nothing. For commands that look at a data directory without starting it. */
export async function locateHome(config: Config, options: HomeOptions = {}): Promise<Home> {
  const uid = options.uid ?? process.getuid!();
  const inDataDir = (...names: string[]) => path.join(config.dataDir, ...names);
  const run = await resolved(inDataDir('run'));
  return {
    dataDir: await resolved(config.dataDir),
    pool: await resolved(config.pool),
    catalog: await resolved(inDataDir('catalog')),
    run,
    postgres: await resolved(inDataDir('postgres')),
    sockets: socketDirectory(run, uid, await sharedDirectoryOf(config, options)),
    log: inDataDir('log'),
    tls: inDataDir('tls'),
    secrets: inDataDir('secrets'),
    apiKeyFile: inDataDir('api-key'),
    pidFile: path.join(run, 'ballast.pid'),
  };
}

/**
 * The first directory on the way to `directory` (itself included) that other users cannot pass through;
 * undefined when they can pass all. What does not exist yet is not in the way.
 */
export async function closedAncestor(directory: string): Promise<string | undefined> {
  const real = await resolved(directory);
  const parts = real.split(path.sep).filter((part) => part !== '');
  for (let depth = 0; depth <= parts.length; depth++) {
    const ancestor = path.sep + parts.slice(0, depth).join(path.sep);
    const stats = await present(ancestor);
    if (stats === undefined) return undefined;
    if ((stats.mode & 0o001) === 0) return ancestor;
  }
  return undefined;
}

async function claimDataDirectory(dataDir: string, uid: number): Promise<void> {
  const found = await present(dataDir);
  if (found === undefined) {
    await mkdir(dataDir, { recursive: true }).catch((cause: NodeJS.ErrnoException) => {
      throw new ConfigError(`cannot create the data directory ${dataDir}: ${cause.code ?? cause.message}`, { cause });
    });
  } else {
    await refuseForeignDirectory(dataDir, uid, found);
  }
  await ownDirectory(dataDir, uid === 0 ? 0o711 : 0o700, uid);
}

async function refuseForeignDirectory(dataDir: string, uid: number, found: Stats): Promise<void> {
  if (!found.isDirectory()) throw new ConfigError(`--data-dir: ${dataDir} is not a directory`);
  if (found.uid !== uid) {
    throw new ConfigError(
      `the data directory ${dataDir} belongs to user id ${found.uid}, but this is user id ${uid}: ` +
        'run Ballast as that user or choose another --data-dir',
    );
  }
  if ((await present(path.join(dataDir, 'secrets'))) !== undefined) return;
  const strange = (await readdir(dataDir)).find((name) => !KNOWN_NAMES.has(name));
  if (strange !== undefined) {
    throw new ConfigError(
      `--data-dir: ${dataDir} holds something that is not Ballast's ("${strange}"); choose an empty or a new directory`,
    );
  }
}

async function prepareEngineDirectories(config: Config, uid: number, shared: string): Promise<void> {
  const mode = uid === 0 ? 0o711 : 0o700;
  const closed = uid === 0 ? await closedAncestor(config.dataDir) : undefined;
  for (const name of ENGINE) {
    const place = path.join(config.dataDir, name);
    if (name === 'pool' && config.pool !== place) {
      await prepareForeignPool(config.pool, uid);
      continue;
    }
    const found = await linkOrDirectory(place);
    if (found === undefined && closed !== undefined) {
      const target = path.join(shared, name);
      await ownDirectory(path.dirname(shared), 0o711, uid);
      await ownDirectory(shared, 0o711, uid);
      await ownDirectory(target, mode, uid);
      await symlink(target, place);
    } else if (found === 'link') {
      await checkLink(place, uid);
    } else {
      if (closed !== undefined) throw new ConfigError(closedMessage(place, closed));
      // The catalog belongs to another user once it has been prepared.
      await ownDirectory(
        place,
        name === 'catalog' ? 0o700 : mode,
        uid,
        name === 'catalog' ? config.computeUidBase : uid,
      );
    }
  }
}

async function checkLink(place: string, uid: number): Promise<void> {
  if ((await present(place)) === undefined) {
    throw new ConfigError(`${place} is a link to a directory that is not there; is its file system mounted?`);
  }
  // The catalog's own directory is closed on purpose; the way to it must be open.
  const target = await realpath(place);
  const closed =
    uid === 0 ? await closedAncestor(place.endsWith('catalog') ? path.dirname(target) : target) : undefined;
  if (closed !== undefined) throw new ConfigError(closedMessage(place, closed));
}

/** A pool named by --pool may be a mount point that somebody else made; only its use is checked. */
async function prepareForeignPool(pool: string, uid: number): Promise<void> {
  const found = await present(pool);
  if (found === undefined) {
    await mkdir(pool, { recursive: true }).catch((cause: NodeJS.ErrnoException) => {
      throw new ConfigError(`--pool: cannot create ${pool}: ${cause.code ?? cause.message}`, { cause });
    });
    await chmod(pool, uid === 0 ? 0o711 : 0o700);
  } else if (!found.isDirectory()) {
    throw new ConfigError(`--pool: ${pool} is not a directory`);
  } else if (found.uid !== uid) {
    throw new ConfigError(`--pool: ${pool} belongs to user id ${found.uid}; run \`chown ${uid} ${pool}\` first`);
  }
  const closed = uid === 0 ? await closedAncestor(pool) : undefined;
  if (closed !== undefined) throw new ConfigError(closedMessage(pool, closed));
}

function closedMessage(place: string, closed: string): string {
  return (
    `Postgres runs as another user and cannot reach ${place}, because ${closed} is closed to others: ` +
    `run \`chmod o+x ${closed}\` or choose another directory`
  );
}

async function prepareSockets(home: Home, uid: number, shared: string): Promise<void> {
  if (home.sockets === home.run) return;
  if (uid === 0) {
    await ownDirectory(path.dirname(shared), 0o711, uid);
    await ownDirectory(shared, 0o711, uid);
  }
  await ownDirectory(home.sockets, uid === 0 ? 0o711 : 0o700, uid);
}

function socketDirectory(run: string, uid: number, shared: string): string {
  if (Buffer.byteLength(run) + SOCKET_TAIL_LENGTH <= SOCKET_PATH_LENGTH) return run;
  // Not os.tmpdir(): a TMPDIR that differs between two starts would hide the sockets of computes that are still running.
  return uid === 0 ? path.join(shared, 's') : `/tmp/ballast-${uid}-${path.basename(shared)}`;
}

async function prepareSecrets(home: Home, hadSecrets: boolean): Promise<void> {
  const used = hadSecrets || (await holdsData(home));
  const secrets = [
    { name: 'cloud-admin', make: () => randomBytes(CLOUD_ADMIN_BYTES).toString('base64url'), sizeBytes: 43 },
    { name: 'seal-key', make: () => randomBytes(SEAL_KEY_BYTES), sizeBytes: SEAL_KEY_BYTES },
  ];
  for (const { name, make, sizeBytes } of secrets) {
    const file = path.join(home.secrets, name);
    if ((await present(file)) === undefined) {
      if (used) {
        throw new ConfigError(`${file} is missing, but ${home.dataDir} is in use: put it back from a backup`);
      }
      await writeFileDurably(durable, 'written-file', file, make(), { mode: 0o600 });
    } else if ((await readFile(file)).length !== sizeBytes) {
      throw new ConfigError(`${file} is damaged (it should have ${sizeBytes} bytes): put it back from a backup`);
    }
    await chmod(file, 0o600);
  }
}

/** Secrets may only be made before anything was locked with them. */
async function holdsData(home: Home): Promise<boolean> {
  const catalog = await readdir(home.catalog).catch((): string[] => []);
  return catalog.includes('PG_VERSION');
}

/** Makes the directory when it is not there; then owner and mode are as said, or it is refused. */
async function ownDirectory(directory: string, mode: number, uid: number, owner: number = uid): Promise<void> {
  await mkdir(directory, { mode }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw new ConfigError(`cannot create ${directory}: ${error.code}`, { cause: error });
  });
  const stats = await lstat(directory);
  if (!stats.isDirectory()) throw new ConfigError(`${directory} is not a directory`);
  if (stats.uid !== owner && stats.uid !== uid) {
    throw new ConfigError(`${directory} belongs to user id ${stats.uid}, not to ${owner}`);
  }
  if (uid === 0 && stats.uid !== owner) await chown(directory, owner, owner);
  if ((stats.mode & 0o777) !== mode) await chmod(directory, mode);
}

/** Undefined when there is nothing (or a link to nothing). */
async function present(place: string): Promise<Stats | undefined> {
  try {
    return await stat(place);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new ConfigError(`cannot look at ${place}: ${(error as NodeJS.ErrnoException).code}`, { cause: error });
  }
}

async function linkOrDirectory(place: string): Promise<'link' | 'directory' | undefined> {
  try {
    return (await lstat(place)).isSymbolicLink() ? 'link' : 'directory';
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** The real path as far as it exists, the rest as it is. */
async function resolved(place: string): Promise<string> {
  try {
    return await realpath(place);
  } catch {
    const parent = path.dirname(place);
    return parent === place ? place : path.join(await resolved(parent), path.basename(place));
  }
}

async function sharedDirectoryOf(config: Config, options: HomeOptions): Promise<string> {
  const hash = createHash('sha256')
    .update(await resolved(config.dataDir))
    .digest('hex')
    .slice(0, 12);
  return path.join(options.sharedDirectory ?? DEFAULT_SHARED_DIRECTORY, hash);
}
