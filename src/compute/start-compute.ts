/**
 * Starts one compute, from a timeline at rest to a Postgres that clients may enter.
 *
 * A timeline that never ran finishes its recovery here, with nobody inside: subscriptions that came with the clone are
 * dropped while no worker can run, WAL that was replayed without fsync is made durable (fsync on, then storage syncs
 * every file that changed, because checkpoints under fsync = off forget what they owe), and the record says `none`.
 * Killed anywhere in between, the next start does the same again.
 */
import { access, rename, stat } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { Home } from '../home.ts';
import { AppError, isAppError } from '../lib/errors.ts';
import type { Logger } from '../lib/log.ts';
import type { Stopwatch } from '../lib/stopwatch.ts';
import { HOST_ROLES_SQL } from '../postgres/hardening.ts';
import type { InternalSession } from '../postgres/internal-session.ts';
import { readControlData } from '../postgres/control-data.ts';
import { findServer, startServer, stopServer } from '../postgres/server.ts';
import type { Installations, PostgresInstallation } from '../postgres/types.ts';
import { archiveCommand } from '../storage/archive.ts';
import type { Storage, TimelineRecord } from '../storage/types.ts';
import { Compute, LOG_LIMIT_BYTES } from './compute.ts';
import { claimsKey } from './claims-key.ts';
import type { Bounds } from './autoscale.ts';
import type { ConfigurationInput, JwtInput } from './configuration.ts';
import {
  accessFiles,
  configurationFiles,
  postgresqlConf,
  serverArguments,
  subscriptionsPossible,
} from './configuration.ts';
import type { ComputeLimits } from './limits.ts';
import type { ComputeRecord } from './places.ts';
import {
  newSocketDirectory,
  openSocketDirectory,
  placesOf,
  removePlaces,
  sealSocketDirectory,
  writeConfiguration,
  writeRecord,
} from './places.ts';
import type { ReplicationRelay } from './replication-relay.ts';
import { leastSettings, reachPoint, restoreCommand } from './standby.ts';
import { dropInheritedSubscriptions } from './subscriptions.ts';
import type { ComputeSpec, StandbySpec } from './types.ts';

export interface StartContext {
  home: Home;
  storage: Storage;
  installations: Installations;
  /** cloud_admin's. */
  secret: () => Promise<string>;
  relay: ReplicationRelay;
  limits: ComputeLimits;
  logger: Logger;
  nowMs: () => number;
  hostMemoryBytes: number;
  fastStopWithinMs: number;
  /** See sandbox.ts. */
  launcher: readonly string[];
  /** Of this start: `prepare` up to the start of Postgres, `postgres` until that takes sessions. */
  watch?: Stopwatch | undefined;
}

/** Crash recovery and replay count. A server that gives up is noticed at once, so this only ends what hangs. */
const READY_WITHIN_MS = 300_000;
const RELOAD_ATTEMPTS = 500;

/** The caller holds the timeline's data directory. */
export async function startCompute(context: StartContext, spec: ComputeSpec): Promise<Compute> {
  const timeline = await context.storage.readTimeline(spec.timeline);
  if (!timeline) throw new AppError('not_found', 'branch not found', { internal: 'no such timeline' });
  const installation = await context.installations.get(spec.pgVersion);
  const compute = await startByKind(context, spec, installation, timeline);
  try {
    await writeRecord(placesOf(context.home, spec.endpointId), recordOf(context, spec, compute.socketDirectory, true));
  } catch (error) {
    await compute.stop();
    throw error;
  }
  return compute;
}

function startByKind(
  context: StartContext,
  spec: ComputeSpec,
  installation: PostgresInstallation,
  timeline: TimelineRecord,
): Promise<Compute> {
  if (spec.standby) return startStandby(context, { ...spec, standby: spec.standby }, installation, timeline);
  return timeline.recovery === 'none'
    ? launch(context, spec, installation, RUNNING)
    : firstStart(context, spec, installation, timeline);
}

/**
 * In its WAL a primary may have grown since the data was copied. A standby that is too small for that stops, and leaves
 * in its control file what it lacked.
 */
async function startStandby(
  context: StartContext,
  spec: ComputeSpec & { standby: StandbySpec },
  installation: PostgresInstallation,
  timeline: TimelineRecord,
): Promise<Compute> {
  const { of, point } = spec.standby;
  const { endpointId, owner } = spec;
  const dataDirectory = context.storage.dataDirectory(spec.timeline);
  const { configuration } = placesOf(context.home, endpointId);
  for (;;) {
    const { sizes } = await readControlData(dataDirectory);
    const source =
      point.kind === 'head'
        ? {
            primaryConninfo: await context.relay.open({ endpointId, owner, of, configuration }),
            restoreCommand: restoreCommand(context.storage.walDirectory(of)),
          }
        : undefined;
    const standby = { source, atLeast: leastSettings(spec.standby, sizes) };
    try {
      const compute = await launch(context, spec, installation, {
        phase: 'standby',
        standby,
        subscriptionWorkers: false,
        recoveryTimelineId: timeline.recoveryTimelineId,
      });
      try {
        await compute.sessions.inPostgres(assertNoHostRoles);
        if (timeline.branchLsn !== null) await reachPoint(compute, timeline.branchLsn, READY_WITHIN_MS);
        return compute;
      } catch (error) {
        await compute.stop();
        throw error;
      }
    } catch (error) {
      const grown = await readControlData(dataDirectory);
      if (isDeepStrictEqual(grown.sizes, sizes)) throw error;
    }
  }
}

