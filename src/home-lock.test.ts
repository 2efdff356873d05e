import { spawn } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { lockHome } from './home-lock.ts';

let dataDir: string;
let home: { dataDir: string; pidFile: string };
beforeEach(async () => {
  dataDir = await mkdtemp(path.join(os.tmpdir(), 'ballast-lock-'));
  home = { dataDir, pidFile: path.join(dataDir, 'ballast.pid') };
});
afterEach(() => rm(dataDir, { recursive: true, force: true }));

test('is had by one at a time, and leaves nothing behind', async () => {
  const lock = await lockHome(home);
  await expect(lockHome(home)).rejects.toThrow(`Ballast already runs on ${dataDir} (pid ${process.pid})`);
  await lock.release();
  expect(await readdir(dataDir)).toEqual([]);
  await (await lockHome(home)).release();
});

test('of many that find a stale lock, one gets it', async () => {
  await writeFile(home.pidFile, '999999999 whenever\n');
  const results = await Promise.allSettled(Array.from({ length: 10 }, () => lockHome(home)));
  expect(results.filter((result) => result.status === 'fulfilled')).toHaveLength(1);
  expect(await readdir(dataDir)).toEqual(['ballast.pid']);
});

test.skipIf(process.platform !== 'linux')('a pid that lives again as somebody else does not hold it', async () => {
  const child = spawn('sleep', ['60']);
  await writeFile(home.pidFile, `${child.pid} another-boot/17\n`);
  const lock = await lockHome(home);
  expect(await readFile(home.pidFile, 'utf8')).toMatch(new RegExp(`^${process.pid} `));
  await lock.release();
  child.kill();
});
