/**
 * Which node this is. The name is made once, kept beside the data that it owns, and written into every project:
 * a runner touches only what is on its own machine.
 */
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import type { Home } from '../home.ts';
import { durable, writeFileDurably } from '../lib/durable.ts';

/** `node-<12 hex digits>`, the same at every start on one data directory. */
export async function nodeId(home: Pick<Home, 'secrets'>): Promise<string> {
  const file = path.join(home.secrets, 'node-id');
  try {
    return (await readFile(file, 'utf8')).trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  const id = `node-${randomBytes(6).toString('hex')}`;
  await writeFileDurably(durable, 'written-file', file, `${id}\n`);
  return id;
}