/** Clones are asked once, before the first client: a template has none, and only a superuser could make such roles. */
async function assertNoHostRoles(session: InternalSession): Promise<void> {
  const [row] = await session.query(HOST_ROLES_SQL);
  if (row?.[0] !== '0')
    throw new AppError('internal', 'the compute is not safe to run', { internal: 'host roles exist' });
}

type Phase = Pick<ConfigurationInput, 'phase' | 'subscriptionWorkers' | 'recoveryTimelineId' | 'standby'>;

const RUNNING: Phase = { phase: 'running', subscriptionWorkers: true, recoveryTimelineId: null };

async function firstStart(
  context: StartContext,
  spec: ComputeSpec,
  installation: PostgresInstallation,
  timeline: TimelineRecord,
): Promise<Compute> {
  const { recoveryTimelineId } = timeline;
  const subscriptionWorkers = !timeline.suspectSubscriptions;
  const replays = timeline.recovery === 'replay';
  const compute = await launch(context, spec, installation, {
    phase: replays ? 'recovery' : 'running',
    subscriptionWorkers,
    recoveryTimelineId,
  });
  try {
    await Promise.all([
      compute.sessions.inPostgres(assertNoHostRoles),
      replays &&
        configure(context, spec, installation, compute.socketDirectory, {
          ...RUNNING,
          subscriptionWorkers,
          recoveryTimelineId,
        }),
    ]);
    if (timeline.suspectSubscriptions) await dropInheritedSubscriptions(compute.sessions);
    if (replays) await compute.sessions.inPostgres(syncFromNowOn);
    await Promise.all([
      context.storage.finishRecovery(spec.timeline),
      replays && compute.sessions.inPostgres((session) => session.query('CHECKPOINT')),
    ]);
  } catch (error) {
    await compute.stop();
    throw error;
  }
  if (subscriptionWorkers || !subscriptionsPossible(spec.pgVersion)) return compute;
  await compute.stop();
  return launch(context, spec, installation, RUNNING);
}

/** Resolves when fsync is on. What was written before, nobody but storage will flush any more. */
async function syncFromNowOn(session: InternalSession): Promise<void> {
  await session.query('SELECT pg_catalog.pg_reload_conf()');
  for (let attempt = 0; ; attempt++) {
    const [row] = await session.query('SHOW fsync');
    if (row?.[0] === 'on') break;
    if (attempt === RELOAD_ATTEMPTS) throw new AppError('unavailable', 'Postgres did not take its settings');
  }
}

async function launch(
  context: StartContext,
  spec: ComputeSpec,
  installation: PostgresInstallation,
  phase: Phase,
): Promise<Compute> {
  const { home, logger, nowMs, fastStopWithinMs } = context;
  const places = placesOf(home, spec.endpointId);
  const dataDirectory = context.storage.dataDirectory(spec.timeline);
  const socketDirectory = newSocketDirectory(home);
  await stopStray(dataDirectory, logger);
  const place = await context.limits.open(spec.endpointId);
  // The kernel may take its time, but hardly longer than Postgres does.
  let entered: Promise<void> | undefined;
  try {
    await Promise.all([
      configure(context, spec, installation, socketDirectory, phase),
      openSocketDirectory(places.openSocketDirectory, spec.owner),
      rotateLog(places.log),
      writeRecord(places, recordOf(context, spec, socketDirectory, false)),
    ]);
    context.watch?.lap('prepare');
    const server = await startServer({
      installation,
      dataDirectory,
      owner: spec.owner,
      args: serverArguments(places.configuration),
      launcher: context.launcher,
      logFile: places.log,
      readyWithinMs: READY_WITHIN_MS,
      onSpawn: (pid) => {
        entered = place?.enter(pid);
      },
    });
    await entered;
    context.watch?.lap('postgres');
    await sealSocketDirectory(places.openSocketDirectory, socketDirectory, spec.owner);
    const secret = await context.secret();
    return new Compute({
      spec,
      dataDirectory,
      places,
      socketDirectory,
      server,
      place,
      secret,
      logger,
      nowMs,
      fastStopWithinMs,
    });
  } catch (error) {
    await Promise.all([stopStray(dataDirectory, logger), entered]);
    await Promise.all([removePlaces(places, socketDirectory), place?.remove()]);
    throw explained(error);
  }
}

