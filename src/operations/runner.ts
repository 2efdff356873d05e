/**
 * The runner: claims operations, runs their actions, ends them.
 *
 * Two lanes with slots of their own, so that a slow copy of data never keeps a compute from waking: `timelines` and
 * `computes`. Each lane claims as much as it has free slots; it looks after every poke, after every end, and once a
 * second. A lease says that a living runner works on a row; it is renewed for all rows at once, and one that was lost
 * aborts its work. What a run changes in rows is committed together with the end of the operation.
 * After a crash the rows are claimed again by the next runner of the node: actions are idempotent.
 */
import type { CatalogDatabase } from '../catalog/database.ts';
import {
  claimOperations,
  endOperation,
  OPERATIONS_CHANNEL,
  releaseOperations,
  renewLeases,
  retryOperation,
  takeOverLeases,
  type ClaimedOperation,
} from '../catalog/operations.ts';
import type { OperationAction, OperationRow, OperationStatus } from '../catalog/types.ts';
import { isAppError } from '../lib/errors.ts';
import { newUuid } from '../lib/ids.ts';
import type { Logger } from '../lib/log.ts';
import type { RunnerQueue } from './queue.ts';
import type { Action, OperationEnd, Outcome } from './types.ts';

export interface RunnerOptions {
  /** A database of its own: requests that queue for connections must not hold back the work that they wait for. */
  catalog: CatalogDatabase;
  queue: RunnerQueue;
  actions: Record<OperationAction, Action>;
  nodeId: string;
  logger: Logger;
  /** Called before those who wait for the operation hear of its end. */
  onEnded?: (row: OperationRow) => void;
  /** Called for every end, with how long it took. */
  observe?: (end: OperationEnd) => void;
  limits?: Partial<RunnerLimits>;
}

export interface RunnerLimits {
  timelineSlots: number;
  computeSlots: number;
  leaseMs: number;
  /** How often a run is tried before it is undone. */
  tries: number;
  /** Wait after the n-th failure: `retryBaseMs * 3^(n-1)`, at most `retryMaxMs`, with up to a quarter less. */
  retryBaseMs: number;
  retryMaxMs: number;
  pollMs: number;
}

const DEFAULT_LIMITS: RunnerLimits = {
  timelineSlots: 4,
  computeSlots: 16,
  leaseMs: 30_000,
  tries: 5,
  retryBaseMs: 250,
  retryMaxMs: 15_000,
  pollMs: 1_000,
};

interface Lane {
  actions: readonly OperationAction[];
  /** Whether an end must survive a power cut. A compute does not, so what is said of it need not either: it is done again. */
  durable: boolean;
  slots: number;
  active: number;
  claiming: boolean;
  /** Something may have become runnable while a claim was under way. */
  again: boolean;
}

/** How long a claimed operation had waited, and what claiming it took. */
interface ClaimTimes {
  queueMs: number;
  claimMs: number;
}

interface Running {
  operation: ClaimedOperation;
  abort: AbortController;
  done: Promise<void>;
}

const UNKNOWN_ERROR = 'internal error; the log of Ballast has the details';

export class Runner {
  readonly #options: RunnerOptions;
  readonly #limits: RunnerLimits;
  readonly #owner: string;
  readonly #lanes: Lane[];
  readonly #running = new Map<string, Running>();
  #accepting = false;
  #pollTimer: NodeJS.Timeout | undefined;
  #renewTimer: NodeJS.Timeout | undefined;
  #listener: { close(): Promise<void> } | undefined;
  #unreachable = false;

