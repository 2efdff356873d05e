/**
 * What is done for a timeline right after it went to sleep, and dropped at once when somebody wants it.
 *
 * Rewriting: a file that was cloned and then updated at random falls into thousands of extents, and cloning costs
 * about 18 us for each. Past a budget the worst files are written anew, unshared: disk space for clone time.
 * (A base may follow: keep-history.ts.)
 */
import { chmod, chown, lstat, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { run } from '../lib/child-process.ts';
import type { Durable } from '../lib/durable.ts';
import type { Pool } from './pool.ts';
import { fragmentation } from './size.ts';
import type { LargeFile } from './size.ts';

/** A clone of this many extents costs about 0.07 s more than one of a fresh cluster. */
export const EXTENT_BUDGET = 4_000;
/** Below it, a file is not worth writing anew. */
const WORTH_REWRITING_EXTENTS = 64;

/**
 * Runs work on a timeline at rest, under its lock: `shared` beside clones of it, `exclusive` alone. Undefined, and
 * nothing done, when it is not at rest any more or somebody has wanted it since.
 */
export interface AtRest {
  shared<T>(work: () => Promise<T>): Promise<T | undefined>;
  exclusive<T>(work: () => Promise<T>): Promise<T | undefined>;
}

/** Returns how many files were rewritten. Clones go on meanwhile; only the moment of a rename is exclusive. */
export async function rewriteFragmented(
  durable: Durable,
  pool: Pool,
  dataDirectory: string,
  atRest: AtRest,
  signal: AbortSignal,
): Promise<number> {
  const files = (await atRest.shared(() => fragmentation(dataDirectory).catch((): LargeFile[] => []))) ?? [];
  let extents = files.reduce((sum, file) => sum + file.extents, 0);
  let rewritten = 0;
  for (const item of files) {
    if (extents <= EXTENT_BUDGET || item.extents < WORTH_REWRITING_EXTENTS || signal.aborted) break;
    const { watermark, freeBytes } = await pool.status();
    if (watermark !== 'ok' || freeBytes < item.sizeBytes * 4) break;
    if (!(await rewrite(durable, item.file, atRest, signal))) break;
    extents -= item.extents;
    rewritten += 1;
  }
  return rewritten;
}

/** The same bytes in new blocks, durable before they take the name. False when it gave way. */
async function rewrite(durable: Durable, file: string, atRest: AtRest, signal: AbortSignal): Promise<boolean> {
  // Clones leave files of such names out.
  const temporary = path.join(path.dirname(file), `pgsql_tmp_rewrite_${path.basename(file)}`);
  try {
    const copied = await atRest.shared(async () => {
      await run('cp', ['-a', '--reflink=never', '--sparse=never', '--', file, temporary], { signal });
      const { uid, gid, mode } = await lstat(file);
      await chmod(temporary, mode & 0o777);
      if (process.getuid?.() === 0) await chown(temporary, uid, gid);
      await durable.file('written-file', temporary);
      return true;
    });
    const renamed =
      copied &&
      (await atRest.exclusive(async () => {
        await rename(temporary, file);
        await durable.directory('written-file', path.dirname(file));
        return true;
      }));
    return renamed === true;
  } catch (error) {
    if (signal.aborted) return false;
    throw error;
  } finally {
    await rm(temporary, { force: true });
  }
}
