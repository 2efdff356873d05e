/**
 * `ballast pool create|mount|remove`: a pool on an XFS or btrfs file system inside a file, so that branches are instant
 * on machines whose disks cannot clone files. Needs root and loop devices.
 *
 * A data directory of an ordinary user gets a pool that belongs to that user. `ballast start` as root mounts the image
 * again after a reboot; for an ordinary user `sudo ballast pool mount` does.
 */
import { chmod, chown, readdir, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import type { Config } from '../config.ts';
import { locateHome, prepareHome } from '../home-prepare.ts';
import type { Home } from '../home.ts';
import { errorMessage } from '../lib/errors.ts';
import { createPoolImage, mountRememberedImage, removePoolImage } from '../storage/pool-image.ts';
import { existingAncestor } from './doctor-files.ts';
import { CommandError, formatBytes, parseBytes, print } from './print.ts';
import { readRunning } from './running.ts';

export interface PoolCreateOptions {
  fs: string;
  size: string;
  /** Default: `<data-dir>/pool.img`. */
  file?: string;
}

const MINIMUM_BYTES = 512 * 1024 ** 2;
/** What the first start puts into a pool; it can be made again. */
const REPLACEABLE = new Set(['template', 'trash', 'reserve', 'lost+found']);

export async function createPool(config: Config, options: PoolCreateOptions): Promise<void> {
  if (options.fs !== 'xfs' && options.fs !== 'btrfs') throw new CommandError('--fs must be xfs or btrfs');
  const sizeBytes = parseBytes(options.size);
  if (sizeBytes < MINIMUM_BYTES) throw new CommandError(`--size must be at least ${formatBytes(MINIMUM_BYTES)}`);
  assertRoot('create');
  const { home, owner } = await homeOfOwner(config);
  await assertStopped(home);
  await emptyPool(home.pool);
  const imageFile = path.resolve(options.file ?? path.join(home.dataDir, 'pool.img'));
  await createPoolImage({ fs: options.fs, sizeBytes, imageFile, mountPoint: home.pool });
  if (owner === 0) await prepareHome(config);
  else await giveTo(owner, home.pool);
  print(`Pool on ${options.fs}, ${formatBytes(sizeBytes)} in ${imageFile}, mounted on ${home.pool}`);
  print(
    owner === 0
      ? '`ballast start` mounts it again after a reboot.'
      : `After a reboot: \`sudo ballast pool mount --data-dir ${home.dataDir}\``,
  );
}

/** A pool that `ballast pool create` made is not mounted any more after a reboot. */
export async function mountPoolImage(config: Config): Promise<void> {
  const { pool } = await locateHome(config);
  await mountRememberedImage(pool).catch((error: unknown) => {
    const hint = process.getuid!() === 0 ? '' : `: run \`sudo ballast pool mount --data-dir ${config.dataDir}\``;
    throw new CommandError(`${errorMessage(error)}${hint}`, { cause: error });
  });
}

export async function mountPool(config: Config): Promise<void> {
  assertRoot('mount');
  const { pool } = await locateHome(config);
  if (!(await mountRememberedImage(pool))) throw new CommandError(`${pool} has no image (see \`ballast pool create\`)`);
  print(`${pool} is mounted`);
}

export async function removePool(config: Config, options: { force: boolean }): Promise<void> {
  assertRoot('remove');
  const home = await locateHome(config);
  await assertStopped(home);
  const names = await readdir(home.pool).catch((): string[] => []);
  const projects = names.filter((name) => !REPLACEABLE.has(name));
  if (projects.length > 0 && !options.force) {
    throw new CommandError(
      `${home.pool} holds the data of ${projects.length} project${projects.length === 1 ? '' : 's'}; --force removes it for ever`,
    );
  }
  await removePoolImage(home.pool);
  print(`Removed the pool that was mounted on ${home.pool}`);
}

/** Root prepares its own data directory; somebody else's is taken as that user's first start left it. */
async function homeOfOwner(config: Config): Promise<{ home: Home; owner: number }> {
  const found = await stat(config.dataDir).catch(() => undefined);
  const owner = found?.uid ?? (await stat(await existingAncestor(config.dataDir))).uid;
  // Made here it would belong to root, and that user's start could not use it.
  if (found === undefined && owner !== 0) {
    const who = `the user who is to run it (user id ${owner})`;
    throw new CommandError(
      `${config.dataDir} does not exist yet: start Ballast once as ${who}, stop it, and run this again`,
    );
  }
  return { owner, home: owner === 0 ? await prepareHome(config) : await locateHome(config, { uid: owner }) };
}

async function emptyPool(pool: string): Promise<void> {
  const names = await readdir(pool).catch((): string[] => []);
  const kept = names.find((name) => !REPLACEABLE.has(name));
  if (kept !== undefined) {
    throw new CommandError(
      `${pool} holds data already (${kept}): a pool is made before the first project, or for another --data-dir`,
    );
  }
  for (const name of names) await rm(path.join(pool, name), { recursive: true });
}

async function giveTo(owner: number, pool: string): Promise<void> {
  for (const place of [pool, `${pool}.image.json`]) await chown(place, owner, owner);
  await chmod(pool, 0o700);
}

function assertRoot(verb: string): void {
  if (process.getuid!() !== 0) throw new CommandError(`pool ${verb} mounts file systems and needs root: use sudo`);
}

async function assertStopped(home: Home): Promise<void> {
  const running = await readRunning(home);
  if (running !== undefined) throw new CommandError(`Ballast runs on it (pid ${running.pid}); stop it first`);
}
