/**
 * For tests of the compute half of the engine: every PostgreSQL major at hand, templates, and a storage that only copies.
 *
 * Majors are those of the machine, and of the directory that BALLAST_TEST_POSTGRES_PACKAGES names (as
 * `ballast postgres install` fills it). As root, computes run as another user, as in the product.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import pg from 'pg';
import type { SupervisorOptions } from '../../src/compute/supervisor.ts';
import { createSupervisor } from '../../src/compute/supervisor.ts';
import type { ComputeAddress, ComputeSpec, Supervisor } from '../../src/compute/types.ts';
import type { Home } from '../../src/home.ts';
import { durable } from '../../src/lib/durable.ts';
import { KeyLock } from '../../src/lib/key-lock.ts';
import type { Logger } from '../../src/lib/log.ts';
import { silentLogger } from '../../src/lib/log.ts';
import { prepareExtensions } from '../../src/postgres/extensions.ts';
import { createInstallations } from '../../src/postgres/installations.ts';
import { createTemplates } from '../../src/postgres/template.ts';
import type { Installations } from '../../src/postgres/types.ts';
import { buildVerifier } from '../../src/postgres/wire/scram.ts';
import type { FileOwner, Storage, TimelineRecord, TimelineRef } from '../../src/storage/types.ts';

export const UID = 700_123;
export const testConfig = { postgresPackages: process.env['BALLAST_TEST_POSTGRES_PACKAGES'] ?? '/nonexistent' };

/** Majors that tests can run here. */
export async function testMajors(): Promise<number[]> {
  const installations = createInstallations({
    home: { postgres: '/nonexistent' },
    config: testConfig,
    logger: silentLogger(),
    prepareExtensions,
  });
  return (await installations.available()).map((installation) => installation.major);
}

/** A storage that copies; recovery is what the test wrote into the record. */
export interface TestStorage extends Storage {
  /** Copies the template, or a data directory at rest, and notes what the first start has to do. */
  create(
    timeline: TimelineRef,
    major: number,
    options?: { from?: TimelineRef; recovery?: TimelineRecord['recovery']; suspectSubscriptions?: boolean },
  ): Promise<void>;
  finished: string[];
}

export interface TestEngine {
  home: Home;
  owner: FileOwner | undefined;
  installations: Installations;
  storage: TestStorage;
  supervisor: Supervisor;
  secret: string;
  /** Another supervisor over the same directories, as after a restart of Ballast. */
  anotherSupervisor(options?: Partial<SupervisorOptions>): Supervisor;
  spec(endpointId: string, major: number, overrides?: Partial<ComputeSpec>): ComputeSpec;
  close(): Promise<void>;
}

export async function openTestEngine(logger: Logger = silentLogger()): Promise<TestEngine> {
  const root = await mkdtemp(path.join(os.tmpdir(), 'ballast-compute-'));
  await chmod(root, 0o711);
  const isRoot = process.getuid?.() === 0;
  const owner = isRoot ? { uid: UID, gid: UID } : undefined;
  const home = await makeHome(root);
  const secret = randomBytes(32).toString('base64url');
  await writeFile(path.join(home.secrets, 'cloud-admin'), secret, { mode: 0o600 });
  const installations = createInstallations({ home, config: testConfig, logger, prepareExtensions });
  const storage = testStorage(home, installations, secret, owner, logger);
  const supervisors: Supervisor[] = [];
  const anotherSupervisor = (options: Partial<SupervisorOptions> = {}) => {
    const supervisor = createSupervisor({ home, storage, installations, logger, ...options });
    supervisors.push(supervisor);
    return supervisor;
  };
  return {
    home,
    owner,
    installations,
    storage,
    secret,
    anotherSupervisor,
    supervisor: anotherSupervisor(),
    spec: (endpointId, major, overrides = {}) => ({
      endpointId,
      timeline: { projectId: 'p', timelineId: endpointId.replace('ep-', 'br-') },
      pgVersion: major,
      owner,
      minCu: 0.25,
      maxCu: 0.25,
      pgSettings: {},
      preloadLibraries: [],
      logicalReplication: false,
      ...overrides,
    }),
    close: async () => {
      // Adoption finds whatever a test left running.
      const last = anotherSupervisor();
      await last.adopt();
      for (const supervisor of supervisors) await supervisor.stopAll();
      await rm(root, { recursive: true, force: true });
    },
  };
}

