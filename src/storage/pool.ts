/**
 * The pool as a file system: what it can clone, how much room is left, and the reserve.
 *
 * On copy-on-write even an overwrite needs space, so a pool that runs full stops every compute in it. Three defences:
 * new timelines are refused at `high`, writers are suspended at `full` (the reconcilers ask for the status), and a
 * reserve file is given up at `full` so that suspending and recovering still have room. The watermarks count the
 * reserve as used whether it is there or not: giving it up does not look like having become healthy.
 */
import { randomBytes } from 'node:crypto';
import { constants, copyFile, mkdir, open, rm, stat, statfs, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { run } from '../lib/child-process.ts';
import { AppError } from '../lib/errors.ts';
import { fileDriver, snapshotDriver } from './clone-driver.ts';
import type { CloneDriver } from './clone-driver.ts';
import type { PoolLayout } from './layout.ts';
import type { PoolStatus } from './types.ts';

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const POSTGRES_PAGE_BYTES = 8192;

/** statfs magic numbers; Linux' and, for APFS, Darwin's. */
const FILE_SYSTEMS: Record<number, string> = {
  0x58465342: 'xfs',
  0x9123683e: 'btrfs',
  0xef53: 'ext4',
  0x1a: 'apfs',
  0x01021994: 'tmpfs',
  0x794c7630: 'overlay',
  0x2fc12fc1: 'zfs',
  0xca451a4e: 'bcachefs',
};

export interface Pool {
  driver: CloneDriver;
  status(): Promise<PoolStatus>;
  /** Throws AppError 'unavailable' at the high watermark. */
  assertRoom(): Promise<void>;
}

/** Makes the directories and finds out, by doing it, how the pool clones. */
export async function openPool(layout: PoolLayout): Promise<Pool> {
  // Computes run as other users and must be able to pass through; they cannot list.
  await mkdir(layout.root, { recursive: true, mode: 0o711 });
  await mkdir(layout.templates, { recursive: true, mode: 0o711 });
  await mkdir(layout.trash, { recursive: true, mode: 0o700 });
  const fileSystem = FILE_SYSTEMS[(await statfs(layout.root)).type] ?? 'unknown';
  const driver = await probe(layout, fileSystem);
  if (fileSystem === 'xfs') await copyInPages(layout.root);
  const status = () => poolStatus(layout, driver, fileSystem);
  return {
    driver,
    status,
    assertRoom: async () => {
      if ((await status()).watermark !== 'ok') throw poolFull();
    },
  };
}

export function poolFull(cause?: unknown): AppError {
  return new AppError('unavailable', 'The storage pool is almost full. Delete branches or add space, then try again.', {
    ...(cause !== undefined && { cause }),
  });
}

/** Out of space, whoever said so: Node by code, a child by text. */
export function isOutOfSpace(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return (
    code === 'ENOSPC' ||
    code === 'EDQUOT' ||
    (error instanceof Error && error.message.includes('No space left on device'))
  );
}

/**
 * XFS sets 128 KiB aside for each overwrite of a shared block and gives what was not needed back only later: a branch
 * that updates here and there would seem to take many times what it wrote. New files inherit this from the pool.
 */
async function copyInPages(directory: string): Promise<void> {
  const env = { PATH: '/usr/sbin:/sbin:/usr/bin:/bin' };
  // Without xfsprogs it stays as it is.
  await run('xfs_io', ['-c', `cowextsize ${POSTGRES_PAGE_BYTES}`, directory], { env }).catch(() => undefined);
}

/** Promises of `cp --reflink=auto` are no evidence: clone a real file, large enough not to be stored inline. */
async function probe(layout: PoolLayout, fileSystem: string): Promise<CloneDriver> {
  const file = path.join(layout.trash, `probe-${randomBytes(6).toString('hex')}`);
  try {
    if (fileSystem === 'btrfs' && (await clonesSubvolumes(file))) return snapshotDriver(layout.trash);
    await writeFile(file, randomBytes(MIB), { mode: 0o600 });
    const clones = await copyFile(file, `${file}.clone`, constants.COPYFILE_FICLONE_FORCE).then(
      () => true,
      () => false,
    );
    return fileDriver(clones ? 'reflink' : 'copy', { journalled: clones && fileSystem === 'xfs' });
  } finally {
    await rm(file, { recursive: true, force: true });
    await rm(`${file}.clone`, { recursive: true, force: true });
  }
}

/** Making and snapshotting is not enough: without the right to delete them, every deletion would leave blocks behind. */
async function clonesSubvolumes(directory: string): Promise<boolean> {
  try {
    await run('btrfs', ['subvolume', 'create', directory]);
    await run('btrfs', ['subvolume', 'snapshot', directory, `${directory}.clone`]);
    await run('btrfs', ['subvolume', 'delete', `${directory}.clone`]);
    await run('btrfs', ['subvolume', 'delete', directory]);
    return true;
  } catch {
    return false;
  }
}

interface Watermarks {
  highBytes: number;
  fullBytes: number;
  reserveBytes: number;
}

/** Shares of the pool, capped: on a large disk a tenth would be space that nobody can use. */
export function watermarks(totalBytes: number): Watermarks {
  return {
    highBytes: Math.min(totalBytes * 0.1, 8 * GIB),
    fullBytes: Math.min(totalBytes * 0.03, 2 * GIB),
    reserveBytes: Math.floor(Math.min(totalBytes * 0.02, 512 * MIB) / MIB) * MIB,
  };
}

async function poolStatus(layout: PoolLayout, driver: CloneDriver, fileSystem: string): Promise<PoolStatus> {
  const { blocks, bavail, bsize } = await statfs(layout.root);
  const totalBytes = blocks * bsize;
  const freeBytes = bavail * bsize;
  const marks = watermarks(totalBytes);
  const reserved = await stat(layout.reserve).then(
    () => true,
    () => false,
  );
  const usableBytes = reserved ? freeBytes : freeBytes - marks.reserveBytes;
  const watermark = usableBytes < marks.fullBytes ? 'full' : usableBytes < marks.highBytes ? 'high' : 'ok';
  if (watermark === 'full' && reserved) await rm(layout.reserve, { force: true });
  if (watermark === 'ok' && !reserved) await makeReserve(layout.reserve, marks.reserveBytes);
  return { path: layout.root, cloneMode: driver.mode, fileSystem, totalBytes, freeBytes, watermark };
}

/** Allocated, not written: a reserve of zeros would cost the write. */
async function makeReserve(file: string, sizeBytes: number): Promise<void> {
  if (sizeBytes === 0) return;
  try {
    await run('fallocate', ['-l', String(sizeBytes), file]);
  } catch {
    await rm(file, { force: true });
    await writeZeros(file, sizeBytes).catch(() => rm(file, { force: true }));
  }
}

async function writeZeros(file: string, sizeBytes: number): Promise<void> {
  const handle = await open(file, 'w', 0o600);
  try {
    const block = Buffer.alloc(MIB);
    for (let written = 0; written < sizeBytes; written += MIB) await handle.write(block);
  } finally {
    await handle.close();
  }
}
