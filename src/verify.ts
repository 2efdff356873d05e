/**
 * `ballast verify`: restores a timeline at its latest point into a throw-away copy, starts a Postgres on that, and has
 * amcheck read every table and every B-tree of every database. Reading verifies the pages' checksums, too.
 *
 * With Ballast stopped it opens the pool itself; a running one does it on request (admin.ts). What is verified is left as
 * it is. Copies are timelines of a kind of their own, which the next start or the next look removes after a crash.
 */
import { randomBytes } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { createSupervisor } from './compute/supervisor.ts';
import type { ComputeAddress, ComputeSpec, Supervisor } from './compute/types.ts';
import type { Config } from './config.ts';
import { lockHome } from './home-lock.ts';
import { prepareHome } from './home-prepare.ts';
import type { Home } from './home.ts';
import { errorMessage, isAppError } from './lib/errors.ts';
import type { Logger } from './lib/log.ts';
import { createLiveTimelines } from './live-timelines.ts';
import { prepareExtensions } from './postgres/extensions.ts';
import { createInstallations } from './postgres/installations.ts';
import { withInternalSession, type InternalSession } from './postgres/internal-session.ts';
import { createStorage } from './storage/storage.ts';
import { ownerOf } from './storage/owner.ts';
import type { Storage, TimelineRecord } from './storage/types.ts';

export interface Verified {
  projectId: string;
  timelineId: string;
  /** What is wrong, as sentences; none: it is sound. */
  problems: string[];
  /** How many tables and indexes were read. */
  relations: number;
  /** From nothing to a Postgres that answers, and the reading. */
  restoreMs: number;
  checkMs: number;
}

export interface Which {
  /** Undefined: all. */
  project: string | undefined;
  /** Id or name of a branch, or id of a timeline. */
  branch: string | undefined;
}

export interface VerifyOptions extends Which {
  logger: Logger;
}

/** With Ballast stopped. Throws AppError 'conflict' while it runs. */
export async function* verifyTimelines(config: Config, options: VerifyOptions): AsyncGenerator<Verified> {
  const { logger, ...which } = options;
  const home = await prepareHome(config);
  const lock = await lockHome(home);
  try {
    yield* inStoppedPool(config, home, which, logger);
  } finally {
    await lock.release();
  }
}

async function* inStoppedPool(config: Config, home: Home, which: Which, logger: Logger): AsyncGenerator<Verified> {
  const live = createLiveTimelines(home);
  const installations = createInstallations({ home, config, logger, prepareExtensions });
  const storage = await createStorage({ home, installations, logger, findLivePostgres: live.find });
  const supervisor = live.watch(createSupervisor({ home, storage, installations, logger }));
  try {
    // Computes that outlived a crash serve nobody now, and their timelines could be cloned neither at rest nor running.
    await supervisor.adopt();
    await supervisor.stopAll();
    await removeCopies({ storage, supervisor });
    yield* verifyIn({ home, storage, supervisor }, which);
  } finally {
    await supervisor.stopAll();
  }
}

/** One branch after the other. `signal` ends it, with nothing left behind. */
export async function* verifyIn(engine: Engine, which: Which, signal?: AbortSignal): AsyncGenerator<Verified> {
  const { timelines } = await engine.storage.listTimelines();
  for (const timeline of timelines) {
    if (timeline.kind !== 'branch') continue;
    if (which.project !== undefined && timeline.projectId !== which.project) continue;
    if (which.branch !== undefined && !(await isOfBranch(engine.storage, timeline, which.branch))) continue;
    signal?.throwIfAborted();
    // Deleted while others were verified.
    if (!(await engine.storage.readTimeline(timeline))) continue;
    yield await verifyOne(engine, timeline, signal);
  }
}

/** What a crash left of earlier runs. Only while none is under way. */
export async function removeCopies({ storage, supervisor }: Omit<Engine, 'home'>): Promise<void> {
  const { timelines } = await storage.listTimelines();
  for (const timeline of timelines) {
    if (timeline.kind !== 'copy') continue;
    await supervisor.suspend(timeline.timelineId);
    await storage.deleteTimeline(timeline);
  }
}

/** True for the compute of a copy, which no endpoint stands for. */
export const isOfCopy = (endpointId: string): boolean => endpointId.startsWith(COPY_PREFIX);

const COPY_PREFIX = 'verify-';

/** Which timeline a branch has is the catalog's to know, whose word lies beside the data. */
async function isOfBranch(storage: Storage, timeline: TimelineRecord, branch: string): Promise<boolean> {
  if (timeline.timelineId === branch) return true;
  try {
    const text = await storage.projectDescription(timeline.projectId);
    const { tables } = JSON.parse(text ?? '') as { tables: { branches: Record<string, unknown>[] } };
    return tables.branches.some(
      (row) =>
        row['timeline_id'] === timeline.timelineId &&
        row['deleted_at'] === null &&
        (row['id'] === branch || row['name'] === branch),
    );
  } catch {
    return false;
  }
}

