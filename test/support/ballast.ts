/**
 * Boots the built product as a user does: `node bin/ballast.mjs start …` in a directory of its own, on free ports.
 * Waits for the line that says `ready`, reads the first API key, stops it by SIGINT and checks that nothing is left:
 * no process below its directories, no listening socket. One boot per test file.
 *
 * The pool lies on BALLAST_TEST_XFS_DIR when that is set (a directory on a reflink file system), else beside the data.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, realpath, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { createApi, type Api, type Place } from './api.ts';
import { freePort, processesBelow, socketsBelow, type ProcessFact } from './processes.ts';
import { waitFor } from './wait.ts';

export const REPOSITORY = path.resolve(import.meta.dirname, '../..');
const BIN = path.join(REPOSITORY, 'bin/ballast.mjs');
const READY_TIMEOUT_MS = 120_000;
const STOP_TIMEOUT_MS = 60_000;
const MAX_OUTPUT_CHARACTERS = 1_000_000;

export interface BallastOptions {
  /** Default: a fresh directory, removed by destroy(). */
  dataDir?: string;
  pool?: string;
  flags?: readonly string[];
  env?: Record<string, string>;
}

export interface ExitFact {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export class Ballast {
  readonly root: string;
  readonly dataDir: string;
  readonly pool: string;
  readonly apiPort: number;
  readonly pgPort: number;
  /** Everything that start printed so far, this run's and earlier ones'. */
  output = '';
  api!: Api;
  #child: ChildProcess | undefined;
  #exit: Promise<ExitFact> | undefined;
  readonly #options: BallastOptions;
  readonly #poolRoot: string;
  /** Real directories as they were while it ran, for leak checks after they are gone. */
  #directories: string[] = [];

  private constructor(root: string, poolRoot: string, ports: [number, number], options: BallastOptions) {
    this.root = root;
    this.dataDir = options.dataDir ?? path.join(root, 'data');
    this.#poolRoot = poolRoot;
    this.pool = options.pool ?? path.join(poolRoot, 'pool');
    [this.apiPort, this.pgPort] = ports;
    this.#options = options;
  }

  /** A Ballast that has directories and ports but does not run yet. */
  static async prepare(options: BallastOptions = {}): Promise<Ballast> {
    const root = await temporaryDirectory(os.tmpdir());
    const xfs = process.env['BALLAST_TEST_XFS_DIR'];
    const poolRoot = xfs ? await temporaryDirectory(xfs) : root;
    return new Ballast(root, poolRoot, [await freePort(), await freePort()], options);
  }

  static async boot(options: BallastOptions = {}): Promise<Ballast> {
    const ballast = await Ballast.prepare(options);
    try {
      await ballast.start();
    } catch (error) {
      await ballast.destroy();
      throw error;
    }
    return ballast;
  }

