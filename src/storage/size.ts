/**
 * How large a timeline is: bytes of its files as Postgres sees them, and extents of the large ones. Blocks that are
 * shared with other timelines count in full; what a branch adds to the disk is the pool's business.
 */
import { lstat, readdir } from 'node:fs/promises';
import path from 'node:path';
import { OUTPUT_LIMIT_BYTES, run } from '../lib/child-process.ts';
import type { TimelineLayout } from './layout.ts';
import type { TimelineSize } from './types.ts';

/** Smaller files cannot be fragmented enough to matter. */
const LARGE_FILE_BYTES = 1024 * 1024;
const FILES_AT_ONCE = 64;

export interface LargeFile {
  file: string;
  sizeBytes: number;
  extents: number;
}

export async function measureSize(layout: TimelineLayout): Promise<TimelineSize> {
  const files = await filesOf(layout.pgdata);
  const data = files.filter(({ file }) => !file.startsWith(path.join(layout.pgdata, 'pg_wal')));
  const logicalBytes = data.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const counted = await countExtents(data).catch(() => undefined);
  return { logicalBytes, extents: counted?.reduce((sum, { extents }) => sum + extents, 0) };
}

/**
 * Bytes that deleting the timeline would give back: extents of its files that no other file shares, so far as the file
 * system tells. Undefined where it cannot be asked.
 */
export async function measureOwnBytes(directory: string): Promise<number | undefined> {
  const files = (await filesOf(directory)).filter(({ sizeBytes }) => sizeBytes > 0).map(({ file }) => file);
  let ownBytes = 0;
  try {
    for (let from = 0; from < files.length; from += FILES_AT_ONCE) {
      const said = await filefrag(['-v', '-b1', ...files.slice(from, from + FILES_AT_ONCE)]);
      // A map that was cut off tells nothing.
      if (said.length >= OUTPUT_LIMIT_BYTES) return undefined;
      ownBytes += unsharedBytes(said);
    }
  } catch {
    return undefined;
  }
  return ownBytes;
}

/** Lines of extents: `0: 0.. 8191: 1234.. 9425: 8192: last,shared,eof`, in bytes. */
export function unsharedBytes(said: string): number {
  let sum = 0;
  for (const [, length, flags] of said.matchAll(/^\s*\d+:\s+\d+\.\.\s*\d+:\s+\d+\.\.\s*\d+:\s+(\d+):(.*)$/gm)) {
    if (!flags!.includes('shared')) sum += Number(length);
  }
  return sum;
}

/** Extents of the large files of a directory, most fragmented first. Rejects where they cannot be counted. */
export async function fragmentation(dataDirectory: string): Promise<LargeFile[]> {
  const counted = await countExtents(await filesOf(dataDirectory));
  return counted.toSorted((a, b) => b.extents - a.extents);
}

async function filesOf(directory: string): Promise<{ file: string; sizeBytes: number }[]> {
  const entries = await readdir(directory, { withFileTypes: true, recursive: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => path.join(entry.parentPath, entry.name));
  const measured = await Promise.all(
    files.map(async (file) => ({ file, sizeBytes: (await lstat(file).catch(() => ({ size: 0 }))).size })),
  );
  return measured;
}

/** `<path>: 12 extents found`, one line per file. */
async function countExtents(files: readonly { file: string; sizeBytes: number }[]): Promise<LargeFile[]> {
  const large = files.filter(({ sizeBytes }) => sizeBytes >= LARGE_FILE_BYTES);
  const counted: LargeFile[] = [];
  for (let from = 0; from < large.length; from += FILES_AT_ONCE) {
    const batch = large.slice(from, from + FILES_AT_ONCE);
    const said = await filefrag(batch.map(({ file }) => file));
    const lines = said.trim().split('\n');
    batch.forEach((item, index) => {
      const match = /: (\d+) extents? found/.exec(lines[index] ?? '');
      counted.push({ ...item, extents: Number(match?.[1] ?? 0) });
    });
  }
  return counted;
}

function filefrag(args: readonly string[]): Promise<string> {
  return run('filefrag', args, { env: { PATH: '/usr/sbin:/sbin:/usr/bin:/bin' } });
}
