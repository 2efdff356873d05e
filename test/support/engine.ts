/**
 * Storage with a hand-driven Postgres, for tests of the engine below compute: starts and stops servers on timelines
 * the way a compute does, first start included, and answers for them as LivePostgres.
 */
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { run } from '../../src/lib/child-process.ts';
import { silentLogger } from '../../src/lib/log.ts';
import { createInstallations } from '../../src/postgres/installations.ts';
import { openInternalSession } from '../../src/postgres/internal-session.ts';
import { isServerOf, startServer, stopServer } from '../../src/postgres/server.ts';
import type { ServerProcess } from '../../src/postgres/server.ts';
import { archiveCommand } from '../../src/storage/archive.ts';
import { createStorage } from '../../src/storage/storage.ts';
import type { StorageOptions } from '../../src/storage/storage.ts';
import type { FileOwner, LivePostgres, Storage, TimelineRecord, TimelineRef } from '../../src/storage/types.ts';

const SECRET = 'a secret of tests';
export const MAJOR = 17;
export const PROJECT = 'quiet-river-12345678';

export interface Engine {
  storage: Storage;
  owner: FileOwner | undefined;
  /** Starts the timeline's Postgres; finishes its recovery when it is the first start. */
  start(timelineId: string, settings?: Record<string, string>): Promise<void>;
  /** The first start of a clone, up to a checkpoint; fsync stays off and storage is told nothing. */
  startUnfinished(timelineId: string): Promise<void>;
  stop(timelineId: string, how?: 'fast' | 'kill'): Promise<void>;
  sql(timelineId: string, statement: string): Promise<(string | null)[][]>;
  client(timelineId: string): Promise<pg.Client>;
  root(timelineId: string): Promise<TimelineRecord>;
  /** At the head, or at an LSN. */
  child(timelineId: string, parentTimelineId: string, lsn?: string): Promise<TimelineRecord>;
  /** Everything that was written to the pool so far survives a power cut; for what a test does not examine. */
  syncPool(): Promise<void>;
  close(): Promise<void>;
}

export interface EngineOptions {
  pool: string;
  major?: number;
  packages?: string;
  /** Share one private installation tree between engines: it takes most of the time. */
  shared?: string;
  storage?: Partial<StorageOptions>;
}

interface Running {
  server: ServerProcess;
  sockets: string;
}

export const ref = (timelineId: string): TimelineRef => ({ projectId: PROJECT, timelineId });

