/**
 * Where pools lie: an XFS or btrfs file system in a sparse file when root can mount one, else an ordinary directory.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

const MKFS = { xfs: ['mkfs.xfs', '-q', '-m', 'reflink=1'], btrfs: ['mkfs.btrfs', '-q'] };
const OPTIONS = { xfs: 'loop', btrfs: 'loop,user_subvol_rm_allowed' };

/** Undefined when this machine cannot mount such an image. */
export function mountImage(fs, sizeBytes) {
  const [mkfs, ...args] = MKFS[fs];
  const found = ['/usr/sbin', '/sbin', '/usr/bin'].some((directory) => existsSync(path.join(directory, mkfs)));
  if (process.getuid?.() !== 0 || !found || !existsSync('/dev/loop-control')) return undefined;
  const root = mkdtempSync(path.join(os.tmpdir(), `ballast-bench-${fs}-`));
  const image = path.join(root, 'image');
  const directory = path.join(root, 'mounted');
  writeFileSync(image, '');
  truncateSync(image, sizeBytes);
  execFileSync(mkfs, [...args, image], {
    stdio: 'ignore',
    env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  });
  mkdirSync(directory);
  execFileSync('mount', ['-o', OPTIONS[fs], image, directory]);
  for (const each of [root, directory]) chmodSync(each, 0o711);
  return {
    name: fs,
    directory,
    remove() {
      execFileSync('umount', ['-l', directory]);
      rmSync(root, { recursive: true, force: true });
    },
  };
}

/** A directory of the temporary file system, for machines where no image can be mounted. */
export function plainDirectory() {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'ballast-bench-plain-'));
  chmodSync(directory, 0o711);
  return { name: 'plain', directory, remove: () => rmSync(directory, { recursive: true, force: true }) };
}
