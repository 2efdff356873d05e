/**
 * Pools for tests on file systems of every kind: XFS and btrfs in loop-mounted images, and whatever the temporary
 * directory is on. An image can be copied at once and mounted a second time, which is what a power cut leaves behind.
 */
import { execFileSync } from 'node:child_process';
import { constants, existsSync } from 'node:fs';
import { chmod, copyFile, mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';

export type PoolKind = 'plain' | 'xfs' | 'btrfs';

const tool = (name: string) =>
  ['/usr/sbin', '/sbin', '/usr/bin'].map((dir) => path.join(dir, name)).find((file) => existsSync(file));

/** Empty when pools of this kind can be made here; otherwise what is missing. */
export function missingFor(kind: PoolKind): string {
  if (kind === 'plain') return '';
  if (process.getuid?.() !== 0) return 'needs root';
  if (!existsSync('/dev/loop-control')) return 'needs loop devices';
  return tool(`mkfs.${kind}`) === undefined ? `needs mkfs.${kind}` : '';
}

export interface TestPool {
  directory: string;
  /** The image file; undefined for a plain directory. */
  image: string | undefined;
  remove(): Promise<void>;
}

/** `parent` holds the image; default: a new temporary directory. */
export async function makePool(
  kind: PoolKind,
  options: { sizeBytes?: number; parent?: string } = {},
): Promise<TestPool> {
  const holder = await mkdtemp(path.join(options.parent ?? os.tmpdir(), 'ballast-pool-'));
  await chmod(holder, 0o755);
  const directory = path.join(holder, 'pool');
  await mkdir(directory);
  if (kind === 'plain') {
    await chmod(directory, 0o711);
    return { directory, image: undefined, remove: () => rm(holder, { recursive: true, force: true }) };
  }
  const image = path.join(holder, `image.${kind}`);
  await writeFile(image, '');
  await truncate(image, options.sizeBytes ?? 4 * 1024 ** 3);
  execFileSync(tool(`mkfs.${kind}`)!, kind === 'xfs' ? ['-q', '-m', 'reflink=1', image] : ['-q', image]);
  execFileSync('mount', ['-o', kind === 'btrfs' ? 'loop,user_subvol_rm_allowed' : 'loop', image, directory]);
  await chmod(directory, 0o711);
  return { directory, image, remove: () => unmountAndRemove(directory, holder) };
}

/**
 * What would be found after the power failed now: the image as the loop device has written it, mounted elsewhere.
 * The image must lie on a file system with reflinks, so that the copy is of one moment.
 */
export async function cutPower(pool: TestPool): Promise<TestPool> {
  const holder = await mkdtemp(path.join(path.dirname(path.dirname(pool.image!)), 'ballast-cut-'));
  await chmod(holder, 0o755);
  const directory = path.join(holder, 'pool');
  const image = path.join(holder, 'image');
  await mkdir(directory);
  await copyFile(pool.image!, image, constants.COPYFILE_FICLONE_FORCE);
  const nouuid = pool.image!.endsWith('.xfs') ? ',nouuid' : '';
  execFileSync('mount', ['-o', `loop${nouuid}`, image, directory]);
  return { directory, image, remove: () => unmountAndRemove(directory, holder) };
}

async function unmountAndRemove(directory: string, holder: string): Promise<void> {
  try {
    execFileSync('umount', [directory], { stdio: 'ignore' });
  } catch {
    execFileSync('umount', ['-l', directory]);
  }
  await rm(holder, { recursive: true, force: true });
}
