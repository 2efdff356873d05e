/**
 * The embedded catalog: a small Postgres of Ballast's own, below `<data-dir>/catalog`.
 *
 *   pgdata/          made once by the newest major at hand; its PG_VERSION says which one opens it ever after
 *   .pgdata.tmp-*    an initialisation that a crash interrupted; removed at the next start
 *
 * Nobody but Ballast gets in: no TCP, a Unix socket in a 0700 directory, and SCRAM with 32 random bytes that live in
 * `<data-dir>/secrets/catalog`, so that not even a process of the same user (a tenant's compute, where Ballast is not
 * root) can log in. As root it runs as the first of the computes' users, which no project gets.
 * It is fully durable. It outlives a crash of Ballast and is then adopted; it is the last thing that stops.
 */
import { randomBytes } from 'node:crypto';
import { chmod, chown, mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../config.ts';
import type { Home } from '../home.ts';
import { run } from '../lib/child-process.ts';
import { durable, writeFileDurably } from '../lib/durable.ts';
import { AppError } from '../lib/errors.ts';
import type { Logger } from '../lib/log.ts';
import { findServer, isServerOf, startServer, stopServer, type ServerProcess } from '../postgres/server.ts';
import type { Installations, PostgresInstallation } from '../postgres/types.ts';
import { buildVerifier } from '../postgres/wire/scram.ts';
import type { CatalogConnection } from './database.ts';

export interface EmbeddedCatalog {
  connection: CatalogConnection;
  /** Clean shutdown; whoever uses the catalog must have stopped before. */
  stop(): Promise<void>;
}

export interface EmbeddedCatalogOptions {
  home: Home;
  config: Pick<Config, 'computeUidBase'>;
  installations: Installations;
  logger: Logger;
}

type Owner = { uid: number; gid: number } | undefined;

const USER = 'ballast';
const PORT = 5432;
const READY_WITHIN_MS = 120_000;
const STOP_WITHIN_MS = 30_000;
const SETTINGS = {
  listen_addresses: '',
  port: String(PORT),
  unix_socket_permissions: '0700',
  max_connections: '64',
  shared_buffers: '32MB',
  max_wal_size: '256MB',
  wal_level: 'minimal',
  max_wal_senders: '0',
  max_logical_replication_workers: '0',
  max_parallel_workers_per_gather: '0',
  checkpoint_timeout: '15min',
  deadlock_timeout: '100ms',
  autovacuum_naptime: '20s',
  bgwriter_delay: '1s',
  random_page_cost: '1.1',
  jit: 'off',
  huge_pages: 'off',
  log_min_messages: 'warning',
  // A refused statement may hold what must not be in a log.
  log_min_error_statement: 'panic',
  log_statement: 'none',
  cluster_name: 'ballast-catalog',
} as const;

/** Makes it when needed, starts it or takes it over, and returns when it accepts sessions. */
export async function startEmbeddedCatalog(options: EmbeddedCatalogOptions): Promise<EmbeddedCatalog> {
  const { home, config, installations, logger } = options;
  const owner: Owner =
    process.getuid?.() === 0 ? { uid: config.computeUidBase, gid: config.computeUidBase } : undefined;
  const dataDirectory = path.join(home.catalog, 'pgdata');
  const sockets = path.join(home.sockets, 'catalog');
  const secret = await readSecret(path.join(home.secrets, 'catalog'));
  const major = (await recordedMajor(dataDirectory)) ?? (await newestMajor(installations));
  const installation = await installations.get(major);
  await removeLeftovers(home.catalog);
  if ((await recordedMajor(dataDirectory)) === undefined)
    await initialise({ installation, dataDirectory, owner, secret, logger });
  await mkdir(sockets, { recursive: true, mode: 0o700 });
  if (owner) await chown(sockets, owner.uid, owner.gid);

  await clearSockets(sockets, dataDirectory);
  const start = async (): Promise<ServerProcess> =>
    (await findServer(dataDirectory)) ??
    startServer({
      installation,
      dataDirectory,
      owner,
      args: serverArguments(sockets, major),
      logFile: path.join(home.log, 'catalog.log'),
      readyWithinMs: READY_WITHIN_MS,
    });
  const keeper = await keepRunning(start, logger);
  return {
    connection: { host: sockets, port: PORT, user: USER, database: 'postgres', password: secret, ssl: false },
    stop: async () => {
      const server = keeper.release();
      const how = await stopServer(server, dataDirectory, { fastWithinMs: STOP_WITHIN_MS });
      if (how !== 'fast') logger.warn({ how }, 'the catalog did not stop by itself');
    },
  };
}

/** Starts it again when it dies, with growing pauses, until it is released. */
async function keepRunning(start: () => Promise<ServerProcess>, logger: Logger): Promise<{ release(): ServerProcess }> {
  let released = false;
  let server = await start();
  const watch = async (): Promise<void> => {
    for (let pauseMs = 100; ;) {
      const startedMs = performance.now();
      await server.exited;
      if (released) return;
      logger.error('the catalog ended by itself; starting it again');
      if (performance.now() - startedMs > 60_000) pauseMs = 100;
      for (;;) {
        await sleep(pauseMs, undefined, { ref: false });
        if (released) return;
        pauseMs = Math.min(pauseMs * 2, 10_000);
        try {
          server = await start();
          break;
        } catch (error) {
          logger.error({ err: error }, 'the catalog does not start');
        }
      }
    }
  };
  void watch();
  return {
    release: () => {
      released = true;
      return server;
    },
  };
}

async function recordedMajor(dataDirectory: string): Promise<number | undefined> {
  try {
    return Number((await readFile(path.join(dataDirectory, 'PG_VERSION'), 'utf8')).trim());
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

async function newestMajor(installations: Installations): Promise<number> {
  const available = await installations.available();
  // What is bundled is there on every machine and after every update of the system.
  const bundled = available.filter((one) => one.source === 'bundled');
  const newest = (bundled.length > 0 ? bundled : available).at(-1);
  if (!newest) throw new AppError('unprocessable', 'no PostgreSQL was found; `ballast doctor` says how to get one');
  return newest.major;
}

async function readSecret(file: string): Promise<string> {
  try {
    return (await readFile(file, 'utf8')).trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  const secret = randomBytes(32).toString('base64url');
  await writeFileDurably(durable, 'written-file', file, `${secret}\n`, { mode: 0o600 });
  return secret;
}

/**
 * Nobody but the catalog's server uses the directory. One that lost its data directory may still listen there, and the
 * lock of one that was killed names a process that may not have been cleared away yet: either keeps the next from starting.
 */
async function clearSockets(sockets: string, dataDirectory: string): Promise<void> {
  if (await findServer(dataDirectory)) return;
  const lock = await readFile(path.join(sockets, `.s.PGSQL.${PORT}.lock`), 'utf8').catch(() => '');
  const pid = Number(lock.split('\n')[0]);
  if (pid > 0 && (await isServerOf(dataDirectory, pid))) {
    await stopServer({ pid }, dataDirectory, { fastWithinMs: 0 });
  }
  for (const name of await readdir(sockets)) await rm(path.join(sockets, name), { force: true });
}

async function removeLeftovers(directory: string): Promise<void> {
  for (const name of await readdir(directory)) {
    if (name.startsWith('.pgdata.tmp-')) await rm(path.join(directory, name), { recursive: true, force: true });
  }
}

/**
 * initdb under a temporary name, renamed into place last. initdb refuses root and wants a user that the password file
 * knows, so root lends the work to `nobody` and hands the files to their owner afterwards.
 */
async function initialise(options: {
  installation: PostgresInstallation;
  dataDirectory: string;
  owner: Owner;
  secret: string;
  logger: Logger;
}): Promise<void> {
  const { installation, dataDirectory, owner, secret } = options;
  const parent = path.dirname(dataDirectory);
  const temporary = path.join(parent, `.pgdata.tmp-${randomBytes(4).toString('hex')}`);
  const worker = owner && {
    uid: Number(await run('id', ['-u', 'nobody'])),
    gid: Number(await run('id', ['-g', 'nobody'])),
  };
  // There is nothing in it yet that anybody could reach.
  if (worker) await chmod(parent, 0o711);
  try {
    await mkdir(temporary, { mode: 0o700 });
    // initdb takes a verifier for a password as it is. The secret is random: one iteration is as good as many.
    const passwordFile = path.join(temporary, 'password');
    const data = path.join(temporary, 'pgdata');
    await mkdir(data, { mode: 0o700 });
    await writeFile(passwordFile, `${await buildVerifier(secret, { iterations: 1 })}\n`, { mode: 0o600 });
    if (worker) for (const target of [temporary, data, passwordFile]) await chown(target, worker.uid, worker.gid);
    const args = [
      `--pgdata=${data}`,
      `--username=${USER}`,
      `--pwfile=${passwordFile}`,
      '--auth=scram-sha-256',
      '--encoding=UTF8',
      '--locale=C',
      '--data-checksums',
    ];
    await run(installation.initdb, args, {
      env: { ...installation.env, PATH: '/usr/bin:/bin', LC_ALL: 'C' },
      owner: worker,
      cwd: temporary,
    });
    await writeFile(path.join(data, 'pg_hba.conf'), 'local all ballast scram-sha-256\n');
    if (owner) await run('chown', ['-R', `${owner.uid}:${owner.gid}`, data]);
    await durable.file('written-file', path.join(data, 'pg_hba.conf'));
    await durable.directory('written-file', data);
    await rename(data, dataDirectory);
    await durable.directory('written-file', parent);
    options.logger.info({ major: installation.major }, 'made the catalog');
  } finally {
    await rm(temporary, { recursive: true, force: true });
    if (worker) await chmod(parent, 0o700);
  }
}

function serverArguments(sockets: string, major: number): string[] {
  const settings = { ...SETTINGS, unix_socket_directories: sockets, ...(major >= 18 ? { io_method: 'sync' } : {}) };
  return Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
}
