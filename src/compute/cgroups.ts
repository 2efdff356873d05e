/**
 * Control groups (cgroup v2): where on this machine Ballast may make some, and one for each compute.
 *
 *   <parent>/ballast-self/                       what was in <parent> before, Ballast itself included, where that must go
 *   <parent>/ballast-<8 hex digits>/<endpoint>/  one compute; the digits stand for the data directory
 *
 * `findCgroups` only looks. <parent> is a cgroup that systemd has delegated (Delegate=yes) or, as root, the top of the
 * tree that this machine or container sees. A group outlives Ballast with its compute and is found again by the compute's
 * process. Sizes are set by limits.ts.
 */
import { createHash } from 'node:crypto';
import { constants, readFileSync } from 'node:fs';
import { access, mkdir, readFile, readdir, rmdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from '../lib/child-process.ts';

export type CgroupPlace =
  | { available: true; parent: string; mustMoveOut: boolean }
  | { available: false; reason: string; fix?: string };

/** What is looked at; tests have their own. */
export interface Machine {
  platform: NodeJS.Platform;
  uid: number;
  /** `/proc` */
  proc: string;
  hasSystemd: boolean;
  /** Whether systemd has left the unit's cgroup to whoever runs in it. */
  isDelegated(unit: string, ofUser: boolean): Promise<boolean>;
}

const CONTROLLERS = ['cpu', 'memory'] as const;
const SELF = 'ballast-self';
const PREPARE_ATTEMPTS = 10;
const REMOVE_ATTEMPTS = 50;
const REMOVE_STEP_MS = 20;

export async function thisMachine(): Promise<Machine> {
  return {
    platform: process.platform,
    uid: process.getuid?.() ?? -1,
    proc: '/proc',
    hasSystemd: await isThere('/run/systemd/system'),
    isDelegated: async (unit, ofUser) => {
      const args = [...(ofUser ? ['--user'] : []), 'show', '--property=Delegate', '--value', unit];
      const answer = await run('systemctl', args, { tolerateFailure: true }).catch(() => '');
      return answer.trim() === 'yes';
    },
  };
}

/** Where computes can have cgroups of their own, or why nowhere and the command that mends it. Changes nothing. */
export async function findCgroups(machine: Machine): Promise<CgroupPlace> {
  if (machine.platform !== 'linux') return { available: false, reason: 'control groups are a thing of Linux' };
  const tree = await mountedTree(machine.proc);
  const top = tree && (await readWords(path.join(tree.mountPoint, 'cgroup.controllers')));
  if (!tree || !top || !hasAll(top)) {
    return {
      available: false,
      reason: 'this machine does not manage processors and memory by cgroup v2',
      fix: 'boot with systemd.unified_cgroup_hierarchy=1 on the kernel command line',
    };
  }
  const own = path.join(tree.mountPoint, tree.own);
  const parent = path.basename(own) === SELF ? path.dirname(own) : own;
  if (await isOurs(machine, parent, tree)) return usable(parent, 'own');
  if (machine.uid === 0) return usable(tree.mountPoint, 'top');
  return {
    available: false,
    reason: 'no control group is delegated to Ballast',
    fix: machine.hasSystemd
      ? 'systemd-run --user --scope -p Delegate=yes npm start   (or Delegate=yes in the unit of a service)'
      : 'start Ballast as root',
  };
}

/** Made for this process: the parent's other processes must be Ballast's own, or what came with it. */
async function isOurs(machine: Machine, parent: string, tree: Tree): Promise<boolean> {
  if (parent === tree.mountPoint) return machine.uid !== 0 && (await isWritable(parent));
  if (!(await isWritable(parent))) return false;
  if (!machine.hasSystemd) return machine.uid !== 0;
  return machine.isDelegated(path.basename(parent), tree.own.includes('/user@'));
}

async function usable(parent: string, kind: 'own' | 'top'): Promise<CgroupPlace> {
  if (!(await isWritable(parent))) {
    const reason = `${parent} cannot be written to`;
    return { available: false, reason, fix: 'give the container a writable /sys/fs/cgroup of its own' };
  }
  if (!hasAll(await readWords(path.join(parent, 'cgroup.controllers')))) {
    return {
      available: false,
      reason: `the controllers ${CONTROLLERS.join(' and ')} do not reach ${parent}`,
      fix: 'systemctl edit user@.service, with the lines [Service] and Delegate=cpu memory pids; then log in again',
    };
  }
  // Only the top of the machine's tree may have both processes and groups with controllers; it alone has no type.
  const isRoot = kind === 'top' && !(await isThere(path.join(parent, 'cgroup.type')));
  return { available: true, parent, mustMoveOut: !isRoot };
}

interface Tree {
  mountPoint: string;
  /** Of this process, below the mount point; starts with `/`. */
  own: string;
}

/** Undefined where no cgroup2 is mounted, or this process is not below what is. */
async function mountedTree(proc: string): Promise<Tree | undefined> {
  const mounts = await readFile(path.join(proc, 'self/mountinfo'), 'utf8').catch(() => '');
  const own = await cgroupPath(path.join(proc, 'self/cgroup'));
  for (const line of mounts.split('\n')) {
    const [before = '', after = ''] = line.split(' - ');
    const [, , , root, mountPoint] = before.split(' ');
    if (!after.startsWith('cgroup2 ') || root === undefined || mountPoint === undefined || own === undefined) continue;
    if (root === '/') return { mountPoint, own };
    if (own === root || own.startsWith(`${root}/`)) return { mountPoint, own: own.slice(root.length) || '/' };
  }
  return undefined;
}

async function cgroupPath(file: string): Promise<string | undefined> {
  const lines = await readFile(file, 'utf8').catch(() => '');
  return /^0::(\/.*)$/m.exec(lines)?.[1];
}

/** A compute's use of its group so far. */
export interface CgroupUsage {
  processorMs: number;
  /** Time slices so far, and those in which it was held back by its limit; 0 without one. */
  periods: number;
  throttledPeriods: number;
}

/** Undefined: no limit. */
export interface CgroupLimits {
  /** Its share of busy processors beside other groups; 100 is what everybody has. */
  weight: number | undefined;
  processors: number | undefined;
  /** From there on memory is reclaimed, and who allocates waits for that. */
  memoryHighBytes: number | undefined;
  /** From there on Postgres' processes are killed. */
  memoryMaxBytes: number | undefined;
}

export const NO_LIMITS: CgroupLimits = {
  weight: undefined,
  processors: undefined,
  memoryHighBytes: undefined,
  memoryMaxBytes: undefined,
};

/** The group of one compute. */
export interface Cgroup {
  directory: string;
  /** A process with the children that it has; those to come are born inside. Undone by nothing. */
  enter(pid: number): Promise<void>;
  limit(limits: CgroupLimits): Promise<void>;
  /** Reads one small file of the kernel, which never waits for a disk; throws when the group is gone. */
  usage(): CgroupUsage;
  /** All memory of the group, cached files included. */
  memoryBytes(): number;
  /** What of that its processes work on: their own, shared ones, and files read more than once. */
  workingSetBytes(): number;
  /** Empty by now; one that is not stays behind. */
  remove(): Promise<void>;
}

export interface Cgroups {
  /** Without limits, whatever an earlier compute of the endpoint had. */
  create(endpointId: string): Promise<Cgroup>;
  /** Removes groups without processes, except of those endpoints. */
  removeStale(running: ReadonlySet<string>): Promise<void>;
  /** Removes their place, unless a compute is left in it. */
  close(): Promise<void>;
}

/** Makes the directory's place below the parent. Throws when the kernel refuses. */
export async function openCgroups(
  place: { parent: string; mustMoveOut: boolean },
  dataDirectory: string,
): Promise<Cgroups> {
  await prepareParent(place);
  const base = path.join(place.parent, groupName(dataDirectory));
  await mkdir(base, { recursive: true });
  await enableControllers(base);
  return {
    create: async (endpointId) => {
      const directory = path.join(base, endpointId);
      const isNew = (await mkdir(directory, { recursive: true })) !== undefined;
      const cgroup = cgroupAt(directory);
      if (!isNew) await cgroup.limit(NO_LIMITS);
      return cgroup;
    },
    removeStale: async (running) => {
      const entries = await readdir(base, { withFileTypes: true });
      const stale = entries.filter((entry) => entry.isDirectory() && !running.has(entry.name));
      await Promise.all(stale.map(({ name }) => rmdir(path.join(base, name)).catch(() => undefined)));
    },
    close: () => rmdir(base).catch(() => undefined),
  };
}

/** The group that a compute of an earlier Ballast on the same data directory runs in. */
export async function findCgroup(
  dataDirectory: string,
  endpointId: string,
  pid: number,
  proc = '/proc',
): Promise<Cgroup | undefined> {
  const tree = await mountedTree(proc);
  const found = await cgroupPath(path.join(proc, String(pid), 'cgroup'));
  if (!tree || found === undefined) return undefined;
  if (path.basename(found) !== endpointId || path.basename(path.dirname(found)) !== groupName(dataDirectory)) {
    return undefined;
  }
  const directory = path.join(tree.mountPoint, found);
  return (await isWritable(directory)) ? cgroupAt(directory) : undefined;
}

function groupName(dataDirectory: string): string {
  return `ballast-${createHash('sha256').update(dataDirectory).digest('hex').slice(0, 8)}`;
}

/** Somebody may start a process in it at the wrong moment. */
async function prepareParent({ parent, mustMoveOut }: { parent: string; mustMoveOut: boolean }): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    if (mustMoveOut) await moveOut(parent, path.join(parent, SELF));
    try {
      return await enableControllers(parent);
    } catch (error) {
      if (attempt === PREPARE_ATTEMPTS || (error as NodeJS.ErrnoException).code !== 'EBUSY') throw error;
    }
  }
}

