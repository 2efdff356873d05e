/**
 * An engine without Postgres: storage and supervisor as their types promise, in memory, with a log of calls and faults
 * on demand.
 */
import type {
  ComputeActivity,
  ComputeChange,
  ComputeSpec,
  RolesAndDatabases,
  Supervisor,
} from '../../src/compute/types.ts';
import { AppError } from '../../src/lib/errors.ts';
import type { PoolStatus, Storage, TimelineRecord, TimelineRef } from '../../src/storage/types.ts';

export interface FakeEngine {
  storage: Storage;
  supervisor: Supervisor;
  /** `start ep-…`, `createRoot br-…` in order. */
  calls: string[];
  timelines: Map<string, TimelineRecord>;
  computes: Map<string, ComputeSpec>;
  /** What the branch's Postgres holds, by branch. */
  facts: Map<string, { roles: RolesAndDatabases['roles']; databases: RolesAndDatabases['databases'] }>;
  activities: Map<string, Partial<ComputeActivity>>;
  /** What was written into endpoints' logs. */
  notes: { endpointId: string; lines: readonly string[] }[];
  garbage: string[];
  pool: PoolStatus;
  /** Called before each method does anything; throw to fail it, wait to delay it. */
  fault: (call: string) => void | Promise<void>;
  /** A compute dies by itself. */
  kill(endpointId: string): void;
}

export function createFakeEngine(): FakeEngine {
  const exitListeners: ((endpointId: string) => void)[] = [];
  const engine: FakeEngine = {
    calls: [],
    timelines: new Map(),
    computes: new Map(),
    facts: new Map(),
    activities: new Map(),
    notes: [],
    garbage: [],
    pool: { path: '/pool', cloneMode: 'reflink', fileSystem: 'xfs', totalBytes: 1e9, freeBytes: 9e8, watermark: 'ok' },
    fault: () => undefined,
    kill: (endpointId) => {
      engine.computes.delete(endpointId);
      for (const listener of exitListeners) listener(endpointId);
    },
    storage: undefined as never,
    supervisor: undefined as never,
  };
  const call = async (text: string): Promise<void> => {
    engine.calls.push(text);
    await engine.fault(text);
  };
  engine.storage = createStorage(engine, call);
  engine.supervisor = createSupervisor(engine, call, exitListeners);
  return engine;
}

type Call = (text: string) => Promise<void>;

function createStorage(engine: FakeEngine, call: Call): Storage {
  const create = (spec: TimelineRef, record: Partial<TimelineRecord>): TimelineRecord => {
    const existing = engine.timelines.get(spec.timelineId);
    if (existing) return existing;
    const made = {
      projectId: spec.projectId,
      timelineId: spec.timelineId,
      formatVersion: 1,
      kind: 'branch',
      pgVersion: 17,
      systemIdentifier: '1',
      parentTimelineId: null,
      branchLsn: null,
      branchTimestamp: null,
      recovery: 'none',
      suspectSubscriptions: false,
      createdAt: new Date().toISOString(),
      ...record,
    } as TimelineRecord;
    engine.timelines.set(spec.timelineId, made);
    return made;
  };
  return {
    prepareTemplate: async () => undefined,
    describeProject: async (projectId) => {
      await call(`describe ${projectId}`);
      return true;
    },
    projectDescription: async () => undefined,
    keepHistory: async ({ timelineId }) => call(`keepHistory ${timelineId}`),
    trimHistory: async ({ timelineId }, { startMs, pinned }) =>
      call([`trimHistory ${timelineId} ${startMs}`, ...pinned].join(' ')),
    createRootTimeline: async (spec) => {
      await call(`createRoot ${spec.timelineId}`);
      return create(spec, {});
    },
    createStandbyTimeline: async (spec) => {
      await call(`createStandby ${spec.timelineId}`);
      engine.timelines.delete(spec.timelineId);
      return create(spec, { kind: 'standby', parentTimelineId: spec.parentTimelineId, branchLsn: '0/1964258' });
    },
    resolvePoint: async (timeline, query) => {
      await call(`resolve ${timeline.timelineId} ${JSON.stringify(query)}`);
      return { lsn: query.kind === 'lsn' ? query.lsn : '0/1964258', time: '2026-01-16T20:53:56.123456Z' };
    },
    createChildTimeline: async (spec) => {
      await call(`createChild ${spec.timelineId}`);
      if (!engine.timelines.has(spec.parentTimelineId)) throw new AppError('not_found', 'the parent has no data');
      const facts = engine.facts.get(spec.parentTimelineId);
      if (facts && !engine.timelines.has(spec.timelineId)) engine.facts.set(spec.timelineId, structuredClone(facts));
      return create(spec, {
        kind: spec.kind ?? 'branch',
        parentTimelineId: spec.parentTimelineId,
        branchLsn: spec.point.kind === 'lsn' ? spec.point.lsn : '0/1964258',
        branchTimestamp: '2026-01-16T20:53:56.123456Z',
        recovery: 'promote',
      });
    },
    deleteTimeline: async (timeline) => {
      await call(`delete ${timeline.timelineId}`);
      engine.timelines.delete(timeline.timelineId);
    },
    readTimeline: async (timeline) => engine.timelines.get(timeline.timelineId),
    dataDirectory: (timeline) => `/pool/${timeline.timelineId}/pgdata`,
    walDirectory: (timeline) => `/pool/${timeline.timelineId}/wal`,
    withDataDirectory: (_timeline, work) => work(),
    finishRecovery: async (timeline) => engine.timelines.get(timeline.timelineId)!,
    afterSuspend: (timeline) => call(`afterSuspend ${timeline.timelineId}`),
    size: async () => ({ logicalBytes: 30_000_000, extents: 10 }),
    ownBytes: async () => 1_000_000,
    poolStatus: async () => engine.pool,
    assertRoomForTimeline: async () => undefined,
    listTimelines: async () => ({ timelines: [...engine.timelines.values()], garbage: engine.garbage }),
    removeGarbage: async (paths) => {
      await call(`removeGarbage ${paths.join(' ')}`);
      engine.garbage = engine.garbage.filter((path) => !paths.includes(path));
    },
  };
}

