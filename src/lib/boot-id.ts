/**
 * Which run of the machine this is: equal within one, different after every restart.
 */
import { readFile } from 'node:fs/promises';
import { run } from './child-process.ts';

/** Lower-case letters, digits and dashes. Throws where the system has no such thing. */
export async function readBootId(): Promise<string> {
  const text =
    process.platform === 'darwin'
      ? await run('sysctl', ['-n', 'kern.bootsessionuuid'])
      : await readFile('/proc/sys/kernel/random/boot_id', 'utf8');
  return text.trim().toLowerCase();
}