  constructor(options: RunnerOptions) {
    this.#options = options;
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#owner = `${options.nodeId}/${newUuid()}`;
    this.#lanes = [
      lane(
        ['start_compute', 'suspend_compute', 'apply_config', 'sync_dbs_and_roles_from_compute'],
        this.#limits.computeSlots,
        false,
      ),
      lane(
        ['create_timeline', 'create_branch', 'apply_schema_from_branch', 'delete_timeline'],
        this.#limits.timelineSlots,
        true,
      ),
    ];
  }

  /** Takes over what an earlier process of this node left and begins to work. */
  async start(): Promise<void> {
    const { catalog, queue, nodeId } = this.#options;
    await takeOverLeases(catalog, nodeId, this.#owner);
    this.#accepting = true;
    queue.onPoke(() => this.#fill());
    this.#listener = catalog.listen(OPERATIONS_CHANNEL, (sender) => {
      if (sender !== queue.sender) this.#fill();
    });
    this.#pollTimer = setInterval(() => this.#fill(), this.#limits.pollMs);
    this.#renewTimer = setInterval(() => void this.#renew(), this.#limits.leaseMs / 3);
    this.#fill();
  }

  /** Claims nothing more and waits for what runs; after `graceMs` that is aborted and given back. */
  async drain(graceMs: number): Promise<void> {
    this.#accepting = false;
    clearInterval(this.#pollTimer);
    const all = (): Promise<unknown> => Promise.all([...this.#running.values()].map((running) => running.done));
    if (!(await settlesWithin(all(), graceMs))) {
      for (const running of this.#running.values()) running.abort.abort(new Error('Ballast is shutting down'));
      await settlesWithin(all(), 5_000);
    }
    clearInterval(this.#renewTimer);
    await this.#listener?.close();
    await releaseOperations(this.#options.catalog, this.#owner).catch(() => undefined);
  }

  /** True while nothing runs here. */
  get idle(): boolean {
    return this.#running.size === 0;
  }

  #fill(): void {
    for (const one of this.#lanes) void this.#fillLane(one);
  }

  async #fillLane(one: Lane): Promise<void> {
    if (one.claiming) {
      one.again = true;
      return;
    }
    one.claiming = true;
    try {
      do {
        one.again = false;
        await this.#claim(one);
      } while (one.again);
    } finally {
      one.claiming = false;
    }
  }

  async #claim(one: Lane): Promise<void> {
    const limit = one.slots - one.active;
    if (!this.#accepting || limit <= 0) return;
    const { catalog, nodeId, logger } = this.#options;
    const askedMs = performance.now();
    try {
      const claimed = await claimOperations(catalog, {
        owner: this.#owner,
        leaseMs: this.#limits.leaseMs,
        nodeId,
        actions: one.actions,
        limit,
      });
      this.#unreachable = false;
      const claimMs = performance.now() - askedMs;
      for (const operation of claimed) this.#begin(one, operation, claimMs);
    } catch (error) {
      // The next poll tries again; one line in the log is enough.
      if (!this.#unreachable) logger.warn({ err: error }, 'operations cannot be claimed');
      this.#unreachable = true;
    }
  }

  #begin(one: Lane, operation: ClaimedOperation, claimMs: number): void {
    // Its lease ran out while the catalog was away and we claimed our own work again: the first run goes on.
    if (this.#running.has(operation.id)) return;
    one.active += 1;
    const abort = new AbortController();
    const done = this.#work(operation, abort.signal, { queueMs: queueMs(operation), claimMs })
      .catch((error: unknown) =>
        this.#options.logger.error({ err: error, operation: operation.id }, 'an operation was left to the next runner'),
      )
      .finally(() => {
        one.active -= 1;
        this.#running.delete(operation.id);
        this.#fill();
      });
    this.#running.set(operation.id, { operation, abort, done });
  }

  async #work(operation: ClaimedOperation, signal: AbortSignal, times: ClaimTimes): Promise<void> {
    const { actions, logger } = this.#options;
    const log = logger.child({
      operation: operation.id,
      action: operation.action,
      branch: operation.branchId,
      endpoint: operation.endpointId,
    });
    if (isObsolete(operation)) return this.#end(operation, { skip: true }, 'skipped', null, signal);
    const begunMs = performance.now();
    const ended = (status: OperationStatus, outcome?: Outcome): void => {
      const durationMs = Math.round(performance.now() - begunMs);
      const own = outcome?.phases;
      const phases = own ? { queue: times.queueMs, claim: times.claimMs, ...own } : {};
      this.#options.observe?.({ action: operation.action, status, durationMs, phases });
      if (own) log.info({ durationMs, phases: rounded(phases) }, 'operation ended');
      else log.debug({ durationMs }, 'operation ended');
    };
    try {
      const outcome = await actions[operation.action].run(operation, signal);
      const status = outcome?.skip ? 'skipped' : 'finished';
      await this.#end(operation, outcome, status, null, signal);
      ended(status, outcome);
    } catch (error) {
      if (signal.aborted) return void log.info('gave an operation back');
      if (await this.#failed(operation, error, signal, log)) ended('failed');
    }
  }

  /** True when it was given up, false when it is tried again. */
  async #failed(operation: ClaimedOperation, error: unknown, signal: AbortSignal, log: Logger): Promise<boolean> {
    const text = isAppError(error) ? error.message : UNKNOWN_ERROR;
    const internal = isAppError(error) ? error.internal : undefined;
    const final = isAppError(error) && error.kind !== 'unavailable' && error.kind !== 'internal';
    const failures = operation.failuresCount + 1;
    log.warn({ err: error, internal, failures }, 'operation failed');
    if (!final && failures < this.#limits.tries) {
      const delayMs = this.#retryDelayMs(failures);
      await this.#persist(
        () => retryOperation(this.#options.catalog, { id: operation.id, owner: this.#owner, error: text, delayMs }),
        signal,
      );
      setTimeout(() => this.#fill(), delayMs + 1).unref();
      return false;
    }
    try {
      const undone = await this.#options.actions[operation.action].undo(operation);
      await this.#end(operation, undone, 'failed', text, signal);
    } catch (undoError) {
      // The reconcilers put right what is left; the operation must not stay open for it.
      log.error({ err: undoError }, 'an operation could not be undone');
      await this.#end(operation, undefined, 'failed', text, signal);
    }
    return true;
  }

  #retryDelayMs(failures: number): number {
    const fullMs = Math.min(this.#limits.retryMaxMs, this.#limits.retryBaseMs * 3 ** (failures - 1));
    return Math.round(fullMs * (1 - Math.random() / 4));
  }

  async #end(
    operation: OperationRow,
    outcome: Outcome,
    status: OperationStatus,
    error: string | null,
    signal: AbortSignal,
  ): Promise<void> {
    const { durable } = this.#lanes.find((one) => one.actions.includes(operation.action))!;
    const end = { id: operation.id, owner: this.#owner, status, error, failed: status === 'failed' };
    const row = await this.#persist(
      () =>
        this.#options.catalog.transaction(
          async (tx) => {
            await outcome?.transition?.(tx);
            const ended = await endOperation(tx, end);
            if (!ended) throw new LostLease();
            return ended;
          },
          { durable },
        ),
      signal,
    );
    if (!row) return;
    this.#options.onEnded?.(row);
    this.#options.queue.settle(row);
  }

  /** The work is done, so its record is worth waiting for while the catalog is away. Undefined: the lease was lost. */
  async #persist<T>(write: () => Promise<T>, signal: AbortSignal): Promise<T | undefined> {
    const deadlineMs = performance.now() + 4 * this.#limits.leaseMs;
    for (;;) {
      try {
        return await write();
      } catch (error) {
        if (error instanceof LostLease) return undefined;
        if (!isAppError(error, 'unavailable') || signal.aborted || performance.now() > deadlineMs) throw error;
        await new Promise((resolve) => setTimeout(resolve, 250));
      }
    }
  }

  async #renew(): Promise<void> {
    if (this.#running.size === 0) return;
    const before = [...this.#running.values()];
    let held: Set<string>;
    try {
      held = new Set(await renewLeases(this.#options.catalog, this.#owner, this.#limits.leaseMs));
    } catch {
      return;
    }
    for (const { operation, abort } of before) {
      // One that ended while we asked is not in #running any more.
      if (!held.has(operation.id) && this.#running.has(operation.id)) abort.abort(new LostLease());
    }
  }
}

class LostLease extends Error {
  override message = 'the lease was lost to another runner';
}

/** By the catalog's clock; a retry waits because it has to. */
function queueMs({ failuresCount, createdAt, startedAt }: ClaimedOperation): number {
  return failuresCount > 0 || startedAt === null ? 0 : Math.max(0, Date.parse(startedAt) - Date.parse(createdAt));
}

function rounded(phases: Readonly<Record<string, number>>): Record<string, number> {
  return Object.fromEntries(Object.entries(phases).map(([phase, ms]) => [phase, Math.round(ms * 10) / 10]));
}

function lane(actions: readonly OperationAction[], slots: number, durable: boolean): Lane {
  return { actions, durable, slots, active: 0, claiming: false, again: false };
}

/** What it would work on is deleted; only what deletes still makes sense. */
function isObsolete(operation: ClaimedOperation): boolean {
  if (operation.action === 'delete_timeline' || operation.action === 'suspend_compute') return false;
  // A snapshot outlives its source, whose data is removed by a later operation if at all.
  if (operation.payload['snapshotId'] !== undefined) return false;
  return operation.branchDeleted || operation.endpointDeleted;
}

async function settlesWithin(work: Promise<unknown>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<false>((resolve) => (timer = setTimeout(() => resolve(false), ms)));
  const settled = await Promise.race([work.then(() => true as const), late]);
  clearTimeout(timer);
  return settled;
}
