/**
 * The composition root: config -> home -> catalog -> engine -> operations -> edges. Everything that lives is made here,
 * handed down, and stopped in the opposite order. Nobody imports this file but the CLI.
 */
import dns from 'node:dns/promises';
import { maxConnections } from './compute/sizes.ts';
import { access, readFile } from 'node:fs/promises';
import path from 'node:path';
import { handlers } from './api/handlers.ts';
import { startAdmin } from './admin.ts';
import { createApiServer } from './api/server.ts';
import type { CatalogDatabase } from './catalog/database.ts';
import { countAllProjects } from './catalog/descriptions.ts';
import { nodeId as readNodeId } from './catalog/nodes.ts';
import { endpointLost, endpointsByIds } from './catalog/reconciling.ts';
import { openComputeLimits, type LimitStatus } from './compute/limits.ts';
import { createSupervisor } from './compute/supervisor.ts';
import type { Supervisor } from './compute/types.ts';
import type { Config } from './config.ts';
import { loadDocument } from './contract/document.ts';
import { createControlPlane } from './control-plane/control-plane.ts';
import type { SchemaSource } from './control-plane/context.ts';
import { ensureOwner, makeOwnerKey } from './control-plane/first-start.ts';
import { DEFAULT_PG_VERSION } from './control-plane/projects.ts';
import { createProxyAccess, type ProxyAccessWithCaches } from './control-plane/proxy-access.ts';
import type { Home } from './home.ts';
import { lockHome } from './home-lock.ts';
import { openCatalog, stopInOrder, type Catalogs, type Stop } from './open-catalog.ts';
import { prepareHome } from './home-prepare.ts';
import { durable, writeFileDurably } from './lib/durable.ts';
import { AppError } from './lib/errors.ts';
import type { Logger } from './lib/log.ts';
import { SecretBox } from './lib/secret-box.ts';
import { createLiveTimelines, type LiveTimelines } from './live-timelines.ts';
import { createMetrics, type Metrics } from './metrics.ts';
import { createActions } from './operations/actions/actions.ts';
import { createBackground } from './operations/background.ts';
import { createQueue, type RunnerQueue } from './operations/queue.ts';
import { Runner } from './operations/runner.ts';
import { createSchemaCopier, type SchemaCopier } from './schema-copy.ts';
import { createSchemaReader, type BranchToRead, type SchemaReader } from './schema-reader.ts';
import { prepareExtensions, preloadLibraries } from './postgres/extensions.ts';
import { createPastComputes, leavingFirst, type PastComputes } from './past-computes.ts';
import { createInstallations } from './postgres/installations.ts';
import type { Installations } from './postgres/types.ts';
import { loadCertificates } from './proxy/certificates.ts';
import { createConnections, type Connections } from './proxy/connections.ts';
import { createProxy } from './proxy/proxy.ts';
import { runBackupSchedules } from './reconcilers/backup-schedules.ts';
import { followRoles } from './reconcilers/follow-roles.ts';
import { archiveBranches, expireBranches, purgeDeleted } from './reconcilers/life-cycle.ts';
import { measureSizes } from './reconcilers/measure-sizes.ts';
import { keepHistory, trimHistory } from './reconcilers/history.ts';
import { startReconcilers } from './reconcilers/reconciler.ts';
import { createRecover } from './reconcilers/recover.ts';
import { expireSnapshots, measureSnapshots } from './reconcilers/snapshots.ts';
import { suspendIdle } from './reconcilers/suspend-idle.ts';
import { describeProjects } from './reconcilers/describe-projects.ts';
import { watchSpace } from './reconcilers/watch-space.ts';
import { createStorage } from './storage/storage.ts';
import type { FileOwner, PoolStatus, Storage } from './storage/types.ts';
import { isOfCopy, removeCopies, verifyIn } from './verify.ts';
import { whyAwake } from './why-awake.ts';

export interface RunningBallast {
  apiPort: number;
  pgPort: number;
  pool: PoolStatus;
  computeLimits: LimitStatus;
  /** Stops accepting, lets operations end, stops computes, then the catalog. Never throws; says in the log what went wrong. */
  stop(): Promise<void>;
}

export interface StartOptions {
  logger: Logger;
  /** Called once everything serves. */
  onReady?: (running: RunningBallast) => void;
}

const DRAIN_MS = 20_000;
const PROXY_GRACE_MS = 10_000;
const CERTIFICATE_CHECK_MS = 12 * 3600 * 1000;
const ROLE_CHECK_WITHIN_MS = 5_000;
const ACTIVITY_FRESH_MS = 500;