export interface Engine {
  home: Pick<Home, 'secrets' | 'log'>;
  storage: Storage;
  supervisor: Pick<Supervisor, 'start' | 'suspend'>;
}

async function verifyOne(engine: Engine, timeline: TimelineRecord, signal?: AbortSignal): Promise<Verified> {
  const { storage, supervisor } = engine;
  const { projectId, timelineId, pgVersion } = timeline;
  const copy = { projectId, timelineId: `${COPY_PREFIX}${randomBytes(6).toString('hex')}` };
  const endpointId = copy.timelineId;
  const result: Verified = { projectId, timelineId, problems: [], relations: 0, restoreMs: 0, checkMs: 0 };
  const begunMs = performance.now();
  const abort = () => void supervisor.suspend(endpointId).catch(() => undefined);
  signal?.addEventListener('abort', abort);
  try {
    const owner = await ownerOf(storage.dataDirectory(timeline));
    await storage.createChildTimeline(
      { ...copy, parentTimelineId: timelineId, owner, point: { kind: 'head' }, kind: 'copy' },
      signal,
    );
    const spec: ComputeSpec = {
      endpointId,
      timeline: copy,
      pgVersion,
      owner,
      minCu: 0.25,
      maxCu: 0.25,
      pgSettings: {},
      preloadLibraries: [],
      logicalReplication: false,
    };
    const address = await supervisor.start(spec, []);
    signal?.throwIfAborted();
    result.restoreMs = performance.now() - begunMs;
    await checkAll(engine.home, address, pgVersion, result);
    result.checkMs = performance.now() - begunMs - result.restoreMs;
  } catch (error) {
    if (signal?.aborted) throw error;
    const internal = isAppError(error) && error.internal !== undefined ? ` (${error.internal.split('\n').at(-1)})` : '';
    result.problems.push(`it cannot be restored: ${errorMessage(error)}${internal}`);
  } finally {
    signal?.removeEventListener('abort', abort);
    await supervisor.suspend(endpointId);
    await storage.deleteTimeline(copy);
    await rm(path.join(engine.home.log, 'computes', `${endpointId}.log`), { force: true });
  }
  signal?.throwIfAborted();
  return result;
}

async function checkAll(
  home: Pick<Home, 'secrets'>,
  address: ComputeAddress,
  major: number,
  result: Verified,
): Promise<void> {
  const secret = (await readFile(path.join(home.secrets, 'cloud-admin'), 'utf8')).trim();
  const inDatabase = <T>(database: string, work: (session: InternalSession) => Promise<T>) =>
    withInternalSession({ ...address, database, major, secret }, work);
  const databases = await inDatabase('postgres', (session) =>
    session.query('SELECT datname::text FROM pg_catalog.pg_database WHERE datallowconn ORDER BY datname'),
  );
  for (const [database] of databases) {
    await inDatabase(database!, (session) => checkDatabase(session, database!, result)).catch((error: unknown) => {
      result.problems.push(`database ${database!}: ${errorMessage(error)}`);
    });
  }
}

/** In a schema of its own: nothing that a user has made is called. */
const AMCHECK = `
  DROP EXTENSION IF EXISTS amcheck CASCADE;
  DROP SCHEMA IF EXISTS ballast_verify CASCADE;
  CREATE SCHEMA ballast_verify;
  CREATE EXTENSION amcheck SCHEMA ballast_verify`;

const RELATIONS = `
  SELECT c.oid::text, c.relkind::text, c.oid::pg_catalog.regclass::text
  FROM pg_catalog.pg_class c
  LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
  LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam
  WHERE c.relpersistence = 'p' AND c.relfilenode IS NOT NULL
    AND (c.relkind IN ('r', 'm', 't') OR (c.relkind = 'i' AND a.amname = 'btree' AND i.indisvalid AND i.indisready))
  ORDER BY c.relkind DESC, c.oid`;

async function checkDatabase(session: InternalSession, database: string, result: Verified): Promise<void> {
  for (const statement of AMCHECK.split(';')) await session.query(statement);
  for (const [oid, kind, name] of await session.query(RELATIONS)) {
    result.relations += 1;
    try {
      if (kind === 'i') {
        await session.query(`SELECT ballast_verify.bt_index_check(${oid}, true)`);
        continue;
      }
      const found = await session.query(
        `SELECT blkno::text, msg FROM ballast_verify.verify_heapam(${oid}, check_toast => true) LIMIT 10`,
      );
      for (const [block, text] of found) {
        result.problems.push(`database ${database}, ${name}, block ${block}: ${text}`);
      }
    } catch (error) {
      result.problems.push(`database ${database}, ${name}: ${errorMessage(error)}`);
    }
  }
}