/** Left by a Ballast that was killed before it could write down what it had started. */
async function stopStray(dataDirectory: string, logger: Logger): Promise<void> {
  const stray = await findServer(dataDirectory);
  if (!stray) return;
  const how = await stopServer(stray, dataDirectory, { fastWithinMs: 10_000 });
  logger.warn({ dataDirectory, how }, 'stopped a Postgres that nobody had asked for');
}

async function configure(
  context: StartContext,
  spec: ComputeSpec,
  installation: PostgresInstallation,
  socketDirectory: string,
  phase: Phase,
): Promise<void> {
  const places = placesOf(context.home, spec.endpointId);
  const preloadLibraries = await installedLibraries(context, spec, installation);
  const files = configurationFiles({
    spec: { ...spec, preloadLibraries },
    ...phase,
    socketDirectory: places.openSocketDirectory,
    archiveCommand: archiveCommand(context.storage.walDirectory(spec.timeline)),
    hostMemoryBytes: context.hostMemoryBytes,
    jwt: await jwtInput(context, socketDirectory),
  });
  await writeConfiguration(places.configuration, files, spec.owner);
}

async function jwtInput(context: StartContext, socketDirectory: string): Promise<JwtInput> {
  return { key: claimsKey(await context.secret(), socketDirectory), user: userName() };
}

/** Some machines run programs as users that have no name. */
function userName(): string | undefined {
  try {
    return os.userInfo().username;
  } catch {
    return undefined;
  }
}

/** A running compute takes them as they are now; logins that are under way may still meet those before. */
export async function changeJwtRoles(
  context: StartContext,
  compute: Compute,
  jwtRoles: readonly string[],
): Promise<void> {
  const spec = { ...compute.spec, jwtRoles };
  const places = placesOf(context.home, spec.endpointId);
  const files = accessFiles(spec, await jwtInput(context, compute.socketDirectory));
  await writeConfiguration(places.configuration, files, spec.owner);
  await compute.sessions.inPostgres((session) => session.query('SELECT pg_catalog.pg_reload_conf()'));
  await writeRecord(places, recordOf(context, spec, compute.socketDirectory, true));
  compute.noteJwtRoles(jwtRoles);
}

/**
 * Gives a running compute other limits, where Postgres would be told the same at its start. False: it takes a restart.
 */
export async function resizeCompute(context: StartContext, compute: Compute, bounds: Bounds): Promise<boolean> {
  const { minCu, maxCu } = bounds;
  const spec = { ...compute.spec, minCu, maxCu };
  if (!sameForPostgres(context, compute.spec, spec)) return false;
  await writeRecord(placesOf(context.home, spec.endpointId), recordOf(context, spec, compute.socketDirectory, true));
  await compute.resize(bounds);
  return true;
}

function sameForPostgres(context: StartContext, a: ComputeSpec, b: ComputeSpec): boolean {
  const [first, second] = [a, b].map((spec) =>
    postgresqlConf({
      ...RUNNING,
      spec,
      socketDirectory: '',
      archiveCommand: '',
      jwt: { key: Buffer.alloc(0), user: undefined },
      hostMemoryBytes: context.hostMemoryBytes,
    }),
  );
  return first === second;
}

/** Distributions ship the contrib libraries apart from the server, which does not start when one of the list is missing. */
async function installedLibraries(
  context: StartContext,
  spec: ComputeSpec,
  installation: PostgresInstallation,
): Promise<string[]> {
  const present = await Promise.all(
    spec.preloadLibraries.map((library) =>
      access(path.join(installation.extensionDirectory, `${library}.control`)).then(
        () => true,
        () => false,
      ),
    ),
  );
  const missing = spec.preloadLibraries.filter((_library, index) => !present[index]);
  if (missing.length > 0)
    context.logger.warn({ missing, major: spec.pgVersion }, 'libraries to preload are not installed');
  return spec.preloadLibraries.filter((_library, index) => present[index]);
}

function recordOf(context: StartContext, spec: ComputeSpec, socketDirectory: string, ready: boolean): ComputeRecord {
  const dataDirectory = context.storage.dataDirectory(spec.timeline);
  return { formatVersion: 1, spec, dataDirectory, socketDirectory, ready };
}

async function rotateLog(log: string): Promise<void> {
  const stats = await stat(log).catch(() => undefined);
  if (stats && stats.size > LOG_LIMIT_BYTES) await rename(log, `${log}.1`);
}

/** A setting that Postgres refuses is the user's to mend, and its own words say how. */
function explained(error: unknown): unknown {
  if (!isAppError(error, 'unavailable') || error.internal === undefined) return error;
  if (!/FATAL: {2}configuration file ".*" contains errors/.test(error.internal)) return error;
  const complaint = /LOG: {2}(.*parameter ".*)/.exec(error.internal)?.[1];
  if (complaint === undefined) return error;
  const message = complaint.replace(/ in file ".*" line \d+/, '');
  return new AppError('unprocessable', message, { internal: error.internal, cause: error });
}
