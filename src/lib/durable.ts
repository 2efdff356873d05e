/**
 * The only place that calls fsync, or lets a file system do better. Each call names the step it makes durable, so that tests can leave one out
 * and show that a power cut then loses something.
 */
import { open, readdir, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';

/** Which promise of durability a sync keeps. */
export type SyncStep =
  | 'written-file'
  | 'cloned-directory'
  | 'timeline-record'
  | 'timeline-directory'
  | 'base'
  | 'recovered-file'
  | 'project-description'
  | 'template'
  | 'pool-image';

export interface Durable {
  /** fsync of one file. */
  file(step: SyncStep, file: string): Promise<void>;
  /** fsync of one directory: its names. */
  directory(step: SyncStep, directory: string): Promise<void>;
  /** A file system's own way of making something durable. */
  commit(step: SyncStep, work: () => Promise<void>): Promise<void>;
}

async function sync(target: string): Promise<void> {
  const handle = await open(target, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

export const durable: Durable = {
  file: (_step, file) => sync(file),
  directory: (_step, directory) => sync(directory),
  commit: (_step, work) => work(),
};

/** For tests: everything but the named steps. */
export function durableWithout(steps: readonly SyncStep[]): Durable {
  const skip = new Set(steps);
  return {
    file: async (step, file) => (skip.has(step) ? undefined : sync(file)),
    directory: async (step, directory) => (skip.has(step) ? undefined : sync(directory)),
    commit: async (step, work) => (skip.has(step) ? undefined : work()),
  };
}

/** Replaces a file's content so that after a crash either the old or the new one is there, whole. */
export async function writeFileDurably(
  files: Durable,
  step: SyncStep,
  file: string,
  content: string | Buffer,
  options: { mode?: number } = {},
): Promise<void> {
  const temporary = `${file}.tmp-${process.pid}`;
  await writeFile(temporary, content, { mode: options.mode ?? 0o600 });
  await files.file(step, temporary);
  await rename(temporary, file);
  await files.directory(step, path.dirname(file));
}

/** fsync of a directory and every directory below it. */
export async function syncDirectories(files: Durable, step: SyncStep, root: string): Promise<void> {
  const entries = await readdir(root, { withFileTypes: true });
  const below = entries.filter((entry) => entry.isDirectory());
  await Promise.all(below.map((entry) => syncDirectories(files, step, path.join(root, entry.name))));
  await files.directory(step, root);
}
