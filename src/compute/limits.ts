/**
 * Keeps each compute as large as it should be now: puts its processes into a cgroup, looks at its load once a second
 * (autoscale.ts decides), and changes the limits while it runs.
 *
 * `shares`: the size is a share of processors that are busy; what is free is for whoever wants it, and memory has no
 * limit. `hard`: processors and memory end where the size ends. A compute that starts or stops is not limited. Nothing
 * here ever fails a compute: what the kernel refuses is logged.
 */
import { errorMessage } from '../lib/errors.ts';
import type { Logger } from '../lib/log.ts';
import { firstScale, nextScale, type Bounds, type Load, type Scale } from './autoscale.ts';
import {
  NO_LIMITS,
  findCgroup,
  findCgroups,
  openCgroups,
  thisMachine,
  type Cgroup,
  type CgroupLimits,
  type CgroupUsage,
  type Cgroups,
} from './cgroups.ts';
import { memoryBytesOf, processorsOf } from './sizes.ts';

export type LimitMode = 'off' | 'shares' | 'hard';

/** One compute's place, from before it starts until after it has gone. Its methods never throw. */
export interface ComputePlace {
  /** The server's process, as early as possible. */
  enter(pid: number): Promise<void>;
  /** It serves: from now on it has a size. Also when its bounds have changed. */
  follow(bounds: Bounds): Promise<void>;
  /** The size now; undefined when it has none. */
  cu(): number | undefined;
  /** It is about to stop, with all that the machine has. */
  lift(): Promise<void>;
  remove(): Promise<void>;
}

/** What becomes of computes' sizes on this machine. */
export interface LimitStatus {
  mode: LimitMode;
  /** Why there are no limits although they may be: what the machine lacks, and the command that mends it. */
  missing?: { reason: string; fix?: string };
}

export interface ComputeLimits {
  /** Undefined where computes have no limits. */
  open(endpointId: string): Promise<ComputePlace | undefined>;
  /** For a compute that an earlier Ballast has left running. */
  adopt(endpointId: string, pid: number): Promise<ComputePlace | undefined>;
  /** After adoption: places of computes that are gone. */
  removeStale(running: ReadonlySet<string>): Promise<void>;
  /** Looks at every compute that may grow or shrink; runs by itself once a second while there is one. */
  look(): void;
  /** After the last compute has gone. Never throws. */
  close(): Promise<void>;
}

export const NO_COMPUTE_LIMITS: ComputeLimits = {
  open: async () => undefined,
  adopt: async () => undefined,
  removeStale: async () => undefined,
  look: () => undefined,
  close: async () => undefined,
};

export interface LimitsOptions {
  mode: LimitMode;
  /** Undefined: `off`. */
  cgroups: Cgroups | undefined;
  /** The group that a process is in, if it is one of ours. */
  findCgroup(endpointId: string, pid: number): Promise<Cgroup | undefined>;
  logger: Logger;
  nowMs: () => number;
  /** Default: a second. */
  lookEveryMs?: number;
}

const LOOK_EVERY_MS = 1_000;
const WEIGHT_PER_CU = 100;
/** Of its time slices, those at whose end it had to wait, for its limit to count as too low. */
const HELD_BACK = 0.25;
/** Who has used no more than that has no more memory than before. */
const AT_REST_MS = 2;

interface Followed {
  endpointId: string;
  cgroup: Cgroup;
  bounds: Bounds;
  scale: Scale;
  usage: CgroupUsage;
  memoryBytes: number;
  atMs: number;
  /** Brings the size into the group, in turn with other changes of it. Never rejects. */
  apply(): Promise<void>;
}

interface State {
  options: LimitsOptions;
  /** By cgroup: an endpoint's next compute may begin before the last one is forgotten. */
  followed: Map<Cgroup, Followed>;
  timer: NodeJS.Timeout | undefined;
}

export function createComputeLimits(options: LimitsOptions): ComputeLimits {
  const state: State = { options, followed: new Map(), timer: undefined };
  const { cgroups, logger } = options;
  return {
    open: async (endpointId) => {
      if (options.mode === 'off' || !cgroups) return undefined;
      const cgroup = await tried(logger, endpointId, () => cgroups.create(endpointId));
      return cgroup && placeIn(state, endpointId, cgroup, (bounds) => firstScale(bounds));
    },
    adopt: async (endpointId, pid) => {
      const cgroup = await tried(logger, endpointId, () => options.findCgroup(endpointId, pid));
      if (!cgroup) return undefined;
      // What an earlier Ballast set must go, also when this one is told to set nothing.
      await tried(logger, endpointId, () => cgroup.limit(NO_LIMITS));
      return placeIn(state, endpointId, cgroup, (bounds) => firstScale(bounds, bounds.maxCu));
    },
    removeStale: async (running) => void (await tried(logger, undefined, async () => cgroups?.removeStale(running))),
    look: () => look(state),
    close: async () => {
      if (state.timer) clearInterval(state.timer);
      await cgroups?.close();
    },
  };
}

/** `auto` is `shares`: nobody who asked for nothing shall find a laptop slow. Never throws. */
export async function openComputeLimits(options: {
  asked: LimitMode | 'auto';
  dataDirectory: string;
  logger: Logger;
}): Promise<{ limits: ComputeLimits; status: LimitStatus }> {
  const { asked, dataDirectory, logger } = options;
  const mode = asked === 'auto' ? 'shares' : asked;
  const { cgroups, ...status } = await prepare(mode, dataDirectory);
  const limits = createComputeLimits({
    mode: status.mode,
    cgroups,
    findCgroup: (endpointId, pid) => findCgroup(dataDirectory, endpointId, pid),
    logger,
    nowMs: () => performance.now(),
  });
  return { limits, status };
}