function createSupervisor(engine: FakeEngine, call: Call, exitListeners: ((endpointId: string) => void)[]): Supervisor {
  const startListeners: ((endpointId: string) => void)[] = [];
  const factsOf = (endpointId: string) => {
    const spec = engine.computes.get(endpointId);
    if (!spec) throw new AppError('not_found', 'the compute is not running');
    const { timelineId } = spec.timeline;
    let facts = engine.facts.get(timelineId);
    if (!facts) engine.facts.set(timelineId, (facts = { roles: [], databases: [] }));
    return facts;
  };
  const apply = (endpointId: string, changes: readonly ComputeChange[]): void => {
    for (const change of changes) applyChange(factsOf(endpointId), change);
  };
  /** When an operation or a client last used a compute; as the real one, a change counts. */
  const usedAtMs = new Map<string, number>();
  const address = (endpointId: string) =>
    engine.computes.has(endpointId) ? { socketDirectory: `/sockets/${endpointId}`, port: 5432 } : undefined;
  return {
    start: async (spec, changes) => {
      await call(`start ${spec.endpointId}`);
      const data = spec.standby?.of ?? spec.timeline;
      if (!engine.timelines.has(data.timelineId)) throw new AppError('not_found', 'the branch has no data');
      engine.computes.set(spec.endpointId, spec);
      if (!spec.standby) apply(spec.endpointId, changes);
      usedAtMs.set(spec.endpointId, performance.now());
      for (const listener of startListeners) listener(spec.endpointId);
      return address(spec.endpointId)!;
    },
    suspend: async (endpointId) => {
      await call(`suspend ${endpointId}`);
      engine.computes.delete(endpointId);
    },
    applyChanges: async (endpointId, changes) => apply(endpointId, changes),
    rolesAndDatabases: async (endpointId) => {
      await call(`rolesAndDatabases ${endpointId}`);
      const facts = structuredClone(factsOf(endpointId));
      return { ...facts, fingerprint: JSON.stringify(facts) };
    },
    query: async () => [],
    address,
    activity: async (endpointId) =>
      engine.computes.has(endpointId)
        ? {
            endpointId,
            busy: false,
            idleMs: Math.round(performance.now() - (usedAtMs.get(endpointId) ?? 0)),
            fingerprint: JSON.stringify(factsOf(endpointId)),
            quietMs: engine.activities.get(endpointId)?.idleMs ?? 0,
            processes: [],
            busyCount: engine.activities.get(endpointId)?.busy === true ? 1 : 0,
            idleCount: 0,
            processesAgeMs: 0,
            ...engine.activities.get(endpointId),
          }
        : undefined,
    noteConnections: () => undefined,
    note: (endpointId, lines) => void engine.notes.push({ endpointId, lines }),
    sizes: () => new Map([...engine.computes].map(([endpointId, { maxCu }]) => [endpointId, maxCu])),
    running: () => [...engine.computes.keys()],
    timelineOf: (endpointId) => engine.computes.get(endpointId)?.timeline,
    adopt: async () => [...engine.computes.keys()],
    onStart: (listener) => void startListeners.push(listener),
    onExit: (listener) => void exitListeners.push(listener),
    stopAll: async () => engine.computes.clear(),
  };
}

/** As Postgres would, and as idempotent as the real one. */
function applyChange(
  facts: { roles: RolesAndDatabases['roles']; databases: RolesAndDatabases['databases'] },
  change: ComputeChange,
): void {
  const { roles, databases } = facts;
  const drop = (list: { name: string }[], name: string) =>
    list.splice(0, list.length, ...list.filter((one) => one.name !== name));
  switch (change.kind) {
    case 'create_role':
      drop(roles, change.name);
      roles.push({ name: change.name, verifier: change.verifier, canLogin: !change.noLogin });
      break;
    case 'set_verifier':
      roles.find((role) => role.name === change.name)!.verifier = change.verifier;
      break;
    case 'drop_role':
      drop(roles, change.name);
      break;
    case 'create_database':
      if (!roles.some((role) => role.name === change.owner))
        throw new AppError('unprocessable', `role "${change.owner}" does not exist`);
      if (!databases.some((database) => database.name === change.name))
        databases.push({ name: change.name, owner: change.owner });
      break;
    case 'alter_database': {
      const database = databases.find((one) => one.name === change.name || one.name === change.newName);
      if (database) Object.assign(database, { name: change.newName, owner: change.owner });
      break;
    }
    case 'drop_database':
      drop(databases, change.name);
  }
}
