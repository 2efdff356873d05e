/**
 * What the rules work with, and the two ways in which every request touches a project: read it, or change it in one
 * transaction that holds the project's row. A change commits rows and operations together; only then the runner is
 * poked and the caches of this process hear of it.
 */
import type { BranchSchemaJson } from '@neon/sdk/raw';
import type { CatalogDatabase } from '../catalog/database.ts';
import { lockProject, type ProjectWithOwner } from '../catalog/projects.ts';
import type { OperationRow, ProjectRow, Queryable } from '../catalog/types.ts';
import type { KeyLock } from '../lib/key-lock.ts';
import type { HistoryWindow, PointQuery, ResolvedPoint } from '../lib/point.ts';
import type { SecretBox } from '../lib/secret-box.ts';
import type { OperationQueue } from '../operations/types.ts';
import { assertKeyCovers, mayReach } from './access.ts';
import type { Caller } from './caller.ts';
import { projectNotFound } from './errors.ts';

/** Read at every use, so that `pgPort` may be filled in once the proxy listens. */
export interface ControlPlaneConfig {
  /** Endpoints are `<endpoint id>.<domain>`. */
  domain: string;
  pgPort: number;
  /** The machine that gets new projects. */
  nodeId: string;
  /** Whether `*.<domain>` resolves on this machine; only asked for the domain `localhost`. */
  namesResolve: boolean;
}

export interface PreloadLibraryFacts {
  name: string;
  description: string;
  /** Loaded unless the settings say otherwise. */
  isDefault: boolean;
  isExperimental: boolean;
  version: string;
}

/** A database of a branch, now or at a point of its history. */
export interface SchemaSource {
  projectId: string;
  projectNumber: number;
  pgVersion: number;
  timelineId: string;
  /** Of the read-write endpoint; null: there is none. */
  endpointId: string | null;
  /** Its compute units. */
  size?: { minCu: number; maxCu: number };
  point: PointQuery;
  window: HistoryWindow;
  database: string;
}

export interface ControlPlaneDependencies {
  catalog: Pick<CatalogDatabase, 'query' | 'transaction'>;
  queue: OperationQueue;
  secretBox: SecretBox;
  config: ControlPlaneConfig;
  /** Majors of PostgreSQL that new projects can have, ascending. */
  availableMajors(): Promise<readonly number[]>;
  /** Throws AppError 'unavailable' when the pool has no room for another timeline. */
  assertRoomForTimeline(): Promise<void>;
  /** Where a point of a timeline's history lies; throws 'unprocessable' for one that is out of the window. */
  resolvePoint(
    timeline: { projectId: string; timelineId: string },
    query: PointQuery,
    window: HistoryWindow,
  ): Promise<ResolvedPoint>;
  /**
   * A schema as SQL, or as the document's listing. Throws 'not_found' for a database that is not there, and what
   * resolvePoint throws.
   */
  dumpSchema(source: SchemaSource): Promise<string>;
  listSchema(source: SchemaSource): Promise<BranchSchemaJson>;
  /** What shared_preload_libraries may name. */
  preloadLibraries(pgVersion: number): Promise<readonly PreloadLibraryFacts[]>;
  /** Called after every committed change of a project; caches drop what they know of it. */
  onProjectChanged?(projectId: string): void;
  now?(): Date;
}

export interface Context extends Omit<ControlPlaneDependencies, 'onProjectChanged' | 'now'> {
  onProjectChanged(projectId: string): void;
  now(): Date;
  /** By project id: one change at a time. */
  changes: KeyLock;
  /** Gathered lookups of what clients read most. */
  findProject(projectId: string): Promise<ProjectWithOwner | undefined>;
  findOperation(id: string): Promise<OperationRow | undefined>;
}

/** Throws 'not_found' for a project that does not exist or that the caller cannot reach: both look the same. */
export async function readProject(context: Context, caller: Caller, projectId: string): Promise<ProjectWithOwner> {
  assertKeyCovers(caller, projectId);
  const project = await context.findProject(projectId);
  if (!project || !mayReach(caller, project)) throw projectNotFound();
  return project;
}

/** Errors as readProject. `work` may run again after a deadlock, so it does nothing outside its transaction. */
export async function changeProject<T>(
  context: Context,
  caller: Caller,
  projectId: string,
  work: (tx: Queryable, project: ProjectRow) => Promise<T>,
): Promise<T> {
  assertKeyCovers(caller, projectId);
  // Changes of one project wait for each other here first: waiting in the catalog would take up its sessions.
  const result = await context.changes.exclusive(projectId, () =>
    context.catalog.transaction(async (tx) => {
      const project = await lockProject(tx, projectId);
      if (!project || !mayReach(caller, project)) throw projectNotFound();
      return work(tx, project);
    }),
  );
  context.queue.poke();
  context.onProjectChanged(projectId);
  return result;
}
