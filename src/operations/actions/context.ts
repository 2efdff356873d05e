/**
 * What actions have at hand: rows on one side, the engine on the other. Made once in main.ts.
 */
import type { ComputeWork } from '../../catalog/transitions.ts';
import type { JsonObject, OperationRow, Queryable } from '../../catalog/types.ts';
import { SIZE_SETTINGS } from '../../compute/types.ts';
import type { ComputeChange, ComputeSpec, StandbySpec, Supervisor } from '../../compute/types.ts';
import { AppError } from '../../lib/errors.ts';
import type { Logger } from '../../lib/log.ts';
import type { FileOwner, Storage } from '../../storage/types.ts';
import type { SchemaCopier } from '../../schema-copy.ts';
import type { Background } from '../background.ts';

export interface ActionContext {
  catalog: Queryable;
  storage: Storage;
  supervisor: Supervisor;
  copySchema: Pick<SchemaCopier, 'copy' | 'abandon'>;
  /** The operating-system user of a project; undefined unless Ballast runs as root. */
  ownerOf(projectNumber: number): FileOwner | undefined;
  /** Loaded unless a project's settings say otherwise. */
  defaultPreloadLibraries: readonly string[];
  /** The pool is so full that no compute may write. */
  poolIsFull(): boolean;
  /** For what should follow an operation but delay neither its end nor anything else. */
  background: Background;
  /** Endpoint id to the fingerprint of the roles and databases that its branch's rows are known to equal. */
  syncedFingerprints: Map<string, string>;
  /** Endpoint id to when an operation last used its compute (performance.now()): that is no client's doing. */
  appliedAtMs: Map<string, number>;
  logger: Logger;
}

/** The endpoint that an operation names; anything else is a mistake of the code that appended it. */
export function endpointOf(operation: OperationRow): string {
  if (operation.endpointId === null) throw new AppError('unprocessable', 'the operation names no endpoint');
  return operation.endpointId;
}

export function branchOf(operation: OperationRow): string {
  if (operation.branchId === null) throw new AppError('unprocessable', 'the operation names no branch');
  return operation.branchId;
}

/** The endpoint's settings are whole: the project's defaults were copied into them when it was made. */
export function computeSpec(
  work: ComputeWork,
  context: Pick<ActionContext, 'ownerOf' | 'defaultPreloadLibraries'>,
): ComputeSpec {
  const preload = object(work.projectSettings['preload_libraries']);
  const defaults = preload['use_defaults'] === false ? [] : context.defaultPreloadLibraries;
  const { projectId, endpointId } = work;
  const ofBranch = { projectId, timelineId: work.timelineId };
  return {
    endpointId,
    // A read replica's data is a timeline of its own for as long as it runs, named like its endpoint.
    timeline: work.type === 'read_write' ? ofBranch : { projectId, timelineId: endpointId },
    ...(work.type === 'read_only' && { standby: standbySpec(work, ofBranch) }),
    pgVersion: work.pgVersion,
    owner: context.ownerOf(work.projectNumber),
    minCu: work.autoscalingLimitMinCu,
    maxCu: work.autoscalingLimitMaxCu,
    pgSettings: texts(work.settings['pg_settings']),
    preloadLibraries: [...new Set([...defaults, ...names(preload['enabled_libraries'])])],
    logicalReplication: work.projectSettings['enable_logical_replication'] === true,
    jwtRoles: work.jwtRoles,
  };
}

/** A branch without a read-write endpoint has nothing to follow yet. */
function standbySpec(work: ComputeWork, of: StandbySpec['of']): StandbySpec {
  const { primary } = work;
  const settings = texts(primary?.settings['pg_settings']);
  const ofSize = Object.entries(settings).filter(([name]) => SIZE_SETTINGS.some((size) => size === name));
  return {
    of,
    point: { kind: 'head' },
    primary: {
      minCu: primary?.minCu ?? work.autoscalingLimitMinCu,
      maxCu: primary?.maxCu ?? work.autoscalingLimitMaxCu,
      pgSettings: Object.fromEntries(ofSize),
    },
  };
}

function object(value: unknown): JsonObject {
  return typeof value === 'object' && value !== null ? (value as JsonObject) : {};
}

function names(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((name) => typeof name === 'string') : [];
}

function texts(value: unknown): Record<string, string> {
  return Object.fromEntries(Object.entries(object(value)).map(([name, setting]) => [name, String(setting)]));
}

/**
 * The pending rows as changes, in an order in which each can succeed: roles come before the databases that they own,
 * old names are free before they are used again, and a role goes last.
 */
export function pendingChanges(work: Pick<ComputeWork, 'roles' | 'databases'>): ComputeChange[] {
  const roles = (state: string) => work.roles.filter((role) => role.state === state);
  const databases = (state: string) => work.databases.filter((database) => database.state === state);
  return [
    ...roles('creating').map(({ name, verifier, noLogin, plain }): ComputeChange => ({
      kind: 'create_role',
      name,
      verifier,
      noLogin,
      plain,
    })),
    ...roles('updating').flatMap(({ name, verifier }): ComputeChange[] =>
      verifier === null ? [] : [{ kind: 'set_verifier', name, verifier }],
    ),
    ...databases('deleting').map(({ name, appliedName }): ComputeChange => ({
      kind: 'drop_database',
      name: appliedName ?? name,
    })),
    ...databases('updating').map(({ name, appliedName, ownerName }): ComputeChange => ({
      kind: 'alter_database',
      name: appliedName ?? name,
      newName: name,
      owner: ownerName,
    })),
    ...databases('creating').map(({ name, ownerName }): ComputeChange => ({
      kind: 'create_database',
      name,
      owner: ownerName,
    })),
    ...roles('deleting').map(({ name }): ComputeChange => ({ kind: 'drop_role', name })),
  ];
}
