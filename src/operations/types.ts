/**
 * Operations: the public rows are the queue. A request appends them in its own transaction; the runner does the work.
 */
import type { JsonObject, OperationAction, OperationRow, OperationStatus, Queryable } from '../catalog/types.ts';

export interface NewOperation {
  projectId: string;
  branchId: string;
  endpointId?: string;
  action: OperationAction;
  /** `suspend_compute` knows `idleOnly: true`: skip it when clients are active by then. */
  payload?: JsonObject;
}

/** Made by operations/queue.ts; the control plane knows this and no more. */
export interface OperationQueue {
  /**
   * Appends in order, inside the caller's transaction. The first of a branch with nothing before it is answered as
   * `running`, the rest as `scheduling`, as clients expect.
   */
  append(tx: Queryable, operations: readonly NewOperation[]): Promise<OperationRow[]>;
  /**
   * Appends the start of a sleeping endpoint on whose branch nothing is under way, in a transaction of its own.
   * Answers the operation's id; undefined, and nothing done, when it is not that simple.
   */
  appendStart(db: Queryable, endpointId: string): Promise<string | undefined>;
  /** Tell the runner that a transaction with new operations has committed. Cheap, never throws. */
  poke(): void;
  /** Resolves when the operation has ended, with its final row. Rejects when the signal aborts. */
  ended(operationId: string, signal: AbortSignal): Promise<OperationRow>;
}

/** Rows that change together with the operation's end, in one transaction. May run more than once. */
export type Transition = (tx: Queryable) => Promise<void>;

/** What a run came to: `skip` ends the operation as skipped, `phases` are the milliseconds that its parts took. */
export type Outcome = { transition?: Transition; skip?: true; phases?: Readonly<Record<string, number>> } | void;

/** The end of an operation on this node, for whoever keeps figures. */
export interface OperationEnd {
  action: OperationAction;
  status: OperationStatus;
  /** From its claim; of the last try. */
  durationMs: number;
  /** `queue`: until it was claimed, `claim`: what claiming took; then those of the run. Empty unless the run told any. */
  phases: Readonly<Record<string, number>>;
}

/** One file per action in operations/actions/. Both functions are idempotent. */
export interface Action {
  /** Throwing an AppError of kind 'unavailable' or anything unknown retries with backoff; other AppErrors fail at once. */
  run(operation: OperationRow, signal: AbortSignal): Promise<Outcome>;
  /** After the last try: puts rows and engine into a state that the user can read and leave. */
  undo(operation: OperationRow): Promise<Outcome>;
}
