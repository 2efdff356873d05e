/**
 * The queue as its users see it: append inside a transaction, poke after the commit, wait for an end.
 *
 * In this process a poke and an end are plain calls, so that nothing waits for a poll. Runners of other processes hear
 * of appended operations by NOTIFY; ends that happen elsewhere are found by asking once a second.
 */
import { insertOperations, insertStart, readOperations } from '../catalog/operations.ts';
import type { OperationRow, OperationStatus, Queryable } from '../catalog/types.ts';
import { newUuid } from '../lib/ids.ts';
import type { NewOperation, OperationQueue } from './types.ts';

/** What the runner needs beside the public part. */
export interface RunnerQueue extends OperationQueue {
  /** Names this process in notifications, so that it can ignore its own. */
  readonly sender: string;
  /** `listener` is called for each poke, synchronously. */
  onPoke(listener: () => void): void;
  /** Tells those who wait in this process. */
  settle(row: OperationRow): void;
  close(): void;
}

const POLL_MS = 1_000;
const ENDED: ReadonlySet<OperationStatus> = new Set(['finished', 'failed', 'error', 'cancelled', 'skipped']);

export function hasEnded(row: OperationRow): boolean {
  return ENDED.has(row.status);
}

export function createQueue(options: { catalog: Queryable }): RunnerQueue {
  const sender = newUuid();
  const listeners: (() => void)[] = [];
  const waiters = new Map<string, Set<(row: OperationRow) => void>>();
  let timer: NodeJS.Timeout | undefined;

  const settle = (row: OperationRow): void => {
    const waiting = waiters.get(row.id);
    waiters.delete(row.id);
    for (const resolve of waiting ?? []) resolve(row);
  };
  const check = async (ids: readonly string[]): Promise<void> => {
    // A catalog that cannot be reached now is asked again at the next poll.
    const rows = await readOperations(options.catalog, ids).catch((): OperationRow[] => []);
    for (const row of rows) if (hasEnded(row)) settle(row);
  };
  const poll = async (): Promise<void> => {
    await check([...waiters.keys()]);
    timer = waiters.size > 0 ? setTimeout(() => void poll(), POLL_MS) : undefined;
  };

  return {
    sender,
    append: async (tx, operations) => {
      if (operations.length === 0) return [];
      return insertOperations(tx, operations.map(toInsert), sender);
    },
    appendStart: (db, endpointId) => insertStart(db, { id: newUuid(), endpointId, sender }),
    poke: () => {
      for (const listener of listeners) listener();
    },
    onPoke: (listener) => void listeners.push(listener),
    settle,
    ended: (id, signal) =>
      new Promise((resolve, reject) => {
        if (signal.aborted) return void reject(signal.reason as Error);
        const waiting = waiters.get(id) ?? new Set();
        waiters.set(id, waiting);
        const done = (row: OperationRow): void => {
          signal.removeEventListener('abort', abort);
          resolve(row);
        };
        const abort = (): void => {
          waiting.delete(done);
          if (waiting.size === 0 && waiters.get(id) === waiting) waiters.delete(id);
          reject(signal.reason as Error);
        };
        waiting.add(done);
        signal.addEventListener('abort', abort, { once: true });
        // It may have ended before we began to wait.
        void check([id]);
        timer ??= setTimeout(() => void poll(), POLL_MS);
      }),
    close: () => clearTimeout(timer),
  };
}

function toInsert(operation: NewOperation) {
  return {
    id: newUuid(),
    projectId: operation.projectId,
    branchId: operation.branchId,
    endpointId: operation.endpointId ?? null,
    action: operation.action,
    payload: operation.payload ?? {},
  };
}
