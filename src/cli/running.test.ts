import { spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, rm, stat } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readConfig } from '../config.ts';
import { locateHome } from '../home-prepare.ts';
import type { Home } from '../home.ts';
import { clientHost, readRunning, removeRunning, writeRunning } from './running.ts';
import type { RunningFacts } from './running.ts';

let directory: string;
let home: Home;

beforeEach(async () => {
  directory = await mkdtemp(path.join(os.tmpdir(), 'ballast-running-test-'));
  home = await locateHome(readConfig({ dataDir: directory }, {}));
  await mkdir(home.run);
});

afterEach(() => rm(directory, { recursive: true }));

const facts = (pid: number): RunningFacts => ({
  pid,
  version: '0.0.0',
  startedAt: '2026-01-01T00:00:00Z',
  apiUrl: 'http://localhost:1/api/v2',
  pgHost: 'localhost',
  pgPort: 2,
  apiPort: 1,
  domain: 'localhost',
  proxyProtocol: 'off',
  cloneMode: 'copy',
  computeLimits: { mode: 'off' },
  fileSystem: 'ext4',
});

test('is found while its process lives', async () => {
  expect(await readRunning(home)).toBeUndefined();
  await writeRunning(home, facts(process.pid));
  expect(await readRunning(home)).toEqual(facts(process.pid));
  expect((await stat(path.join(home.run, 'ballast.json'))).mode & 0o077).toBe(0);
  await removeRunning(home);
  expect(await readRunning(home)).toBeUndefined();
});

test('what a crash left behind counts for nothing', async () => {
  const { pid } = spawnSync('true');
  await writeRunning(home, facts(pid));
  expect(await readRunning(home)).toBeUndefined();
});

test.each([
  ['127.0.0.1', 'localhost'],
  ['0.0.0.0', 'localhost'],
  ['10.0.0.7', '10.0.0.7'],
  ['fd00::7', '[fd00::7]'],
])('listening on %s is reached as %s', (listen, host) => {
  expect(clientHost({ listen })).toBe(host);
});
