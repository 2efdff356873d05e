/**
 * Pools in a file: made, mounted again, removed, and refused where they would do harm.
 */
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { missingFor } from '../../test/support/pool.ts';
import { poolLayout } from './layout.ts';
import { createPoolImage, mountRememberedImage, removePoolImage } from './pool-image.ts';
import { openPool } from './pool.ts';

const MIB = 1024 * 1024;
const missing = missingFor('xfs') || missingFor('btrfs');

describe.skipIf(missing !== '')(`a pool in a file ${missing}`, () => {
  let directory: string;
  let mountPoint: string;
  let imageFile: string;

  beforeEach(async () => {
    directory = await mkdtemp(path.join(os.tmpdir(), 'ballast-image-'));
    mountPoint = path.join(directory, 'pool');
    imageFile = path.join(directory, 'pool.img');
  });
  afterEach(async () => {
    await removePoolImage(mountPoint);
    await rm(directory, { recursive: true, force: true });
  });

  test.each([
    { fs: 'xfs', cloneMode: 'reflink' },
    { fs: 'btrfs', cloneMode: 'snapshot' },
  ] as const)('$fs clones by $cloneMode, comes back after an unmount, and goes away', async ({ fs, cloneMode }) => {
    await createPoolImage({ fs, sizeBytes: 600 * MIB, imageFile, mountPoint });
    const pool = await openPool(poolLayout(mountPoint));
    expect(await pool.status()).toMatchObject({ cloneMode, fileSystem: fs });
    await writeFile(path.join(mountPoint, 'kept'), 'yes');
    execFileSync('umount', [mountPoint]);
    expect(await readdir(mountPoint)).toEqual([]);
    expect(await mountRememberedImage(mountPoint)).toBe(true);
    expect(await mountRememberedImage(mountPoint)).toBe(true);
    expect(await readdir(mountPoint)).toContain('kept');
    await removePoolImage(mountPoint);
    expect(await readdir(directory)).toEqual(['pool']);
    expect(await mountRememberedImage(mountPoint)).toBe(false);
  });

  test('refuses what would hide or overwrite data', async () => {
    await mkdir(mountPoint);
    await writeFile(path.join(mountPoint, 'data'), '');
    const create = () => createPoolImage({ fs: 'xfs', sizeBytes: 600 * MIB, imageFile, mountPoint });
    await expect(create()).rejects.toThrow('is not empty');
    await rm(path.join(mountPoint, 'data'));
    await writeFile(imageFile, 'precious');
    await expect(create()).rejects.toThrow('cannot create');
    await rm(imageFile);
    await expect(createPoolImage({ fs: 'xfs', sizeBytes: MIB, imageFile, mountPoint })).rejects.toThrow('at least');
  });

  test('an image that has gone is an error, not an empty pool', async () => {
    await createPoolImage({ fs: 'xfs', sizeBytes: 600 * MIB, imageFile, mountPoint });
    execFileSync('umount', [mountPoint]);
    await rm(imageFile);
    await expect(mountRememberedImage(mountPoint)).rejects.toMatchObject({ kind: 'unprocessable' });
  });
});
