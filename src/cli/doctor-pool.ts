/**
 * Doctor's checks of copy-on-write: what the pool can do, found out by doing it, and whether a pool image could be made.
 */
import { constants } from 'node:fs';
import { access, mkdtemp, rm } from 'node:fs/promises';
import path from 'node:path';
import { run } from '../lib/child-process.ts';
import { poolLayout } from '../storage/layout.ts';
import { openPool } from '../storage/pool.ts';
import type { PoolStatus } from '../storage/types.ts';
import { existingAncestor } from './doctor-files.ts';
import type { DoctorContext, Finding } from './finding.ts';

export async function checkCloning(context: DoctorContext): Promise<Finding[]> {
  const name = 'copy-on-write';
  const directory = await existingAncestor(context.home.pool);
  const found = context.running ?? (await probe(directory));
  if (found === undefined) {
    return [
      {
        name,
        level: 'fail',
        text: `${directory} is not writable by this user`,
        fix: `chown ${context.uid} ${directory}`,
      },
    ];
  }
  const { cloneMode, fileSystem } = found;
  if (cloneMode !== 'copy') return [{ name, level: 'ok', text: `${cloneMode} on ${fileSystem}: branches are instant` }];
  const text = `${fileSystem} at ${directory} cannot clone files: each branch is a full copy`;
  return [{ name, level: 'warn', text, fix: await copyFix(context) }];
}

/** Opens a pool of its own in a temporary directory on the same file system, which probes as a start would. */
async function probe(directory: string): Promise<PoolStatus | undefined> {
  const writable = await access(directory, constants.W_OK).then(
    () => true,
    () => false,
  );
  if (!writable) return undefined;
  const temporary = await mkdtemp(path.join(directory, '.ballast-doctor-'));
  try {
    return await (await openPool(poolLayout(temporary))).status();
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

async function copyFix({ uid, home }: DoctorContext): Promise<string> {
  if (process.platform !== 'linux') return 'ballast start --pool <directory on APFS>';
  const steps = (await canRun('mkfs.xfs')) ? [] : ['apt-get install xfsprogs'];
  steps.push(`ballast pool create --size 20G --data-dir ${home.dataDir}`);
  const commands = steps.map((step) => (uid === 0 ? step : `sudo ${step}`)).join(' && ');
  return `${commands}   (with Ballast stopped and before the first project; or keep the pool on XFS or btrfs: ballast start --pool <directory>)`;
}

/** Only of interest where a pool image could be made. */
export async function checkLoopDevices({ uid }: DoctorContext): Promise<Finding[]> {
  if (process.platform !== 'linux' || uid !== 0) return [];
  const name = 'loop devices';
  const usable = await access('/dev/loop-control', constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
  if (usable) return [{ name, level: 'ok', text: '/dev/loop-control is there: `ballast pool create` can work' }];
  return [
    { name, level: 'warn', text: 'no /dev/loop-control: `ballast pool create` cannot work', fix: 'modprobe loop' },
  ];
}

async function canRun(program: string): Promise<boolean> {
  return run(program, ['-V']).then(
    () => true,
    () => false,
  );
}