/** Throws AppError or ConfigError with a text for people; whatever had been started is stopped again. */
export async function startBallast(config: Config, options: StartOptions): Promise<RunningBallast> {
  const stops: Stop[] = [];
  const stopAll = () => stopInOrder(stops, options.logger);
  try {
    const running = { ...(await compose(config, options.logger, stops)), stop: stopAll };
    options.onReady?.(running);
    return running;
  } catch (error) {
    await stopAll();
    throw error;
  }
}

async function compose(config: Config, logger: Logger, stops: Stop[]): Promise<Omit<RunningBallast, 'stop'>> {
  const home = await prepareHome(config);
  const lock = await lockHome(home);
  stops.push({ what: 'lock', run: () => lock.release() });
  const nodeId = await readNodeId(home);
  const installations = createInstallations({ home, config, logger, prepareExtensions });
  const catalog = await openCatalog({ config, home, installations, logger, stops });
  const live = createLiveTimelines(home);
  const storage = await createStorage({ home, installations, logger, findLivePostgres: live.find });
  await assertCatalogIsNotLost(catalog.requests, storage);
  await ensureFirstKey(catalog.requests, home);

  const pool = await storage.poolStatus();
  const { limits, status: computeLimits } = await openComputeLimits({
    asked: config.computeLimits,
    dataDirectory: home.dataDir,
    logger,
  });
  stops.push({ what: 'control groups', run: () => limits.close() });
  const supervisor = live.watch(createSupervisor({ home, storage, installations, limits, logger }));
  const past = createPastComputes({ supervisor, storage, logger });
  const schemas = createSchemaReader({ home, supervisor, past });
  const copySchema = createSchemaCopier({ home, supervisor, storage, schemas });
  const queue = createQueue({ catalog: catalog.work });
  stops.push({ what: 'queue', run: async () => queue.close() });
  const proxyClosing: Parts['proxyClosing'] = {};
  const connections = createConnections();
  const metrics = createMetrics({
    connections,
    runningComputes: () => supervisor.running().length,
    computeSizes: () => supervisor.sizes(),
    existing: async (ids) =>
      (await endpointsByIds(catalog.work, ids)).filter(({ deleted }) => !deleted).map(({ id }) => id),
  });
  stops.push({ what: 'proxy connections', run: async () => proxyClosing.done });
  const parts = {
    config,
    home,
    nodeId,
    installations,
    storage,
    supervisor,
    past,
    schemas,
    copySchema,
    queue,
    catalog,
    live,
    connections,
    metrics,
    proxyClosing,
    logger,
    stops,
  };
  const access = await startWork(parts);
  const ports = await startEdges(parts, access);
  const admin = await startAdmin({
    home,
    logger,
    verify: (which, signal) => verifyIn({ home, storage, supervisor }, which, signal),
    whyAwake: (name) =>
      whyAwake(
        {
          catalog: catalog.work,
          nodeId,
          supervisor,
          clientsOf: (endpointId) => connections.of(endpointId),
          defaultSuspendTimeoutSeconds: config.defaultSuspendTimeoutSeconds,
        },
        name,
      ),
  });
  stops.push({ what: 'verification', run: () => admin.close() });
  // The first project would otherwise wait for it.
  const prepared = storage.prepareTemplate(DEFAULT_PG_VERSION).catch((error: unknown) => {
    logger.warn({ err: error }, 'the template of the default major could not be made');
  });
  stops.push({ what: 'template', run: () => prepared });
  return { ...ports, pool, computeLimits };
}

interface Parts {
  config: Config;
  home: Home;
  nodeId: string;
  installations: Installations;
  storage: Storage;
  supervisor: Supervisor;
  past: PastComputes;
  schemas: SchemaReader;
  copySchema: SchemaCopier;
  queue: RunnerQueue;
  catalog: Catalogs;
  live: LiveTimelines;
  connections: Connections;
  metrics: Metrics;
  /** Clients whose computes stop hear so from Postgres: their connections are waited for after that. */
  proxyClosing: { done?: Promise<void> };
  logger: Logger;
  stops: Stop[];
}

/** Listeners by endpoint, each called for the next start. */
function onceStarted(supervisor: Supervisor): (endpointId: string, listener: () => void) => () => void {
  const listeners = new Map<string, Set<() => void>>();
  supervisor.onStart((endpointId) => {
    const waiting = listeners.get(endpointId);
    listeners.delete(endpointId);
    for (const listener of waiting ?? []) listener();
  });
  return (endpointId, listener) => {
    const waiting = listeners.get(endpointId) ?? new Set();
    listeners.set(endpointId, waiting.add(listener));
    return () => {
      waiting.delete(listener);
      if (waiting.size === 0 && listeners.get(endpointId) === waiting) listeners.delete(endpointId);
    };
  };
}

/**
 * A new catalog beside old data gives the numbers of old projects, and with them the users that own their files, to new
 * ones, and whoever asks hears that there are no projects.
 */
