/**
 * A private installation tree: our own copy of what a Postgres needs, made once per build.
 *
 * Why a copy: computes run as other users, who may not be able to enter the place where npm put the package; `npm ci`
 * must not pull files from under running computes; and the extension control files are edited. Layout as in the
 * origin, because postgres finds share and lib relative to its (link-resolved) binary: the binaries are therefore
 * copied, a system's library directory is linked, an npm package's is copied with the links it lacks.
 *
 * Made under another name and renamed into place, so a tree that exists is complete. Nothing in it is writable.
 */
import {
  chmod,
  constants,
  copyFile,
  lstat,
  mkdir,
  readFile,
  readdir,
  readlink,
  rename,
  rm,
  stat,
  symlink,
} from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import path from 'node:path';

export interface InstallationLayout {
  root: string;
  /** Relative to root. */
  bin: string;
  share: string;
  libraries: { kind: 'private'; directory: string; linksFile: string } | { kind: 'system'; directory: string };
}

export interface InstallationTree {
  binDirectory: string;
  shareDirectory: string;
  /** For LD_LIBRARY_PATH; undefined where the system's loader finds everything. */
  libraryPath: string | undefined;
  /** False when it was there already. */
  made: boolean;
}

const BINARIES = ['postgres', 'initdb'];

export async function makeInstallationTree(
  layout: InstallationLayout,
  target: string,
  prepareExtensions: (extensionDirectory: string) => Promise<void>,
): Promise<InstallationTree> {
  const made = !(await exists(target));
  if (made) await build(layout, target, prepareExtensions);
  return {
    binDirectory: path.join(target, layout.bin),
    shareDirectory: path.join(target, layout.share),
    libraryPath: layout.libraries.kind === 'private' ? path.join(target, layout.libraries.directory) : undefined,
    made,
  };
}

async function build(
  layout: InstallationLayout,
  target: string,
  prepareExtensions: (extensionDirectory: string) => Promise<void>,
): Promise<void> {
  const temporary = `${target}.tmp-${randomBytes(4).toString('hex')}`;
  await mkdir(path.dirname(target), { recursive: true, mode: 0o755 });
  try {
    await makeDirectory(temporary, layout.bin);
    for (const binary of BINARIES) {
      const to = path.join(temporary, layout.bin, binary);
      await copyFile(path.join(layout.root, layout.bin, binary), to, constants.COPYFILE_FICLONE);
      await chmod(to, 0o555);
    }
    await makeDirectory(temporary, layout.share);
    await copyTree(path.join(layout.root, layout.share), path.join(temporary, layout.share));
    await placeLibraries(layout, temporary);
    await prepareExtensions(path.join(temporary, layout.share, 'extension'));
    await makeReadOnly(temporary);
    await rename(temporary, target);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    // Another process of Ballast was faster: its tree is as good.
    if (await exists(target)) return;
    throw error;
  }
}

async function placeLibraries(layout: InstallationLayout, root: string): Promise<void> {
  const { libraries } = layout;
  const origin = path.join(layout.root, libraries.directory);
  const target = path.join(root, libraries.directory);
  await makeDirectory(root, path.dirname(libraries.directory));
  if (libraries.kind === 'system') return symlink(origin, target);
  await mkdir(target);
  await copyTree(origin, target);
  const text = await readFile(path.join(layout.root, libraries.linksFile), 'utf8').catch(() => '[]');
  for (const { source, target: link } of JSON.parse(text) as { source: string; target: string }[]) {
    await symlink(path.basename(source), path.join(target, path.basename(link))).catch(ignoreExisting);
  }
}

function ignoreExisting(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EEXIST') throw error;
}

/** Each directory on the way is made by itself: `recursive` would apply the umask to the inner ones only. */
async function makeDirectory(root: string, relative: string): Promise<void> {
  await mkdir(path.join(root, relative), { recursive: true, mode: 0o755 });
}

/** Follows links that lead elsewhere (distributions have some), drops what only a compiler needs. */
async function copyTree(from: string, to: string): Promise<void> {
  for (const name of await readdir(from)) {
    if (name.endsWith('.a') || name === 'pkgconfig' || name === 'man') continue;
    const source = path.join(from, name);
    const target = path.join(to, name);
    const link = await readlink(source).catch(() => undefined);
    if (link !== undefined && !link.includes('/')) {
      await symlink(link, target);
      continue;
    }
    const kind = await stat(source).catch(() => undefined);
    if (kind?.isDirectory()) {
      await mkdir(target, { recursive: true, mode: 0o755 });
      await copyTree(source, target);
    } else if (kind?.isFile()) {
      await copyFile(source, target, constants.COPYFILE_FICLONE);
    }
  }
}

async function makeReadOnly(directory: string): Promise<void> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const item = path.join(directory, entry.name);
    if (entry.isDirectory()) await makeReadOnly(item);
    else if (entry.isFile()) await chmod(item, ((await stat(item)).mode & 0o111) === 0 ? 0o444 : 0o555);
  }
  await chmod(directory, 0o755);
}

async function exists(file: string): Promise<boolean> {
  return lstat(file).then(
    () => true,
    () => false,
  );
}
