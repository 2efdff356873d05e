/**
 * The commands as a user types them, by scripts/run.mjs (which builds first when it must), against one running Ballast.
 */
import { spawn, spawnSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { chmod, chown, mkdtemp, readFile, readdir, realpath, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { RunningFacts } from './running.ts';

const RUN = path.resolve(import.meta.dirname, '../../scripts/run.mjs');
const READY = /^ready: API (\S+), Postgres \S+, clone mode \w+ \(\w+\), API key in (\S+)$/m;
/** A build may be needed first. */
const READY_WITHIN_MS = 110_000;

interface Ended {
  code: number | null;
  output: string;
}

let directory: string;
let dataDir: string;
let engine: string | undefined;

beforeAll(async () => {
  directory = await mkdtemp(path.join(os.tmpdir(), 'ballast-cli-test-'));
  await chmod(directory, 0o711);
  dataDir = path.join(directory, 'data');
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
  if (engine !== undefined) await rm(engine, { recursive: true, force: true });
});

function environment(): NodeJS.ProcessEnv {
  return { PATH: process.env['PATH'], HOME: directory, BALLAST_DATA_DIR: dataDir };
}

function ballast(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [RUN, 'ballast', ...args], {
    env: environment(),
    encoding: 'utf8',
  });
  // Sources that changed meanwhile are built first, and that is said.
  return { status, stdout, stderr: stderr.replaceAll(/^ballast: (building|waiting for the setup).*\n/gm, '') };
}

function start(...args: string[]): { child: ChildProcess; ready: Promise<string>; ended: Promise<Ended> } {
  const child = spawn(process.execPath, [RUN, 'start', '--api-port', '0', '--pg-port', '0', ...args], {
    env: environment(),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  const take = (chunk: Buffer) => (output += chunk.toString());
  child.stdout.on('data', take);
  child.stderr.on('data', take);
  const ended = new Promise<Ended>((resolve) => child.once('close', (code) => resolve({ code, output })));
  const ready = new Promise<string>((resolve, reject) => {
    child.stdout.on('data', () => {
      if (READY.test(output)) resolve(output);
    });
    child.once('close', (code) => reject(new Error(`ended with ${code} before it was ready:\n${output}`)));
  });
  ready.catch(() => undefined);
  return { child, ready, ended };
}

describe('while Ballast runs', () => {
  let running: ReturnType<typeof start>;
  let facts: RunningFacts;

  beforeAll(async () => {
    running = start();
    await running.ready;
    facts = (JSON.parse(ballast('status', '--json').stdout) as { facts: RunningFacts }).facts;
    const run = await realpath(path.join(dataDir, 'run'));
    if (!run.startsWith(directory)) engine = path.dirname(run);
  }, READY_WITHIN_MS);

  afterAll(async () => {
    running.child.kill('SIGKILL');
    await running.ended;
  });

  test('one line says ready, with everything one needs', async () => {
    const output = await running.ready;
    expect(output.match(/ready/g)).toHaveLength(1);
    const [, api, keyFile] = READY.exec(output)!;
    expect(api).toBe(facts.apiUrl);
    expect(await readFile(keyFile!, 'utf8')).toMatch(/^napi_\w+\n$/);
  });

  test('status says where it is', () => {
    const { status, stdout } = ballast('status');
    expect(status).toBe(0);
    expect(stdout).toContain(facts.apiUrl);
    expect(stdout).toContain(`clone mode ${facts.cloneMode}`);
    expect(stdout).toContain('No projects yet');
  });

  test('keys are made, listed, and useless once revoked', async () => {
    const made = JSON.parse(ballast('keys', 'create', 'for a test', '--json').stdout) as { id: number; key: string };
    const projects = () =>
      fetch(`${facts.apiUrl}/projects`, { headers: { authorization: `Bearer ${made.key}` } }).then(
        ({ status }) => status,
      );
    expect(await projects()).toBe(200);
    expect(ballast('keys', 'list').stdout).toMatch(new RegExp(`^${made.id} +for a test`, 'm'));
    expect(ballast('keys', 'revoke', String(made.id)).status).toBe(0);
    expect(await projects()).toBe(401);
    expect(ballast('keys', 'revoke', '999999')).toMatchObject({ status: 1, stderr: 'ballast: API key not found\n' });
  });

  test('env is what a shell can eval', async () => {
    const { stdout } = ballast('env');
    const shell = spawnSync('sh', ['-c', `${stdout}\nprintf '%s %s' "$NEON_API_HOST" "$NEON_API_KEY"`], {
      encoding: 'utf8',
    });
    expect(shell.stdout).toBe(`${facts.apiUrl} ${(await readFile(path.join(dataDir, 'api-key'), 'utf8')).trim()}`);
  });

  test('doctor finds nothing that must be mended', () => {
    const { status, stdout } = ballast('doctor', '--json');
    const report = JSON.parse(stdout) as { running: boolean; findings: { name: string; level: string }[] };
    expect(report.running).toBe(true);
    expect(report.findings.filter((finding) => finding.level === 'fail')).toEqual([]);
    expect(status).toBe(0);
  });

  test('doctor says of computes whether the running Ballast keeps them at their sizes', async () => {
    const { findings } = JSON.parse(ballast('doctor', '--json', '--compute-limits', 'off').stdout) as {
      findings: { name: string; level: string; text: string }[];
    };
    const [sizes] = findings.filter(({ name }) => name === 'compute sizes');
    const { mode, missing } = facts.computeLimits;
    expect(sizes).toMatchObject({ level: missing ? 'warn' : 'ok' });
    expect(sizes!.text).toContain(missing ? missing.reason : 'computes autoscale');
    expect(mode).toBe(missing ? 'off' : 'shares');
  });

  test('a second one on the same directory is refused', async () => {
    const second = await start().ended;
    expect(second.code).toBe(1);
    expect(second.output).toContain(`already runs on ${dataDir} (pid ${facts.pid}`);
  });

  test('SIGTERM stops it cleanly', async () => {
    running.child.kill('SIGTERM');
    const { code, output } = await running.ended;
    expect(output).toContain('SIGTERM: stopping\n');
    expect(output).toMatch(/stopped\n$/);
    expect(output.includes('do not autoscale')).toBe(facts.computeLimits.missing?.fix !== undefined);
    expect(code).toBe(0);
    expect(() => process.kill(facts.pid, 0)).toThrow('ESRCH');
  });
});

describe('while it does not run', () => {
  test('commands that need it say how to start it', () => {
    for (const args of [['keys', 'list'], ['keys', 'create', 'x'], ['env']]) {
      const { status, stderr } = ballast(...args);
      expect(status).toBe(1);
      expect(stderr).toContain('is not running');
      expect(stderr).toContain('`npm run ballast -- start`');
    }
    expect(ballast('status').status).toBe(1);
  });

  test('a port that is taken is named with its flag, by start and by doctor', async () => {
    const taken = net.createServer();
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
    const { port } = taken.address() as net.AddressInfo;
    try {
      for (const flag of ['--api-port', '--pg-port']) {
        const { code, output } = await start(flag, String(port)).ended;
        expect(code).toBe(1);
        expect(output).toContain(flag);
        expect(output).toContain(String(port));
        // A stack says nothing to whoever only has to choose another port.
        expect(output).not.toMatch(/^ +at /m);
      }
      const doctor = ballast('doctor', '--api-port', String(port));
      expect(doctor.status).toBe(1);
      expect(doctor.stdout).toMatch(new RegExp(`^fail +port of the API +127.0.0.1:${port} is taken`, 'm'));
    } finally {
      taken.close();
    }
  });

  test('a directory that is not its own is refused', async () => {
    const other = await mkdtemp(path.join(directory, 'other-'));
    await writeFile(path.join(other, 'thesis.txt'), '');
    const { code, output } = await start('--data-dir', other).ended;
    expect(code).toBe(1);
    expect(output).toContain('"thesis.txt"');
  });

  test.skipIf(process.getuid!() !== 0)('root makes no data directory for somebody else (needs root)', async () => {
    const home = await mkdtemp(path.join(directory, 'home-'));
    await chown(home, 12345, 12345);
    const { status, stderr } = ballast('pool', 'create', '--size', '1G', '--data-dir', path.join(home, '.ballast'));
    expect(status).toBe(1);
    expect(stderr).toContain('start Ballast once as the user who is to run it (user id 12345)');
    expect(await readdir(home)).toEqual([]);
  });

  test.each(['--help', 'start --help', 'keys create --help', 'pool create --help', '--version'])(
    '%s answers',
    (line) => {
      expect(ballast(...line.split(' '))).toMatchObject({ status: 0, stderr: '' });
    },
  );
});