async function assertCatalogIsNotLost(catalog: CatalogDatabase, storage: Storage): Promise<void> {
  if ((await countAllProjects(catalog)) > 0) return;
  const { timelines } = await storage.listTimelines();
  const lost = new Set(timelines.map(({ projectId }) => projectId));
  if (lost.size === 0) return;
  const projects = lost.size === 1 ? 'a project' : `${lost.size} projects`;
  throw new AppError(
    'conflict',
    `the catalog is empty, but the pool holds the data of ${projects}: \`ballast catalog rebuild\` makes the catalog anew from it`,
  );
}

/** The owner exists and a key of theirs lies in the data directory; a key that was deleted there is replaced. */
async function ensureFirstKey(catalog: CatalogDatabase, home: Home): Promise<void> {
  const owner = await catalog.transaction(ensureOwner);
  const present = await access(home.apiKeyFile).then(
    () => true,
    () => false,
  );
  if (present) return;
  const key = await catalog.transaction((tx) => makeOwnerKey(tx, owner, 'first key'));
  await writeFileDurably(durable, 'written-file', home.apiKeyFile, `${key}\n`, { mode: 0o600 });
}

/** Recovers what a crash left, then starts the runner and the reconcilers. */
async function startWork(parts: Parts): Promise<ProxyAccessWithCaches> {
  const { config, nodeId, storage, supervisor, past, copySchema, queue, catalog, live, logger, stops } = parts;
  const { work } = catalog;
  const background = createBackground({ logger });
  const syncedFingerprints = new Map<string, string>();
  const activity = shared(ACTIVITY_FRESH_MS, (endpointId: string) => supervisor.activity(endpointId));
  const common = {
    catalog: work,
    queue,
    supervisor,
    storage: leavingFirst(storage, past),
    nodeId,
    logger,
    activity,
    syncedFingerprints,
  };
  const descriptions = describeProjects(common);
  stops.push({ what: 'descriptions of projects', run: () => descriptions.run() });
  const roles = followRoles(common);
  const space = watchSpace(common);
  const recover = createRecover({
    ...common,
    isTemporary: (endpointId) => past.holds(endpointId) || copySchema.holds(endpointId) || isOfCopy(endpointId),
  });
  const access = createProxyAccess({
    catalog: work,
    queue,
    logger,
    compute: {
      address: (endpointId) => supervisor.address(endpointId),
      onceStarted: onceStarted(supervisor),
      noteConnections: (endpointId, open, change) => supervisor.noteConnections(endpointId, open, change),
      maxConnections,
      refreshRoles: (endpointId) => roles.check(endpointId, AbortSignal.timeout(ROLE_CHECK_WITHIN_MS)),
      past: {
        reach: ({ projectNumber, ...branch }, query, window, how) =>
          past.reach({ ...branch, owner: ownerOf(config, projectNumber) }, query, window, how),
        noteConnections: (timeline, open) => past.noteConnections(timeline, open),
      },
    },
  });
  const actions = createActions({
    ...common,
    background,
    copySchema,
    appliedAtMs: new Map(),
    ownerOf: (projectNumber) => ownerOf(config, projectNumber),
    poolIsFull: () => space.isFull(),
    defaultPreloadLibraries: preloadLibraries().flatMap((library) => (library.isDefault ? [library.name] : [])),
  });
  const runner = new Runner({
    ...common,
    actions,
    onEnded: (row) => access.invalidate(row.projectId),
    observe: (end) => parts.metrics.operationEnded(end),
  });

  stops.push({ what: 'computes', run: () => stopComputes(work, supervisor) });
  stops.push({ what: 'computes in the past', run: () => past.close() });
  await live.learn(work, await supervisor.adopt());
  await removeCopies({ storage, supervisor });
  supervisor.onExit(
    (endpointId) =>
      void recover
        .exited(endpointId)
        .catch((error: unknown) => logger.warn({ err: error }, 'a lost compute could not be recorded')),
  );
  await recover.atStart();
  await space.run();
  stops.push({ what: 'background work', run: () => background.close() });
  stops.push({ what: 'operations', run: () => runner.drain(DRAIN_MS) });
  await runner.start();
  const idle = suspendIdle({
    ...common,
    clientsOf: (endpointId) => parts.connections.of(endpointId),
    defaultSuspendTimeoutSeconds: config.defaultSuspendTimeoutSeconds,
  });
  const reconcilers = startReconcilers(
    [
      idle,
      roles,
      space,
      recover.computes,
      recover.timelines,
      measureSizes(common),
      keepHistory(common),
      trimHistory(common),
      descriptions,
      expireBranches(common),
      purgeDeleted(common),
      archiveBranches(common),
      expireSnapshots(common),
      measureSnapshots(common),
      runBackupSchedules(common),
    ],
    logger,
  );
  stops.push({ what: 'reconcilers', run: () => reconcilers.stop() });
  return access;
}

