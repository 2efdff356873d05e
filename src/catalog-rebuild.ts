/**
 * `ballast catalog rebuild`: a new catalog from what lies in the pool, when the old one is lost.
 *
 * Every project has a description beside its timelines (reconcilers/describe-projects.ts), and every timeline a record.
 * The description gives back names, lineage, endpoints with their hosts, roles with their passwords; the timelines say
 * what there really is. Without a description the timelines alone make a project: its data, with names that have to be
 * mended. Timelines are never touched. API keys are lost; the next start makes a new first one.
 */
import { rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import {
  continueNumbering,
  countAllProjects,
  insertDescription,
  insertPeople,
  type ProjectDescription,
} from './catalog/descriptions.ts';
import { nodeId as readNodeId } from './catalog/nodes.ts';
import { insertOperations } from './catalog/operations.ts';
import type { JsonObject, Queryable } from './catalog/types.ts';
import type { Config } from './config.ts';
import { ensureOwner, type Owner } from './control-plane/first-start.ts';
import { OWN_REGION } from './control-plane/users.ts';
import { lockHome } from './home-lock.ts';
import { prepareHome } from './home-prepare.ts';
import type { Home } from './home.ts';
import { AppError, errorMessage } from './lib/errors.ts';
import { newBranchId, newEndpointId, newUuid } from './lib/ids.ts';
import type { Logger } from './lib/log.ts';
import { openCatalog, stopInOrder, type CatalogParts, type Catalogs, type Stop } from './open-catalog.ts';
import { prepareExtensions } from './postgres/extensions.ts';
import { createInstallations } from './postgres/installations.ts';
import { createStorage } from './storage/storage.ts';
import type { Storage, TimelineRecord } from './storage/types.ts';

export interface RebuiltProject {
  id: string;
  name: string;
  branches: number;
  /** From its description; otherwise from its timelines alone. */
  described: boolean;
}

export interface Rebuilt {
  projects: RebuiltProject[];
  /** What could not be had back, and what has to be mended, as sentences. */
  problems: string[];
  /** Where the old catalog is now, if there was one. */
  movedAside: string | undefined;
}

/**
 * Throws AppError 'conflict' while Ballast runs, and, unless `force` is set, when the catalog has projects or is there and
 * cannot be opened: what keeps it from opening may pass, and then nothing is lost.
 */
export async function rebuildCatalog(config: Config, options: { force: boolean; logger: Logger }): Promise<Rebuilt> {
  const { logger } = options;
  const stops: Stop[] = [];
  try {
    const home = await prepareHome(config);
    const lock = await lockHome(home);
    stops.push({ what: 'lock', run: () => lock.release() });
    const installations = createInstallations({ home, config, logger, prepareExtensions });
    const storage = await createStorage({ home, installations, logger, findLivePostgres: () => undefined });
    await assertSomethingThere(home, storage);
    const opened = await openUsable({ config, home, installations, logger, stops }, options.force);
    const facts = { config, nodeId: await readNodeId(home), storage };
    const rebuilt = await rebuild(facts, opened.catalog, opened.movedAside);
    // Its key is of the catalog that was lost; the next start makes another.
    await rm(home.apiKeyFile, { force: true });
    return rebuilt;
  } finally {
    await stopInOrder(stops, logger);
  }
}

/** A catalog is not given up for a pool that is the wrong one, or not mounted. */
async function assertSomethingThere(home: Home, storage: Pick<Storage, 'listTimelines'>): Promise<void> {
  if (lastingOf((await storage.listTimelines()).timelines).length > 0) return;
  throw new AppError(
    'conflict',
    `there is nothing in the pool ${home.pool}: is it the right one (--pool), and mounted?`,
  );
}

const lastingOf = (timelines: readonly TimelineRecord[]) =>
  timelines.filter(({ kind }) => kind === 'branch' || kind === 'snapshot');

/** The catalog when it has no projects; what `force` gives up is moved aside first. */
async function openUsable(
  parts: CatalogParts,
  force: boolean,
): Promise<{ catalog: Transactions; movedAside: string | undefined }> {
  const before = parts.stops.length;
  try {
    const { requests } = await openCatalog(parts);
    if ((await countAllProjects(requests)) === 0) return { catalog: requests, movedAside: undefined };
    if (!force || parts.config.catalogUrl !== undefined) {
      throw new AppError(
        'conflict',
        parts.config.catalogUrl === undefined
          ? 'the catalog is there and has projects: --force moves it aside and makes another'
          : 'the database of --catalog-url has projects; give an empty one',
      );
    }
  } catch (error) {
    if (parts.config.catalogUrl !== undefined || (error instanceof AppError && error.kind === 'conflict')) throw error;
    if (!force) {
      const text = `the catalog is there but cannot be opened: ${errorMessage(error)}. Mend it (log/catalog.log says more), or move it aside and make another with --force`;
      throw new AppError('conflict', text, { cause: error });
    }
    parts.logger.warn({ err: error }, 'the catalog cannot be used');
  }
  await stopInOrder(parts.stops.splice(before), parts.logger);
  const movedAside = await moveAside(parts.home);
  const { requests } = await openCatalog(parts);
  return { catalog: requests, movedAside };
}

async function moveAside(home: Home): Promise<string> {
  const aside = path.join(home.catalog, `lost-${new Date().toISOString().replaceAll(/[:.]/g, '-')}`);
  await rename(path.join(home.catalog, 'pgdata'), aside);
  return aside;
}

type Transactions = Catalogs['requests'];

interface Facts {
  config: Config;
  nodeId: string;
  storage: Pick<Storage, 'listTimelines' | 'projectDescription' | 'dataDirectory'>;
}

export async function rebuild(
  facts: Facts,
  catalog: Pick<Transactions, 'transaction'>,
  movedAside?: string,
): Promise<Rebuilt> {
  const { timelines } = await facts.storage.listTimelines();
  const rebuilt: Rebuilt = { projects: [], problems: [], movedAside };
  const lasting = lastingOf(timelines);
  const found = new Map<string, ProjectDescription | undefined>();
  for (const projectId of [...new Set(lasting.map((timeline) => timeline.projectId))].toSorted()) {
    found.set(projectId, await readDescription(facts, projectId, rebuilt.problems));
  }
  const people = [...found.values()].flatMap((description) => description?.people ?? []);
  const known = await catalog.transaction((tx) => insertPeople(tx, people));
  const owner = await catalog.transaction(ensureOwner);
  for (const [projectId, described] of found) {
    const kept = lasting.filter((timeline) => timeline.projectId === projectId);
    try {
      rebuilt.projects.push(
        await restore({ ...facts, owner, known }, catalog, { projectId, described, kept }, rebuilt),
      );
    } catch (error) {
      rebuilt.problems.push(`project ${projectId} is not back: ${errorMessage(error)}`);
    }
  }
  return rebuilt;
}

/** Throws when its rows cannot be written; then nothing of it is there. */
async function restore(
  facts: MendFacts,
  catalog: Pick<Transactions, 'transaction'>,
  found: { projectId: string; described: ProjectDescription | undefined; kept: readonly TimelineRecord[] },
  { problems }: Rebuilt,
): Promise<RebuiltProject> {
  const { projectId, described, kept } = found;
  const description = described ?? (await emptyDescription(facts, projectId, kept[0]!));
  const mended = mend(description, kept, facts, problems);
  await catalog.transaction(async (tx) => {
    await insertDescription(tx, mended.description);
    await continueNumbering(tx);
    await startUnread(tx, projectId, mended.unread);
  });
  return {
    id: projectId,
    name: String(description.project['name']),
    branches: mended.description.tables['branches']!.filter((row) => row['deleted_at'] === null).length,
    described: described !== undefined,
  };
}

async function readDescription(
  { storage }: Facts,
  projectId: string,
  problems: string[],
): Promise<ProjectDescription | undefined> {
  const text = await storage.projectDescription(projectId);
  try {
    const description = JSON.parse(text ?? '') as ProjectDescription;
    if (description.formatVersion === 1 && description.project['id'] === projectId) return description;
  } catch {
    // Torn, or never written.
  }
  problems.push(
    `project ${projectId} has no description: names, endpoints and passwords are new, and roles are read back at the next start`,
  );
  return undefined;
}

/** A project of which only its data is known. */
async function emptyDescription(
  { config, storage }: Facts,
  projectId: string,
  timeline: TimelineRecord,
): Promise<ProjectDescription> {
  const now = new Date().toISOString();
  // As root, whose files a project's are tells its number, and with it the user that may read them.
  const { uid } = await stat(storage.dataDirectory(timeline));
  const number = process.getuid?.() === 0 ? uid - config.computeUidBase : undefined;
  return {
    formatVersion: 1,
    project: {
      id: projectId,
      number: number ?? nextNumber(),
      name: projectId,
      region_id: OWN_REGION,
      provisioner: 'k8s-neonvm',
      pg_version: timeline.pgVersion,
      store_passwords: true,
      history_retention_seconds: 86_400,
      default_endpoint_settings: {
        autoscaling_limit_min_cu: 0.25,
        autoscaling_limit_max_cu: 0.25,
        suspend_timeout_seconds: 0,
      },
      settings: {},
      creation_source: 'console',
      created_at: timeline.createdAt,
      updated_at: now,
    },
    tables: { branches: [], endpoints: [] },
  };
}

let numbersGiven = 0;
/** Where files do not tell, any number that no other project has will do. */
function nextNumber(): number {
  numbersGiven += 1;
  return 1_000_000 + (Math.floor(Date.now() / 1000) % 1_000_000_000) + numbersGiven;
}

interface MendFacts extends Facts {
  owner: Owner;
  /** Whom rows may refer to. */
  known: { users: ReadonlySet<unknown>; organizations: ReadonlySet<unknown> };
}

interface Mended {
  description: ProjectDescription;
  /** Branches of whose roles nothing is known: they have to be started once. */
  unread: { branchId: string; endpointId: string }[];
}

/** The description as it is true today: with the timelines that there are, and nothing under way. */
function mend(
  description: ProjectDescription,
  timelines: readonly TimelineRecord[],
  facts: MendFacts,
  problems: string[],
): Mended {
  const { owner, known: who, nodeId } = facts;
  const user = (id: unknown) => (id === null || who.users.has(id) ? (id ?? null) : owner.userId);
  const { project } = description;
  const projectId = String(project['id']);
  const there = new Set(timelines.map(({ timelineId }) => timelineId));
  const isThere = (row: JsonObject) => there.has(String(row['timeline_id']));
  const now = new Date().toISOString();

  const branches = (description.tables['branches'] ?? []).map((row): JsonObject => {
    const settled = { ...row, current_state: 'ready', pending_state: null, created_by: user(row['created_by']) };
    if (isThere(row) || row['purged_at'] !== null) return settled;
    problems.push(`the data of branch ${String(row['name'])} (${String(row['id'])}) is gone`);
    return { ...settled, is_default: false, deleted_at: row['deleted_at'] ?? now, purged_at: now };
  });
  const snapshots = (description.tables['snapshots'] ?? []).map((row): JsonObject => {
    const owned = { ...row, created_by: user(row['created_by']) };
    if (row['deleted_at'] !== null) return owned;
    if (isThere(row)) return { ...owned, state: 'ready' };
    problems.push(`the data of snapshot ${String(row['name'])} (${String(row['id'])}) is gone`);
    return { ...owned, deleted_at: now };
  });
  const known = new Set([...branches, ...snapshots].map((row) => String(row['timeline_id'])));
  const strangers = timelines.filter(({ timelineId }) => !known.has(timelineId));
  const added = addStrangers(projectId, { branches, snapshots, strangers, owner }, problems);

  const gone = new Set(branches.filter((row) => row['purged_at'] === now).map((row) => row['id']));
  const endpoints = (description.tables['endpoints'] ?? []).map((row): JsonObject => ({
    ...row,
    current_state: 'idle',
    pending_state: null,
    ...(gone.has(row['branch_id']) && { deleted_at: row['deleted_at'] ?? now }),
  }));
  const tables = {
    ...description.tables,
    branches: [...branches, ...added.branches],
    snapshots: [...snapshots, ...added.snapshots],
    endpoints: [...endpoints, ...added.endpoints],
  };
  ensureDefault(projectId, tables.branches, problems);
  const orgId = who.organizations.has(project['org_id']) ? project['org_id'] : owner.orgId;
  const ownerId = who.users.has(project['owner_id']) ? project['owner_id'] : owner.userId;
  const owned = { ...project, node_id: nodeId, org_id: orgId, owner_id: ownerId };
  return { description: { ...description, project: owned, tables }, unread: added.unread };
}

/** Should the default branch be what is lost, another one takes its place: the oldest, a root if there is one. */
function ensureDefault(projectId: string, branches: JsonObject[], problems: string[]): void {
  const live = branches.filter((row) => row['deleted_at'] === null || row['deleted_at'] === undefined);
  if (live.length === 0 || live.some((row) => row['is_default'] === true)) return;
  const roots = live.filter((row) => row['parent_id'] === null);
  const oldest = (roots.length > 0 ? roots : live).toSorted((a, b) =>
    String(a['created_at']).localeCompare(String(b['created_at'])),
  )[0]!;
  oldest['is_default'] = true;
  problems.push(
    `project ${projectId}: its default branch is "${String(oldest['name'])}" (${String(oldest['id'])}) now`,
  );
}

/** Timelines that no row stands for become branches and snapshots with names by which they can be told. */
function addStrangers(
  projectId: string,
  facts: { branches: JsonObject[]; snapshots: JsonObject[]; strangers: readonly TimelineRecord[]; owner: Owner },
  problems: string[],
): { branches: JsonObject[]; snapshots: JsonObject[]; endpoints: JsonObject[]; unread: Mended['unread'] } {
  const { branches, strangers, owner } = facts;
  const idOf = new Map(branches.map((row) => [String(row['timeline_id']), String(row['id'])]));
  const asBranches = strangers.filter(({ kind }) => kind === 'branch');
  for (const { timelineId } of asBranches)
    idOf.set(timelineId, timelineId.startsWith('br-') ? timelineId : newBranchId());
  let hasDefault = branches.some((row) => row['is_default'] === true && row['deleted_at'] === null);
  const added = { branches: [] as JsonObject[], snapshots: [] as JsonObject[], endpoints: [] as JsonObject[] };
  const unread: Mended['unread'] = [];
  const rootsFirst = asBranches.toSorted((a, b) => a.createdAt.localeCompare(b.createdAt));
  for (const timeline of rootsFirst) {
    const branchId = idOf.get(timeline.timelineId)!;
    const isDefault = !hasDefault && timeline.parentTimelineId === null;
    hasDefault ||= isDefault;
    const endpointId = newEndpointId();
    const name = isDefault ? 'main' : `recovered-${timeline.timelineId}`;
    problems.push(`project ${projectId}: branch ${branchId} is back as "${name}" with the new endpoint ${endpointId}`);
    added.branches.push(branchRow(projectId, timeline, { branchId, name, isDefault, idOf, owner }));
    added.endpoints.push(endpointRow(projectId, branchId, endpointId));
    unread.push({ branchId, endpointId });
  }
  const [anyBranch] = [...added.branches, ...branches];
  for (const timeline of strangers.filter(({ kind }) => kind === 'snapshot')) {
    const source = idOf.get(timeline.parentTimelineId ?? '') ?? (anyBranch?.['id'] as string | undefined);
    if (source === undefined) continue;
    problems.push(`project ${projectId}: snapshot ${timeline.timelineId} is back`);
    added.snapshots.push(snapshotRow(projectId, timeline, source, owner));
  }
  return { ...added, unread };
}

function branchRow(
  projectId: string,
  timeline: TimelineRecord,
  facts: { branchId: string; name: string; isDefault: boolean; idOf: ReadonlyMap<string, string>; owner: Owner },
): JsonObject {
  const { createdAt } = timeline;
  return {
    id: facts.branchId,
    project_id: projectId,
    timeline_id: timeline.timelineId,
    parent_id: facts.idOf.get(timeline.parentTimelineId ?? '') ?? null,
    name: facts.name,
    current_state: 'ready',
    state_changed_at: createdAt,
    is_default: facts.isDefault,
    protected: false,
    init_source: 'parent-data',
    parent_lsn: timeline.branchLsn,
    parent_timestamp: timeline.branchTimestamp,
    creation_source: 'console',
    created_by: facts.owner.userId,
    created_at: createdAt,
    updated_at: createdAt,
    facts_due: true,
    deleted_at: null,
  };
}

function endpointRow(projectId: string, branchId: string, id: string): JsonObject {
  const now = new Date().toISOString();
  return {
    id,
    project_id: projectId,
    branch_id: branchId,
    type: 'read_write',
    current_state: 'idle',
    autoscaling_limit_min_cu: 0.25,
    autoscaling_limit_max_cu: 0.25,
    suspend_timeout_seconds: 0,
    settings: {},
    pooler_enabled: false,
    disabled: false,
    passwordless_access: true,
    region_id: OWN_REGION,
    creation_source: 'console',
    created_at: now,
    updated_at: now,
  };
}

function snapshotRow(projectId: string, timeline: TimelineRecord, source: string, owner: Owner): JsonObject {
  const { timelineId, createdAt } = timeline;
  return {
    id: timelineId,
    slug: timelineId,
    project_id: projectId,
    source_branch_id: source,
    timeline_id: timelineId,
    name: timelineId,
    state: 'ready',
    manual: true,
    lsn: timeline.branchLsn,
    point_timestamp: timeline.branchTimestamp,
    created_by: owner.userId,
    created_at: createdAt,
    updated_at: createdAt,
  };
}

/** Their roles are only in their data: the next start of Ballast starts them once and reads them. */
async function startUnread(tx: Queryable, projectId: string, unread: Mended['unread']): Promise<void> {
  const operations = unread.map(({ branchId, endpointId }) => ({
    id: newUuid(),
    projectId,
    branchId,
    endpointId,
    action: 'start_compute',
    payload: {},
  }));
  if (operations.length > 0) await insertOperations(tx, operations, 'rebuild');
}
