/**
 * A machine of a test's own, as far as names and trusted authorities go: programs run in a mount namespace where
 * /etc/hosts and Debian's store of authorities are copies. What happens to them outlives the program, for the next
 * one, and ends with the copies; the real machine and other tests see nothing of it, whatever goes wrong.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cp, mkdir, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { temporaryDirectory } from './ballast.ts';
import { runProgram, type Ran } from './clients.ts';

const COPIED = ['/etc/ssl/certs', '/usr/local/share/ca-certificates', '/etc/ca-certificates'];

/** Takes root, namespaces, and Debian's way to keep authorities. */
export const canHaveOwnMachine =
  process.getuid!() === 0 &&
  COPIED.every((directory) => existsSync(directory)) &&
  spawnSync('unshare', ['--mount', 'sh', '-c', 'mount --bind /etc/hosts /etc/hosts']).status === 0;

export interface OwnMachine {
  run(command: string, args: readonly string[], env?: Record<string, string>): Promise<Ran>;
  destroy(): Promise<void>;
}

/** `hosts`: lines of /etc/hosts. */
export async function ownMachine(hosts: readonly string[]): Promise<OwnMachine> {
  const root = await temporaryDirectory(os.tmpdir());
  const mounts = [...COPIED, '/etc/hosts'].map((place) => ({ place, copy: path.join(root, place) }));
  await mkdir(path.join(root, 'etc'));
  for (const place of COPIED) await cp(place, path.join(root, place), { recursive: true, verbatimSymlinks: true });
  await writeFile(path.join(root, 'etc/hosts'), `127.0.0.1 localhost\n${hosts.join('\n')}\n`);
  const script = [...mounts.map(({ place, copy }) => `mount --bind '${copy}' '${place}'`), 'exec "$@"'].join(' && ');
  return {
    run: (command, args, env = {}) =>
      runProgram('unshare', ['--mount', 'sh', '-c', script, 'sh', command, ...args], {
        env: { PATH: process.env['PATH'], HOME: root, ...env },
        cwd: root,
        timeoutMs: 120_000,
      }),
    destroy: () => rm(root, { recursive: true, force: true }),
  };
}
