/**
 * The machine under the figures: one line that says what it is, and facts about processes and file systems from /proc.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, statfsSync } from 'node:fs';
import os from 'node:os';

export function machineLine() {
  const cpu = os.cpus()[0]?.model.trim() ?? 'unknown processor';
  const memoryGb = (os.totalmem() / 1024 ** 3).toFixed(0);
  const load = os.loadavg()[0].toFixed(1);
  return `${os.cpus().length} x ${cpu}, ${memoryGb} GB, ${os.type()} ${os.release()}, Node ${process.version}, load ${load}`;
}

/** User plus system time so far; the kernel counts ticks of 10 ms. */
export function cpuMs(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

export function residentBytes(pid) {
  const [, kilobytes] = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(kilobytes) * 1024;
}

/** Bytes in use on a file system after everything was flushed. `du` would count shared blocks fully. */
export function usedBytes(directory) {
  execFileSync('sync', ['-f', directory]);
  const { bsize, blocks, bfree } = statfsSync(directory);
  return (blocks - bfree) * bsize;
}

/** Extents of all files below a directory, or undefined without filefrag. */
export function extents(directory) {
  try {
    const output = execFileSync('sh', ['-c', 'find "$1" -type f -size +64k -exec filefrag {} +', 'sh', directory], {
      encoding: 'utf8',
      maxBuffer: 64 * 1024 * 1024,
    });
    return [...output.matchAll(/: (\d+) extents? found/g)].reduce((sum, match) => sum + Number(match[1]), 0);
  } catch {
    return undefined;
  }
}