async function stopComputes(catalog: CatalogDatabase, supervisor: Supervisor): Promise<void> {
  const running = supervisor.running();
  await supervisor.stopAll();
  await Promise.all(running.map((endpointId) => endpointLost(catalog, endpointId)));
}

async function startEdges(parts: Parts, access: ProxyAccessWithCaches): Promise<{ apiPort: number; pgPort: number }> {
  const {
    config,
    home,
    nodeId,
    installations,
    storage,
    schemas,
    queue,
    catalog,
    proxyClosing,
    logger,
    stops,
    metrics,
  } = parts;
  const certificates = await loadCertificates({ home, config });
  if (certificates.authorityReplaced) {
    const caFile = certificates.caFile;
    logger.warn({ caFile }, 'there is a new certificate authority: what trusted the old one must be told to trust it');
  }
  const proxy = createProxy({
    access,
    tls: certificates,
    domain: config.domain,
    requireTls: config.domain !== 'localhost',
    proxyProtocol: config.proxyProtocol === 'v2',
    connections: parts.connections,
    observer: metrics.proxyObserver,
    greeting: config.greeting,
    logger,
  });
  metrics.watchProxy(proxy);
  await proxy.listen(config.listen, config.pgPort);
  stops.push({ what: 'proxy listener', run: async () => void (proxyClosing.done = proxy.close(PROXY_GRACE_MS)) });
  let { renewAt } = certificates;
  const renewal = setInterval(() => {
    // Files of the operator's own are read again: whoever renews them does not tell us.
    if (renewAt && Date.now() < renewAt.getTime()) return;
    loadCertificates({ home, config }).then(
      (renewed) => {
        ({ renewAt } = renewed);
        proxy.useCertificates(renewed);
      },
      (error: unknown) => logger.error({ err: error }, 'the certificate could not be renewed'),
    );
  }, CERTIFICATE_CHECK_MS);
  stops.push({ what: 'certificate renewal', run: async () => clearInterval(renewal) });

  const controlPlane = createControlPlane({
    catalog: catalog.requests,
    queue,
    secretBox: new SecretBox(await readFile(path.join(home.secrets, 'seal-key'))),
    config: {
      domain: config.domain,
      pgPort: proxy.port,
      nodeId,
      namesResolve: await resolves(`ballast-probe.${config.domain}`),
    },
    availableMajors: async () => (await installations.available()).map((installation) => installation.major),
    assertRoomForTimeline: () => storage.assertRoomForTimeline(),
    resolvePoint: (timeline, query, window) => storage.resolvePoint(timeline, query, window),
    dumpSchema: ({ point, window, database, ...source }) =>
      schemas.dump(branchToRead(config, source), point, window, database),
    listSchema: ({ point, window, database, ...source }) =>
      schemas.list(branchToRead(config, source), point, window, database),
    preloadLibraries: async () =>
      preloadLibraries().map((library) => ({ ...library, isExperimental: false, version: '' })),
    onProjectChanged: (projectId) => access.invalidate(projectId),
  });
  stops.push({ what: 'control plane', run: () => controlPlane.close() });
  const api = createApiServer({
    controlPlane,
    handlers,
    document: loadDocument(),
    logger,
    dataPlane: proxy.http,
    metrics,
  });
  stops.push({ what: 'API', run: () => api.close() });
  const { port: apiPort } = await api.start(config.listen, config.apiPort);
  return { apiPort, pgPort: proxy.port };
}

function branchToRead(
  config: Config,
  { projectNumber, ...source }: Omit<SchemaSource, 'point' | 'window' | 'database'>,
): BranchToRead {
  return { ...source, owner: ownerOf(config, projectNumber) };
}

/** As root every project has a user of its own; the first one belongs to the catalog. */
export function ownerOf(config: Config, projectNumber: number): FileOwner | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const uid = config.computeUidBase + projectNumber;
  return { uid, gid: uid };
}

async function resolves(name: string): Promise<boolean> {
  return dns.lookup(name).then(
    () => true,
    () => false,
  );
}

/** Several who ask within `freshMs` share one answer. */
function shared<T>(freshMs: number, ask: (key: string) => Promise<T>): (key: string) => Promise<T> {
  const answers = new Map<string, { atMs: number; answer: Promise<T> }>();
  return (key) => {
    const known = answers.get(key);
    if (known && performance.now() - known.atMs < freshMs) return known.answer;
    if (answers.size > 10_000) answers.clear();
    const answer = ask(key);
    answers.set(key, { atMs: performance.now(), answer });
    return answer;
  };
}
