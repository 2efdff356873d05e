/**
 * A pool in a file: an XFS (reflink) or btrfs (subvolumes) file system in a sparse image, mounted by a loop device,
 * for machines whose disks cannot clone. Needs root.
 *
 * Remembered in `<mount point>.image.json` beside the mount point (so it can be read while nothing is mounted):
 * `mountRememberedImage` puts the file system back after a reboot, before anything writes into the empty directory.
 */
import { chmod, mkdir, open, readFile, readdir, rm, stat, truncate } from 'node:fs/promises';
import path from 'node:path';
import { run } from '../lib/child-process.ts';
import { durable, writeFileDurably } from '../lib/durable.ts';
import { AppError, errorMessage } from '../lib/errors.ts';

export interface PoolImageOptions {
  fs: 'xfs' | 'btrfs';
  sizeBytes: number;
  imageFile: string;
  mountPoint: string;
}

interface RememberedImage {
  formatVersion: 1;
  fs: PoolImageOptions['fs'];
  imageFile: string;
}

const ENV = { PATH: '/usr/sbin:/sbin:/usr/bin:/bin', LC_ALL: 'C' };
const MIN_SIZE_BYTES = 512 * 1024 * 1024;

const memoryOf = (mountPoint: string) => `${mountPoint}.image.json`;

/** Throws AppError 'unprocessable' saying what is missing or in the way; leaves nothing behind when it fails. */
export async function createPoolImage(options: PoolImageOptions): Promise<void> {
  const { fs, sizeBytes, imageFile, mountPoint } = options;
  requireRoot();
  if (sizeBytes < MIN_SIZE_BYTES) throw refused(`a pool needs at least ${MIN_SIZE_BYTES / 1024 / 1024} MB`);
  await mkdir(mountPoint, { recursive: true, mode: 0o711 });
  if (await isMounted(mountPoint)) throw refused(`${mountPoint} is a mount point already`);
  if ((await readdir(mountPoint)).length > 0) throw refused(`${mountPoint} is not empty`);
  // Exclusive: an image that exists may hold somebody's data.
  const handle = await open(imageFile, 'wx', 0o600).catch((cause: unknown) => {
    throw refused(`cannot create ${imageFile}: ${errorMessage(cause)}`);
  });
  await handle.close();
  try {
    await truncate(imageFile, sizeBytes);
    await makeFileSystem(fs, imageFile);
    await mountImage(fs, imageFile, mountPoint);
    await chmod(mountPoint, 0o711);
    const memory: RememberedImage = { formatVersion: 1, fs, imageFile };
    await writeFileDurably(durable, 'pool-image', memoryOf(mountPoint), `${JSON.stringify(memory, null, 2)}\n`);
  } catch (error) {
    if (await isMounted(mountPoint)) await run('umount', [mountPoint], { env: ENV }).catch(() => undefined);
    await rm(imageFile, { force: true });
    throw error instanceof AppError ? error : refused(errorMessage(error));
  }
}

/** Unmounts and deletes the image that was made for the mount point. No error when there is none. */
export async function removePoolImage(mountPoint: string): Promise<void> {
  const memory = await remembered(mountPoint);
  if (!memory) return;
  requireRoot();
  if (await isMounted(mountPoint)) {
    await run('umount', [mountPoint], { env: ENV }).catch((cause: unknown) => {
      throw refused(`${mountPoint} is in use: ${errorMessage(cause)}`);
    });
  }
  await rm(memory.imageFile, { force: true });
  await rm(memoryOf(mountPoint), { force: true });
}

/**
 * Mounts the image that belongs to the mount point, if there is one and it is not mounted. Returns whether the mount
 * point has an image. Throws AppError 'unprocessable' when it cannot be mounted: starting on the empty directory
 * beneath would look as if all data had gone.
 */
export async function mountRememberedImage(mountPoint: string): Promise<boolean> {
  const memory = await remembered(mountPoint);
  if (!memory) return false;
  if (await isMounted(mountPoint)) return true;
  requireRoot();
  try {
    await mountImage(memory.fs, memory.imageFile, mountPoint);
  } catch (error) {
    throw refused(`cannot mount ${memory.imageFile} on ${mountPoint}: ${errorMessage(error)}`);
  }
  return true;
}

async function remembered(mountPoint: string): Promise<RememberedImage | undefined> {
  try {
    return JSON.parse(await readFile(memoryOf(mountPoint), 'utf8')) as RememberedImage;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

async function makeFileSystem(fs: PoolImageOptions['fs'], imageFile: string): Promise<void> {
  const [command, args, packageName] =
    fs === 'xfs'
      ? ['mkfs.xfs', ['-q', '-m', 'reflink=1', imageFile], 'xfsprogs']
      : ['mkfs.btrfs', ['-q', imageFile], 'btrfs-progs'];
  try {
    await run(command, args, { env: ENV });
  } catch (error) {
    throw refused(
      /ENOENT/.test(errorMessage(error)) ? `${command} is missing: install ${packageName}` : errorMessage(error),
    );
  }
}

async function mountImage(fs: PoolImageOptions['fs'], imageFile: string, mountPoint: string): Promise<void> {
  // Without the btrfs option an ordinary user could make subvolumes and never delete them.
  const options = fs === 'btrfs' ? 'loop,noatime,user_subvol_rm_allowed' : 'loop,noatime';
  await run('mount', ['-t', fs, '-o', options, imageFile, mountPoint], { env: ENV });
}

/** A mount point is on another device than its parent. */
async function isMounted(directory: string): Promise<boolean> {
  const [here, above] = await Promise.all([stat(directory), stat(path.dirname(path.resolve(directory)))]);
  return here.dev !== above.dev;
}

function requireRoot(): void {
  if (process.getuid?.() !== 0) throw refused('mounting a pool image needs root');
}

const refused = (message: string) => new AppError('unprocessable', message);