  get pid(): number {
    if (this.#child?.pid === undefined) throw new Error('Ballast does not run');
    return this.#child.pid;
  }

  get baseUrl(): string {
    return `http://localhost:${this.apiPort}/api/v2`;
  }

  /** What every command of the product is given to find this one. */
  environment(): NodeJS.ProcessEnv {
    const env: NodeJS.ProcessEnv = { PATH: process.env['PATH'], HOME: this.root, UV_THREADPOOL_SIZE: '16' };
    // Each test's projects get uids of their own, so that two runs at once stay strangers to each other.
    env['BALLAST_COMPUTE_UID_BASE'] = String(800_000 + (this.apiPort % 4096) * 1024);
    const packages = process.env['BALLAST_POSTGRES_PACKAGES'];
    if (packages) env['BALLAST_POSTGRES_PACKAGES'] = packages;
    return { ...env, ...this.#options.env };
  }

  /** Starts it (again) on the same directories and ports and waits until it is ready. */
  async start(extraFlags: readonly string[] = []): Promise<void> {
    if (!existsSync(BIN)) throw new Error(`${BIN} is missing: build the product first (npm run build)`);
    await mkdir(this.#poolRoot, { recursive: true });
    const flags = ['--data-dir', this.dataDir, '--pool', this.pool];
    flags.push('--api-port', String(this.apiPort), '--pg-port', String(this.pgPort));
    const child = spawn(process.execPath, [BIN, 'start', ...flags, ...(this.#options.flags ?? []), ...extraFlags], {
      cwd: this.root,
      env: this.environment(),
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child = child;
    this.#exit = new Promise((resolve) => {
      child.once('exit', (code, signal) => resolve({ code, signal }));
    });
    await this.#untilReady(child);
    const key = (await readFile(path.join(this.dataDir, 'api-key'), 'utf8')).trim();
    this.api = createApi(this.baseUrl, key);
    this.#directories = await this.directories();
  }

  async #untilReady(child: ChildProcess): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      let ownOutput = '';
      const timer = setTimeout(() => {
        reject(new Error(`not ready after ${READY_TIMEOUT_MS} ms:\n${tail(ownOutput)}`));
      }, READY_TIMEOUT_MS);
      const take = (chunk: Buffer) => {
        ownOutput += chunk.toString();
        this.output = (this.output + chunk.toString()).slice(-MAX_OUTPUT_CHARACTERS);
        if (/\bready\b/.test(ownOutput)) {
          clearTimeout(timer);
          ownOutput = '';
          resolve();
        }
      };
      child.stdout?.on('data', take);
      child.stderr?.on('data', take);
      child.once('exit', (code, signal) => {
        clearTimeout(timer);
        reject(new Error(`start ended with ${code ?? signal} before it was ready:\n${tail(ownOutput)}`));
      });
    });
  }

  /** Real paths of everything that it may write or run in. */
  async directories(): Promise<string[]> {
    const names = [this.root, this.dataDir, this.pool];
    for (const leaf of ['pool', 'run', 'catalog', 'postgres']) names.push(path.join(this.dataDir, leaf));
    const real = await Promise.all(names.map((name) => realpath(name).catch(() => undefined)));
    return [...new Set([...names, ...real.filter((name) => name !== undefined)])];
  }

  async processes(): Promise<ProcessFact[]> {
    return processesBelow([...this.#directories, this.root, this.#poolRoot]);
  }

  /** Postgres processes (postmasters and their children) of this Ballast. */
  async postgresProcesses(): Promise<ProcessFact[]> {
    return (await this.processes()).filter((fact) => fact.command.includes('postgres'));
  }

  /** SIGINT as Ctrl-C sends it; throws unless it ends with code 0 and leaves nothing behind. */
  async stop(): Promise<void> {
    const exit = await this.signal('SIGINT');
    if (exit.code !== 0) throw new Error(`SIGINT ended it with ${exit.code ?? exit.signal}:\n${tail(this.output)}`);
    await this.assertNothingLeft();
  }

  async signal(signal: NodeJS.Signals): Promise<ExitFact> {
    const child = this.#child;
    if (child === undefined || this.#exit === undefined) throw new Error('Ballast does not run');
    child.kill(signal);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<undefined>((resolve) => {
      timer = setTimeout(() => resolve(undefined), STOP_TIMEOUT_MS);
    });
    const exit = await Promise.race([this.#exit, late]);
    clearTimeout(timer);
    if (exit === undefined)
      throw new Error(`${signal} did not end it within ${STOP_TIMEOUT_MS} ms:\n${tail(this.output)}`);
    this.#child = undefined;
    return exit;
  }

  /** As a crash does: its computes and its catalog's Postgres go on running. */
  async kill9(): Promise<void> {
    await this.signal('SIGKILL');
  }

  async assertNothingLeft(): Promise<void> {
    await waitFor('processes to be gone', async () => (await this.processes()).length === 0, {
      timeoutMs: 30_000,
    }).catch(async () => {
      const left = await this.processes();
      throw new Error(`left running: ${left.map((fact) => `${fact.pid} ${fact.command}`).join('; ')}`);
    });
    const sockets = await socketsBelow(this.#directories);
    if (sockets.length > 0) throw new Error(`left listening: ${sockets.join(', ')}`);
  }

  /** `ballast <args>` against this data directory. */
  command(args: readonly string[], env: Record<string, string> = {}) {
    const flags = ['--data-dir', this.dataDir];
    return spawnSync(process.execPath, [BIN, ...args, ...flags], {
      env: {
        ...this.environment(),
        BALLAST_API_PORT: String(this.apiPort),
        BALLAST_PG_PORT: String(this.pgPort),
        BALLAST_POOL: this.pool,
        ...env,
      },
      encoding: 'utf8',
      timeout: 60_000,
    });
  }

  /** A URI through the proxy that needs no name resolution and no certificate. */
  uri(place: Pick<Place, 'endpointId' | 'role' | 'password' | 'database'>): string {
    const user = `${encodeURIComponent(place.role)}:${encodeURIComponent(place.password)}`;
    const options = `options=endpoint%3D${place.endpointId}`;
    return `postgresql://${user}@127.0.0.1:${this.pgPort}/${encodeURIComponent(place.database)}?${options}`;
  }

  /** Directories of timelines, as `<project>/<branch>`. */
  async timelineDirectories(): Promise<string[]> {
    const found: string[] = [];
    for (const project of await readdir(this.pool).catch(() => [])) {
      if (!/^[a-z]+-[a-z]+-\d+$/.test(project)) continue;
      const entries = await readdir(path.join(this.pool, project), { withFileTypes: true });
      // Beside its timelines lies what the catalog says of the project.
      const branches = entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
      if (branches.length === 0) found.push(`${project}/`);
      for (const branch of branches) found.push(`${project}/${branch}`);
    }
    return found;
  }

  /** Ends whatever is left and removes the directories. For afterAll: never throws. */
  async destroy(): Promise<void> {
    if (this.#child !== undefined) {
      this.#child.kill('SIGKILL');
      await this.#exit;
      this.#child = undefined;
    }
    const directories = await this.directories();
    for (const { pid, command } of await this.processes()) {
      if (command.includes('postgres') || command.includes('ballast')) killQuietly(pid);
    }
    await waitFor('leftover processes', async () => (await this.processes()).length === 0, { timeoutMs: 5_000 }).catch(
      () => {},
    );
    // As root the engine's directories may lie elsewhere, behind links in the data directory.
    const elsewhere = directories.filter((directory) => directory.startsWith('/var/lib/ballast/'));
    for (const directory of [this.root, this.#poolRoot, ...elsewhere.map((directory) => path.dirname(directory))]) {
      await rm(directory, { recursive: true, force: true, maxRetries: 3 }).catch(() => {});
    }
  }
}

/** Computes run as other users when the tests run as root, so the way to their directories must be open. */
export async function temporaryDirectory(parent: string): Promise<string> {
  const directory = await mkdtemp(path.join(parent, 'ballast-test-'));
  await chmod(directory, 0o711);
  return directory;
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // Gone already.
  }
}

function tail(text: string): string {
  return text.split('\n').slice(-40).join('\n');
}
