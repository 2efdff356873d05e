/**
 * `ballast verify`: restores a timeline at its latest point into a throw-away copy, starts a Postgres on that, and has
 * amcheck read every table and every B-tree of every database. Reading verifies the pages' checksums, too.
 *
 * It opens the pool itself, so Ballast must be stopped; what is verified is left as it is.
 */
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
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

export interface VerifyOptions {
  /** Undefined: all. */
  project: string | undefined;
  /** Id or name of a branch, or id of a timeline. */
  branch: string | undefined;
  logger: Logger;
}

/** No id of the catalog begins like this. */
const COPY_PREFIX = 'verify-';

export const isVerifiersCopy = ({ timelineId }: { timelineId: string }): boolean => timelineId.startsWith(COPY_PREFIX);

/** Throws AppError 'conflict' while Ballast runs. */
export async function* verifyTimelines(config: Config, options: VerifyOptions): AsyncGenerator<Verified> {
  const { logger } = options;
  const home = await prepareHome(config);
  const lock = await lockHome(home);
  const live = createLiveTimelines(home);
  const installations = createInstallations({ home, config, logger, prepareExtensions });
  const storage = await createStorage({ home, installations, logger, findLivePostgres: live.find });
  const supervisor = live.watch(createSupervisor({ home, storage, installations, logger }));
  try {
    const { timelines } = await storage.listTimelines();
    // Of a run that was killed.
    for (const timeline of timelines) if (isVerifiersCopy(timeline)) await storage.deleteTimeline(timeline);
    const wanted: TimelineRecord[] = [];
    for (const timeline of timelines) {
      if (timeline.kind !== 'branch' || isVerifiersCopy(timeline)) continue;
      if (options.project !== undefined && timeline.projectId !== options.project) continue;
      if (options.branch === undefined || (await isOfBranch(storage, timeline, options.branch))) wanted.push(timeline);
    }
    for (const timeline of wanted) yield await verifyOne({ home, storage, supervisor }, timeline);
  } finally {
    await supervisor.stopAll();
    await lock.release();
  }
}

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

interface Engine {
  home: Home;
  storage: Storage;
  supervisor: Supervisor;
}

async function verifyOne(engine: Engine, timeline: TimelineRecord): Promise<Verified> {
  const { storage, supervisor } = engine;
  const { projectId, timelineId, pgVersion } = timeline;
  const copy = { projectId, timelineId: `${COPY_PREFIX}${randomBytes(6).toString('hex')}` };
  const endpointId = `ep-${copy.timelineId}`;
  const result: Verified = { projectId, timelineId, problems: [], relations: 0, restoreMs: 0, checkMs: 0 };
  const begunMs = performance.now();
  try {
    const owner = await ownerOf(storage.dataDirectory(timeline));
    await storage.createChildTimeline({
      ...copy,
      parentTimelineId: timelineId,
      owner,
      point: { kind: 'head' },
    });
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
    result.restoreMs = performance.now() - begunMs;
    await checkAll(engine.home, address, pgVersion, result);
    result.checkMs = performance.now() - begunMs - result.restoreMs;
  } catch (error) {
    const internal = isAppError(error) && error.internal !== undefined ? ` (${error.internal.split('\n').at(-1)})` : '';
    result.problems.push(`it cannot be restored: ${errorMessage(error)}${internal}`);
  } finally {
    await supervisor.suspend(endpointId);
    await storage.deleteTimeline(copy);
  }
  return result;
}

async function checkAll(home: Home, address: ComputeAddress, major: number, result: Verified): Promise<void> {
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
