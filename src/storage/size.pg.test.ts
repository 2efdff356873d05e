import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { randomBytes } from 'node:crypto';
import { afterEach, describe, expect, test } from 'vitest';
import { run } from '../lib/child-process.ts';
import { measureOwnBytes } from './size.ts';

const KIB = 1024;
let root: string | undefined;
afterEach(async () => {
  if (root) await rm(root, { recursive: true, force: true });
});

describe.each([
  ['XFS', process.env['BALLAST_TEST_XFS_DIR']],
  ['btrfs', process.env['BALLAST_TEST_BTRFS_DIR']],
])('bytes that a directory holds alone on %s', (name, place) => {
  test.skipIf(place === undefined)(
    `are those that no clone shares${place ? '' : ` (no ${name} directory given)`}`,
    async () => {
      root = await mkdtemp(path.join(place!, 'ballast-own-'));
      const [one, two] = [path.join(root, 'one'), path.join(root, 'two')];
      await run('mkdir', [one, two]);
      const files = [1, 2, 3].map((number) => `${number}`);
      for (const file of files) {
        await writeFile(path.join(one, file), randomBytes(256 * KIB));
        await run('cp', ['--reflink=always', path.join(one, file), path.join(two, file)]);
      }
      await run('sync', ['-f', root]);
      expect(await measureOwnBytes(two)).toBe(0);
      // 64 KiB of one file are written anew, another is gone from the source.
      const file = await open(path.join(two, '1'), 'r+');
      await file.write(randomBytes(64 * KIB), 0, 64 * KIB, 64 * KIB);
      await file.sync();
      await file.close();
      await rm(path.join(one, '2'));
      await run('sync', ['-f', root]);
      // XFS lets go of deleted files a moment later.
      await expect.poll(() => measureOwnBytes(two)).toBe((64 + 256) * KIB);
    },
  );
});
