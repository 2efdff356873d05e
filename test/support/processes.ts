/**
 * Looks at the machine from outside: which processes belong to a directory, which sockets listen there, which ports
 * are free. Linux reads /proc; elsewhere `ps` and `lsof` are not asked and leak checks see nothing of other users.
 */
import { randomInt } from 'node:crypto';
import { readdir, readFile, readlink, realpath } from 'node:fs/promises';
import { createServer } from 'node:net';

export interface ProcessFact {
  pid: number;
  command: string;
  cwd: string;
}

/** Processes whose working directory or command line lies below one of the directories. Never this process. */
export async function processesBelow(directories: readonly string[]): Promise<ProcessFact[]> {
  const roots = new Set<string>();
  for (const directory of directories) {
    roots.add(directory);
    roots.add(await realpath(directory).catch(() => directory));
  }
  const found: ProcessFact[] = [];
  for (const entry of await readdir('/proc').catch(() => [])) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    const cwd = await readlink(`/proc/${pid}/cwd`).catch(() => '');
    const command = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).replaceAll('\0', ' ').trim();
    const belongs = [...roots].some(
      (root) => cwd === root || cwd.startsWith(`${root}/`) || command.includes(`${root}/`),
    );
    if (belongs) found.push({ pid, command, cwd });
  }
  return found;
}

/** Unix sockets of the kernel's table that lie below one of the directories. */
export async function socketsBelow(directories: readonly string[]): Promise<string[]> {
  const table = await readFile('/proc/net/unix', 'utf8').catch(() => '');
  const paths = table
    .split('\n')
    .map((line) => line.trim().split(/\s+/)[7] ?? '')
    .filter((file) => directories.some((directory) => file.startsWith(`${directory}/`)));
  return [...new Set(paths)];
}

/** Below those that the kernel gives to outgoing connections: of those, tests open thousands at a time. */
const PORTS = { first: 12_000, count: 20_000 };
const given = new Set<number>();

/** A TCP port that was free a moment ago, and that nobody but another test at random will take. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = PORTS.first + randomInt(PORTS.count);
    if (given.has(port)) continue;
    given.add(port);
    if (await isFree(port)) return port;
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}

/** User plus system time of a process so far, in milliseconds (Linux counts in ticks of 10 ms). */
export async function cpuMs(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}
