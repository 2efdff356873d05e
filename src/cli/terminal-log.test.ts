import { mkdtemp, readFile, rename, rm, truncate } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Home } from '../home.ts';
import { openTerminalLog } from './terminal-log.ts';
import type { TerminalLog } from './terminal-log.ts';

let directory: string;
let warnings: string[];

beforeEach(async () => {
  directory = await mkdtemp(path.join(os.tmpdir(), 'ballast-log-test-'));
  warnings = [];
});

afterEach(() => rm(directory, { recursive: true }));

async function open(level = 'info'): Promise<TerminalLog> {
  const log = openTerminalLog({ log: directory } as Home, level, (line) => warnings.push(line));
  // The file is opened in the background; nothing can be flushed before.
  await expect.poll(() => readFile(log.file, 'utf8').catch(() => undefined)).toBeDefined();
  return log;
}

test('the file gets everything, the terminal what matters, as text', async () => {
  const log = await open();
  log.logger.debug('not wanted');
  log.logger.info({ project: 'p' }, 'created');
  log.logger.warn({ err: new Error('disk is slow') }, 'compute starts late');
  log.flush();
  // A write that was under way when the rest was flushed may come after it.
  const messages = async () =>
    (await readFile(log.file, 'utf8'))
      .trim()
      .split('\n')
      .map((line) => (JSON.parse(line) as { msg: string }).msg)
      .toSorted();
  await expect.poll(messages).toEqual(['compute starts late', 'created']);
  expect(warnings).toHaveLength(1);
  expect(warnings[0]).toMatch(/^\d\d:\d\d:\d\d warning: compute starts late: disk is slow$/);
});

test('secrets are redacted', async () => {
  const log = await open();
  log.logger.warn({ password: 'hunter2', role: { verifier: 'SCRAM-hunter2' } }, 'x');
  log.flush();
  await expect.poll(() => readFile(log.file, 'utf8')).toContain('"x"');
  expect(await readFile(log.file, 'utf8')).not.toContain('hunter2');
});

test('is reopened after somebody moved the file', async () => {
  const log = await open();
  await rename(log.file, `${log.file}.moved`);
  log.reopen();
  await expect.poll(() => readFile(log.file, 'utf8').catch(() => undefined)).toBe('');
  log.logger.info('after');
  log.flush();
  await expect.poll(() => readFile(log.file, 'utf8')).toContain('"after"');
});

test('a large file is set aside', async () => {
  const log = await open();
  await truncate(log.file, 33 * 1024 * 1024);
  log.rotate();
  await expect.poll(() => readFile(log.file, 'utf8').catch(() => undefined)).toBe('');
});
