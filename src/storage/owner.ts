/**
 * Whose files are whose.
 */
import { lstat } from 'node:fs/promises';
import type { FileOwner } from './types.ts';

/** Undefined unless Ballast is root: then all files are its own. */
export async function ownerOf(file: string): Promise<FileOwner | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const { uid, gid } = await lstat(file);
  return { uid, gid };
}