export async function makeEngine(options: EngineOptions): Promise<Engine> {
  const major = options.major ?? MAJOR;
  const home = await mkdtemp(path.join(os.tmpdir(), 'ballast-engine-'));
  await chmod(home, 0o711);
  const secrets = path.join(home, 'secrets');
  await mkdir(secrets);
  await writeFile(path.join(secrets, 'cloud-admin'), SECRET);
  const logger = silentLogger();
  const installations = createInstallations({
    home: { postgres: options.shared ?? path.join(home, 'postgres') },
    config: {
      postgresPackages: options.packages ?? process.env['BALLAST_POSTGRES_PACKAGES'] ?? path.join(home, 'packages'),
    },
    logger,
    prepareExtensions: async () => undefined,
  });
  const running = new Map<string, Running>();
  const login = (timelineId: string) => {
    const found = running.get(timelineId);
    if (!found) throw new Error(`${timelineId} does not run`);
    return { socketDirectory: found.sockets, port: 5432, database: 'postgres', secret: SECRET, major };
  };
  const storage = await createStorage({
    home: { pool: options.pool, secrets },
    installations,
    logger,
    findLivePostgres: ({ timelineId }) => (running.has(timelineId) ? livePostgres(() => login(timelineId)) : undefined),
    ...options.storage,
  });
  const owner = process.getuid?.() === 0 ? { uid: 712_345, gid: 712_345 } : undefined;

  const launch = async (timelineId: string, settings: Record<string, string>): Promise<Running> => {
    const sockets = await mkdtemp(path.join(os.tmpdir(), 'bs-'));
    await chmod(sockets, 0o777);
    const all: Record<string, string> = {
      unix_socket_directories: sockets,
      shared_buffers: '16MB',
      archive_mode: 'on',
      archive_command: archiveCommand(storage.walDirectory(ref(timelineId))),
      hot_standby: 'off',
      ...settings,
    };
    const server = await startServer({
      installation: await installations.get(major),
      dataDirectory: storage.dataDirectory(ref(timelineId)),
      owner,
      args: Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
      logFile: path.join(home, `${timelineId}.log`),
      readyWithinMs: 30_000,
    }).catch(async (error: unknown) => {
      await rm(sockets, { recursive: true, force: true });
      throw error;
    });
    return { server, sockets };
  };

  const halt = async (timelineId: string, how: 'fast' | 'kill') => {
    const found = running.get(timelineId);
    if (!found) return;
    running.delete(timelineId);
    const dataDirectory = storage.dataDirectory(ref(timelineId));
    if (how === 'kill') {
      process.kill(-found.server.pid, 'SIGKILL');
      // Polled: the event of an unreferenced child would not keep this process waiting.
      while (await isServerOf(dataDirectory, found.server.pid)) await sleep(5);
    } else await stopServer(found.server, dataDirectory, { fastWithinMs: 20_000 });
    await rm(found.sockets, { recursive: true, force: true });
  };

  const engine: Engine = {
    storage,
    owner,
    start: (timelineId, settings = {}) =>
      storage.withDataDirectory(ref(timelineId), async () => {
        const record = await storage.readTimeline(ref(timelineId));
        const replays = record?.recovery === 'replay';
        const own = path.join(storage.dataDirectory(ref(timelineId)), 'postgresql.auto.conf');
        // As a compute's configuration does.
        const follow = `recovery_target_timeline = '${record?.recoveryTimelineId ?? 'current'}'\n`;
        if (replays) await writeFile(own, `fsync = off\n${follow}`);
        running.set(timelineId, await launch(timelineId, settings));
        if (replays) {
          await writeFile(own, '');
          const session = await openInternalSession(login(timelineId));
          await session.query('select pg_reload_conf()');
          while ((await session.query('show fsync'))[0]![0] !== 'on');
          await session.query('CHECKPOINT');
          await session.close();
        }
        await storage.finishRecovery(ref(timelineId));
      }),
    startUnfinished: (timelineId) =>
      storage.withDataDirectory(ref(timelineId), async () => {
        running.set(timelineId, await launch(timelineId, { fsync: 'off' }));
        const session = await openInternalSession(login(timelineId));
        await session.query('CHECKPOINT');
        await session.close();
      }),
    stop: (timelineId, how = 'fast') => storage.withDataDirectory(ref(timelineId), () => halt(timelineId, how)),
    sql: async (timelineId, statement) => {
      const session = await openInternalSession(login(timelineId));
      try {
        return await session.query(statement);
      } finally {
        await session.close();
      }
    },
    client: async (timelineId) => {
      const { socketDirectory, port, database, secret } = login(timelineId);
      const client = new pg.Client({ host: socketDirectory, port, database, user: 'cloud_admin', password: secret });
      client.on('error', () => undefined);
      await client.connect();
      return client;
    },
    root: (timelineId) => storage.createRootTimeline({ ...ref(timelineId), pgVersion: major, owner }),
    child: (timelineId, parentTimelineId, lsn) => {
      const point = lsn === undefined ? ({ kind: 'head' } as const) : ({ kind: 'lsn', lsn } as const);
      return storage.createChildTimeline({ ...ref(timelineId), parentTimelineId, owner, point });
    },
    syncPool: async () => {
      await run('sync', ['-f', options.pool]);
    },
    close: async () => {
      for (const timelineId of running.keys()) await halt(timelineId, 'kill');
      await rm(home, { recursive: true, force: true });
    },
  };
  return engine;
}

function livePostgres(login: () => Parameters<typeof openInternalSession>[0]): LivePostgres {
  const session: LivePostgres['session'] = async (work) => {
    const opened = await openInternalSession(login());
    try {
      return await work((sql) => opened.query(sql));
    } finally {
      await opened.close();
    }
  };
  return { query: (sql) => session((query) => query(sql)), session };
}