/** A group with processes cannot give controllers to groups in it. */
async function moveOut(parent: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true });
  const pids = await readWords(path.join(parent, 'cgroup.procs'));
  for (const pid of pids) await writeFile(path.join(to, 'cgroup.procs'), pid).catch(ignoreGone);
}

async function enableControllers(directory: string): Promise<void> {
  const file = path.join(directory, 'cgroup.subtree_control');
  if (hasAll(await readWords(file))) return;
  await writeFile(file, CONTROLLERS.map((name) => `+${name}`).join(' '));
}

const PERIOD_US = 100_000;

function cgroupAt(directory: string): Cgroup {
  const file = (name: string) => path.join(directory, name);
  const written = new Map<string, string>();
  const write = async (name: string, value: string) => {
    if (written.get(name) === value) return;
    await writeFile(file(name), value);
    written.set(name, value);
  };
  return {
    directory,
    enter: async (pid) => {
      await writeFile(file('cgroup.procs'), String(pid)).catch(ignoreGone);
      const children = await readWords(`/proc/${pid}/task/${pid}/children`);
      for (const child of children) await writeFile(file('cgroup.procs'), child).catch(ignoreGone);
    },
    limit: async ({ weight, processors, memoryHighBytes, memoryMaxBytes }) => {
      const quota = processors === undefined ? 'max' : String(Math.round(processors * PERIOD_US));
      await write('cpu.weight', String(Math.min(10_000, Math.max(1, Math.round(weight ?? 100)))));
      await write('cpu.max', `${quota} ${PERIOD_US}`);
      await write('memory.max', String(memoryMaxBytes ?? 'max'));
      await write('memory.high', String(memoryHighBytes ?? 'max'));
    },
    usage: () => {
      const numbers = readNumbers(file('cpu.stat'));
      return {
        processorMs: (numbers.get('usage_usec') ?? 0) / 1000,
        periods: numbers.get('nr_periods') ?? 0,
        throttledPeriods: numbers.get('nr_throttled') ?? 0,
      };
    },
    memoryBytes: () => Number(readFileSync(file('memory.current'), 'latin1')),
    workingSetBytes: () => {
      const numbers = readNumbers(file('memory.stat'));
      return ['anon', 'shmem', 'active_file'].reduce((sum, name) => sum + (numbers.get(name) ?? 0), 0);
    },
    remove: async () => {
      for (let attempt = 0; attempt < REMOVE_ATTEMPTS; attempt++) {
        const code = await rmdir(directory).then(
          () => undefined,
          (error: NodeJS.ErrnoException) => error.code,
        );
        // The last process of a compute takes a moment to go.
        if (code !== 'EBUSY') return;
        await sleep(REMOVE_STEP_MS);
      }
    },
  };
}

/** `name value` by line. */
function readNumbers(file: string): Map<string, number> {
  const lines = readFileSync(file, 'latin1').split('\n');
  return new Map(
    lines.map((line) => {
      const [name = '', value] = line.split(' ');
      return [name, Number(value)];
    }),
  );
}

async function readWords(file: string): Promise<string[]> {
  const text = await readFile(file, 'utf8').catch(() => '');
  return text.split(/\s+/).filter((word) => word !== '');
}

function hasAll(words: readonly string[]): boolean {
  return CONTROLLERS.every((name) => words.includes(name));
}

async function isWritable(directory: string): Promise<boolean> {
  const files = ['', 'cgroup.procs', 'cgroup.subtree_control'].map((name) => path.join(directory, name));
  const answers = await Promise.all(files.map((file) => isThere(file, constants.W_OK)));
  return answers.every(Boolean);
}

async function isThere(file: string, mode: number = constants.F_OK): Promise<boolean> {
  return access(file, mode).then(
    () => true,
    () => false,
  );
}

function ignoreGone(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ESRCH') throw error;
}
