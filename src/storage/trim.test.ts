import { mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { segmentName } from '../postgres/wal.ts';
import { trimArchive } from './trim.ts';

const MIB = 1024 * 1024;
const SEGMENT_BYTES = 4 * MIB;
/** 256 MB are kept whatever their age. */
const KEPT_SEGMENTS = 64;
const NOW_MS = Date.parse('2026-05-01T00:00:00Z');
const HOUR_MS = 3_600_000;
let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(path.join(os.tmpdir(), 'ballast-trim-'));
});
afterEach(() => rm(directory, { recursive: true }));

async function archived(segmentNumber: number, ageHours: number): Promise<string> {
  const name = segmentName(1, segmentNumber, SEGMENT_BYTES);
  await writeFile(path.join(directory, name), '');
  const at = new Date(NOW_MS - ageHours * HOUR_MS);
  await utimes(path.join(directory, name), at, at);
  return name;
}

const trim = (windowHours: number) =>
  trimArchive(directory, { olderThanMs: NOW_MS - windowHours * HOUR_MS, segmentSizeBytes: SEGMENT_BYTES });

test('removes what is both outside the window and far behind the newest', async () => {
  // Across the end of a 4 GB log file, where the name's middle part counts on.
  const last = 1024 + 20;
  const farBehind = last - KEPT_SEGMENTS - 1;
  const names = {
    oldAndFar: await archived(farBehind, 30),
    youngAndFar: await archived(farBehind - 1, 2),
    oldAndNear: await archived(farBehind + 1, 30),
    newest: await archived(last, 0),
  };
  expect(await trim(24)).toBe(1);
  expect((await readdir(directory)).toSorted()).toEqual([names.youngAndFar, names.oldAndNear, names.newest].toSorted());
  expect(await trim(1)).toBe(1);
  expect(await readdir(directory)).not.toContain(names.youngAndFar);
});

test('leaves everything else alone', async () => {
  await archived(1, 1_000);
  await archived(500, 0);
  for (const name of ['00000002.history', '000000010000000000000002.partial', 'x.tmp']) {
    await writeFile(path.join(directory, name), '');
    await utimes(path.join(directory, name), new Date(0), new Date(0));
  }
  expect(await trim(0)).toBe(1);
  expect(await readdir(directory)).toHaveLength(4);
  expect(await trim(0)).toBe(0);
});