export async function makeHome(root: string): Promise<Home> {
  const at = (...names: string[]) => path.join(root, ...names);
  const home: Home = {
    dataDir: root,
    pool: at('pool'),
    catalog: at('catalog'),
    run: at('run'),
    postgres: at('postgres'),
    sockets: at('run'),
    log: at('log'),
    tls: at('tls'),
    secrets: at('secrets'),
    apiKeyFile: at('api-key'),
    pidFile: at('run', 'ballast.pid'),
  };
  for (const directory of [home.pool, home.run, home.postgres]) await mkdir(directory, { mode: 0o711 });
  for (const directory of [home.log, home.secrets, at('log', 'computes')]) await mkdir(directory, { mode: 0o700 });
  return home;
}

function testStorage(
  home: Home,
  installations: Installations,
  secret: string,
  owner: FileOwner | undefined,
  logger: Logger,
): TestStorage {
  const templates = createTemplates({
    directory: path.join(home.pool, 'template'),
    installations,
    secret,
    durable,
    logger,
    makeDataDirectory: async (directory) => void (await mkdir(directory, { recursive: true })),
    removeDirectory: (directory) => rm(directory, { recursive: true, force: true }),
  });
  const locks = new KeyLock();
  const rootOf = (timeline: TimelineRef) => path.join(home.pool, timeline.projectId, timeline.timelineId);
  const recordFile = (timeline: TimelineRef) => path.join(rootOf(timeline), 'timeline.json');
  const readTimeline = async (timeline: TimelineRef) => {
    try {
      return JSON.parse(await readFile(recordFile(timeline), 'utf8')) as TimelineRecord;
    } catch {
      return undefined;
    }
  };
  const created: TimelineRef[] = [];
  const finished: string[] = [];
  const part: Pick<
    TestStorage,
    | 'create'
    | 'finished'
    | 'readTimeline'
    | 'dataDirectory'
    | 'walDirectory'
    | 'withDataDirectory'
    | 'finishRecovery'
    | 'listTimelines'
  > = {
    finished,
    create: async (timeline, major, options = {}) => {
      const template = await templates.get(major);
      const root = rootOf(timeline);
      const from = options.from ? path.join(rootOf(options.from), 'pgdata') : template.dataDirectory;
      await mkdir(path.join(root, 'wal'), { recursive: true });
      await Promise.all([root, path.dirname(root)].map((directory) => chmod(directory, 0o711)));
      execFileSync('cp', ['-a', from, path.join(root, 'pgdata')]);
      if (options.recovery) await writeFile(path.join(root, 'pgdata', 'recovery.signal'), '');
      if (owner)
        execFileSync('chown', ['-R', `${owner.uid}:${owner.gid}`, path.join(root, 'pgdata'), path.join(root, 'wal')]);
      const record: TimelineRecord = {
        ...timeline,
        formatVersion: 1,
        kind: 'branch',
        pgVersion: major,
        systemIdentifier: '0',
        parentTimelineId: null,
        branchLsn: null,
        branchTimestamp: null,
        recovery: options.recovery ?? 'none',
        recoveryTimelineId: null,
        suspectSubscriptions: options.suspectSubscriptions ?? false,
        createdAt: new Date().toISOString(),
      };
      await writeFile(recordFile(timeline), JSON.stringify(record));
      created.push(timeline);
    },
    readTimeline,
    dataDirectory: (timeline) => path.join(rootOf(timeline), 'pgdata'),
    walDirectory: (timeline) => path.join(rootOf(timeline), 'wal'),
    withDataDirectory: (timeline, work) => locks.exclusive(rootOf(timeline), work),
    finishRecovery: async (timeline) => {
      const record: TimelineRecord = {
        ...(await readTimeline(timeline))!,
        recovery: 'none',
        suspectSubscriptions: false,
      };
      await writeFile(recordFile(timeline), JSON.stringify(record));
      finished.push(timeline.timelineId);
      return record;
    },
    listTimelines: async () => ({
      timelines: (await Promise.all(created.map(readTimeline))).filter((record) => record !== undefined),
      garbage: [],
    }),
  };
  return part as TestStorage;
}

export const TEST_PASSWORD = 'correct horse battery';

let verifier: Promise<string> | undefined;
export const testVerifier = (): Promise<string> => (verifier ??= buildVerifier(TEST_PASSWORD));

/** A client's session, as the proxy would make it. */
export async function connectAs(
  address: ComputeAddress,
  user: string,
  database = 'postgres',
  password = TEST_PASSWORD,
) {
  const client = new pg.Client({ host: address.socketDirectory, port: address.port, user, database, password });
  client.on('error', () => undefined);
  await client.connect();
  return client;
}