async function prepare(mode: LimitMode, dataDirectory: string): Promise<LimitStatus & { cgroups?: Cgroups }> {
  if (mode === 'off') return { mode };
  const place = await findCgroups(await thisMachine());
  if (!place.available) {
    const { reason, fix } = place;
    return { mode: 'off', missing: { reason, ...(fix !== undefined && { fix }) } };
  }
  try {
    return { mode, cgroups: await openCgroups(place, dataDirectory) };
  } catch (error) {
    return { mode: 'off', missing: { reason: `the kernel refuses a control group: ${errorMessage(error)}` } };
  }
}

function placeIn(state: State, endpointId: string, cgroup: Cgroup, begin: (bounds: Bounds) => Scale): ComputePlace {
  const { logger, nowMs } = state.options;
  const mode = state.options.cgroups ? state.options.mode : 'off';
  const attempt = (work: () => Promise<void>) => tried(logger, endpointId, work);
  // One change of limits at a time, in order.
  let last: Promise<unknown> = Promise.resolve();
  const apply = async (): Promise<void> => {
    last = last.then(() => attempt(() => cgroup.limit(currentLimits(state, cgroup))));
    await last;
  };
  const leave = () => {
    state.followed.delete(cgroup);
    watch(state);
  };
  return {
    enter: async (pid) => void (await attempt(() => cgroup.enter(pid))),
    follow: async (bounds) => {
      if (mode === 'off') return;
      const before = state.followed.get(cgroup);
      await attempt(async () => {
        const followed: Followed = before ?? {
          endpointId,
          cgroup,
          bounds,
          scale: begin(bounds),
          usage: cgroup.usage(),
          memoryBytes: cgroup.memoryBytes(),
          atMs: nowMs(),
          apply,
        };
        followed.bounds = bounds;
        if (before) followed.scale = firstScale(bounds, before.scale.cu);
        state.followed.set(cgroup, followed);
        watch(state);
      });
      await apply();
    },
    cu: () => state.followed.get(cgroup)?.scale.cu,
    lift: async () => {
      leave();
      await apply();
    },
    remove: async () => {
      leave();
      await last;
      await attempt(() => cgroup.remove());
    },
  };
}

/** Never rejects. Undefined when it failed. */
async function tried<T>(
  logger: Logger,
  endpointId: string | undefined,
  work: () => Promise<T>,
): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    logger.warn({ endpointId, reason: errorMessage(error) }, 'the size of a compute could not be kept');
    return undefined;
  }
}

/** None for a compute that is not followed: it starts or stops. */
function currentLimits(state: State, cgroup: Cgroup): CgroupLimits {
  const followed = state.followed.get(cgroup);
  if (!followed) return NO_LIMITS;
  const { cu } = followed.scale;
  const weight = cu * WEIGHT_PER_CU;
  if (state.options.mode !== 'hard') return { ...NO_LIMITS, weight };
  return {
    weight,
    processors: processorsOf(cu),
    memoryHighBytes: memoryBytesOf(cu),
    // Memory that is needed faster than a size can follow makes it wait; only beyond its maximum it is killed.
    memoryMaxBytes: memoryBytesOf(followed.bounds.maxCu),
  };
}

/** Who cannot grow is not looked at, and while nobody can, nothing is. */
function watch(state: State): void {
  const wanted = [...state.followed.values()].some(canScale);
  if (wanted && !state.timer) {
    state.timer = setInterval(() => look(state), state.options.lookEveryMs ?? LOOK_EVERY_MS).unref();
  } else if (!wanted && state.timer) {
    clearInterval(state.timer);
    state.timer = undefined;
  }
}

function canScale({ bounds }: Followed): boolean {
  return bounds.minCu < bounds.maxCu;
}

function look(state: State): void {
  for (const followed of state.followed.values()) {
    if (canScale(followed)) lookAt(state, followed);
  }
}

function lookAt(state: State, followed: Followed): void {
  const { logger, nowMs } = state.options;
  const { cgroup, endpointId, bounds, scale } = followed;
  const atMs = nowMs();
  const elapsedMs = atMs - followed.atMs;
  if (elapsedMs <= 0) return;
  try {
    followed.scale = nextScale(scale, readLoad(followed, elapsedMs), elapsedMs, bounds);
    followed.atMs = atMs;
  } catch (error) {
    state.followed.delete(cgroup);
    watch(state);
    logger.warn({ endpointId, reason: errorMessage(error) }, 'the load of a compute cannot be read any more');
    return;
  }
  const { cu } = followed.scale;
  if (cu === scale.cu) return;
  logger.info({ endpointId, fromCu: scale.cu, toCu: cu }, 'a compute changes its size');
  void followed.apply();
}

/** One small file of a compute at rest, two of a busy one, and a third where its memory may matter. */
function readLoad(followed: Followed, elapsedMs: number): Load {
  const { cgroup, bounds, usage: before } = followed;
  const usage = cgroup.usage();
  const usedMs = usage.processorMs - before.processorMs;
  if (usedMs > AT_REST_MS) followed.memoryBytes = cgroup.memoryBytes();
  const mayMatter = followed.memoryBytes > memoryBytesOf(bounds.minCu) / 2;
  const periods = usage.periods - before.periods;
  const throttled = usage.throttledPeriods - before.throttledPeriods;
  followed.usage = usage;
  return {
    processors: usedMs / elapsedMs,
    heldBack: periods > 0 && throttled / periods >= HELD_BACK,
    memoryBytes: mayMatter ? cgroup.workingSetBytes() : followed.memoryBytes,
  };
}
