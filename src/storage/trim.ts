/**
 * Trims a timeline's WAL archive: what is older than the project's history window, and so far behind the newest WAL
 * that no clone of the head can need it. History files stay; they are small, and every descendant's recovery reads them.
 */
import { readdir, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { BASE_SERVES_BYTES } from './bases.ts';

/** A clone of the head replays at most BASE_SERVES_BYTES; the rest is for what is written while it is being made. */
const KEPT_BYTES = 4n * BASE_SERVES_BYTES;

const SEGMENT = /^[0-9A-F]{8}([0-9A-F]{8})([0-9A-F]{8})$/;

/** Returns how many segments were removed. `olderThanMs` is a time, in milliseconds since the epoch. */
export async function trimArchive(
  walDirectory: string,
  options: { olderThanMs: number; segmentSizeBytes: number },
): Promise<number> {
  const names = (await readdir(walDirectory)).filter((name) => SEGMENT.test(name));
  const position = (name: string): bigint => {
    const [, high, low] = SEGMENT.exec(name)!;
    return (BigInt(`0x${high}`) << 32n) + BigInt(`0x${low}`) * BigInt(options.segmentSizeBytes);
  };
  const newest = names.reduce((most, name) => (position(name) > most ? position(name) : most), 0n);
  let removed = 0;
  for (const name of names) {
    if (newest - position(name) <= KEPT_BYTES) continue;
    const file = path.join(walDirectory, name);
    if ((await stat(file)).mtimeMs >= options.olderThanMs) continue;
    await rm(file);
    removed += 1;
  }
  return removed;
}
