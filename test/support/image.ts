/**
 * A small file system in a file, mounted by loop device: for what a test must do to a whole file system.
 * Needs root, losetup and mkfs.xfs; `canMountImages` says whether they are there.
 */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdir, rm, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';

const MKFS = ['/usr/sbin/mkfs.xfs', '/sbin/mkfs.xfs'].find((file) => existsSync(file));

export const canMountImages = process.getuid?.() === 0 && MKFS !== undefined && existsSync('/dev/loop-control');

export interface Image {
  directory: string;
  remove(): Promise<void>;
}

export async function mountXfsImage(parent: string, sizeBytes: number): Promise<Image> {
  const file = path.join(parent, 'image.xfs');
  const directory = path.join(parent, 'mounted');
  await writeFile(file, '');
  await truncate(file, sizeBytes);
  execFileSync(MKFS!, ['-q', '-m', 'reflink=1', file]);
  await mkdir(directory);
  execFileSync('mount', ['-o', 'loop', file, directory]);
  await chmod(directory, 0o711);
  return {
    directory,
    async remove() {
      execFileSync('umount', ['-l', directory]);
      await rm(file, { force: true });
      await rm(directory, { recursive: true, force: true });
    },
  };
}
