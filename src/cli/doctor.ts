/**
 * `ballast doctor`: what this machine lacks for Ballast, each with the exact command that mends it.
 *
 * A finding is `ok`, `warn` (works, but not as well as it could) or `fail` (will not work). Exit code 1 when anything
 * fails. Works while Ballast runs and while it does not; changes nothing (the probe of the pool removes its two files).
 */
import type { Config } from '../config.ts';
import { locateHome } from '../home-prepare.ts';
import { errorMessage } from '../lib/errors.ts';
import { checkCatalog, checkDataDirectory, checkSpace, checkUids } from './doctor-files.ts';
import { checkDescriptors, checkNames, checkNode, checkPlatform, checkPorts, checkPostgres } from './doctor-machine.ts';
import { checkLimits } from './doctor-limits.ts';
import { checkCloning, checkLoopDevices } from './doctor-pool.ts';
import { checkCertificate, checkTrust } from './doctor-tls.ts';
import type { DoctorContext, Finding } from './finding.ts';
import { print, printJson } from './print.ts';
import { readRunning } from './running.ts';

type Check = (context: DoctorContext) => Promise<Finding[]>;

const CHECKS: readonly (readonly [name: string, check: Check])[] = [
  ['node', checkNode],
  ['platform', checkPlatform],
  ['data directory', checkDataDirectory],
  ['catalog', checkCatalog],
  ['user ids', checkUids],
  ['copy-on-write', checkCloning],
  ['loop devices', checkLoopDevices],
  ['space', checkSpace],
  ['postgres', checkPostgres],
  ['host names', checkNames],
  ['ports', checkPorts],
  ['certificate', checkCertificate],
  ['trust', (context) => checkTrust(context)],
  ['open files', checkDescriptors],
  ['compute sizes', checkLimits],
];

export async function runDoctor(config: Config, options: { json: boolean }): Promise<number> {
  const home = await locateHome(config);
  const running = await readRunning(home);
  const context: DoctorContext = { config, home, running, uid: process.getuid!() };
  const findings: Finding[] = [];
  for (const [name, check] of CHECKS) {
    const found = await check(context).catch((error: unknown): Finding[] => [
      { name, level: 'fail', text: `could not be checked: ${errorMessage(error)}` },
    ]);
    findings.push(...found);
  }
  if (options.json) printJson({ running: running !== undefined, findings });
  else print(formatFindings(findings, running !== undefined));
  return findings.some((finding) => finding.level === 'fail') ? 1 : 0;
}

export function formatFindings(findings: readonly Finding[], running: boolean): string {
  const width = Math.max(...findings.map((finding) => finding.name.length));
  const lines = [`Ballast is ${running ? 'running' : 'not running'}`];
  for (const { level, name, text, fix } of findings) {
    lines.push(`${level.padEnd(4)}  ${name.padEnd(width)}  ${text}`);
    if (fix !== undefined) lines.push(`${' '.repeat(6 + width + 2)}${level === 'ok' ? 'more' : 'mend'}: ${fix}`);
  }
  const count = (level: Finding['level']) => findings.filter((finding) => finding.level === level).length;
  lines.push(`${count('ok')} ok, ${count('warn')} could be better, ${count('fail')} must be mended`);
  return lines.join('\n');
}
