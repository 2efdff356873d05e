/**
 * `ballast pool create|remove`: a pool on an XFS or btrfs file system inside a file, so that branches are instant on
 * machines whose disks cannot clone files. Needs root and loop devices.
 */
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import type { Config } from '../config.ts';
import { prepareHome } from '../home-prepare.ts';
import { createPoolImage, removePoolImage } from '../storage/pool-image.ts';
import { CommandError, formatBytes, parseBytes, print } from './print.ts';
import { readRunning } from './running.ts';

export interface PoolCreateOptions {
  fs: string;
  size: string;
  /** Default: `<data-dir>/pool.img`. */
  file?: string;
}

const MINIMUM_BYTES = 512 * 1024 ** 2;

export async function createPool(config: Config, options: PoolCreateOptions): Promise<void> {
  if (options.fs !== 'xfs' && options.fs !== 'btrfs') throw new CommandError('--fs must be xfs or btrfs');
  const sizeBytes = parseBytes(options.size);
  if (sizeBytes < MINIMUM_BYTES) throw new CommandError(`--size must be at least ${formatBytes(MINIMUM_BYTES)}`);
  assertRoot('create');
  const home = await prepareHome(config);
  await assertStopped(home);
  const found = (await readdir(home.pool)).filter((name) => name !== 'lost+found');
  if (found.length > 0) {
    throw new CommandError(`${home.pool} is not empty (${found[0]!}): a pool is made before the first project`);
  }
  const imageFile = path.resolve(options.file ?? path.join(home.dataDir, 'pool.img'));
  await createPoolImage({ fs: options.fs, sizeBytes, imageFile, mountPoint: home.pool });
  // The new file system's root has a mode of its own.
  await prepareHome(config);
  print(`Pool on ${options.fs}, ${formatBytes(sizeBytes)} in ${imageFile}, mounted on ${home.pool}`);
  print('`ballast start` mounts it again after a reboot.');
}

export async function removePool(config: Config, options: { force: boolean }): Promise<void> {
  assertRoot('remove');
  const home = await prepareHome(config);
  await assertStopped(home);
  const projects = (await readdir(home.pool)).filter((name) => /^[a-z]+-[a-z]+-\d+$/.test(name));
  if (projects.length > 0 && !options.force) {
    throw new CommandError(`${home.pool} holds the data of ${projects.length} projects; --force removes it for ever`);
  }
  await removePoolImage(home.pool);
  print(`Removed the pool that was mounted on ${home.pool}`);
}

function assertRoot(verb: string): void {
  if (process.getuid!() !== 0) throw new CommandError(`pool ${verb} mounts file systems and needs root: use sudo`);
}

async function assertStopped(home: Parameters<typeof readRunning>[0]): Promise<void> {
  const running = await readRunning(home);
  if (running !== undefined) throw new CommandError(`Ballast runs on it (pid ${running.pid}); stop it first`);
}
