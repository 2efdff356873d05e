/**
 * How many bytes of large requests and answers are held at once, in all. Who would hold more waits for others to be done, in
 * the order of coming; meanwhile nothing is read from where the bytes come from.
 */
import { Refusal } from '../refusal.ts';
import type { Departure } from './departure.ts';

export interface ByteBudget {
  /**
   * Resolves with how to give the bytes back (again is harmless). Rejects with Refusal when it takes too long, or when
   * the client is gone. More than there are in all is all there are.
   */
  reserve(bytes: number, departure: Pick<Departure, 'whenGone' | 'reason'>): Promise<() => void>;
  /** Given out now. */
  readonly usedBytes: number;
}

/** Requests and answers that are no larger are not counted. */
export const SMALL_BYTES = 16 * 1024;

/**
 * Two of them, because those who have been read wait for sessions, and sessions wait for their answers to be taken:
 * with one, each could wait for the other.
 */
export interface ByteBudgets {
  requests: ByteBudget;
  answers: ByteBudget;
}

/** What one request holds: first for its body, then for its answer instead. */
export interface Share {
  /** Rejects as reserve does. */
  hold(what: keyof ByteBudgets, bytes: number): Promise<void>;
  release(): void;
}

export function createShare(budgets: ByteBudgets, departure: Departure): Share {
  let release: () => void = () => undefined;
  return {
    async hold(what, bytes) {
      release();
      release = await budgets[what].reserve(bytes, departure);
    },
    release: () => release(),
  };
}

interface Waiter {
  bytes: number;
  enter(): void;
}

export function createByteBudget({ maxBytes, waitMs }: { maxBytes: number; waitMs: number }): ByteBudget {
  const waiting: Waiter[] = [];
  let usedBytes = 0;
  const serve = () => {
    while (waiting.length > 0 && usedBytes + waiting[0]!.bytes <= maxBytes) waiting.shift()!.enter();
  };
  const take = (bytes: number): (() => void) => {
    usedBytes += bytes;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      usedBytes -= bytes;
      serve();
    };
  };
  return {
    reserve(asked, departure) {
      const bytes = Math.min(asked, maxBytes);
      if (waiting.length === 0 && usedBytes + bytes <= maxBytes) return Promise.resolve(take(bytes));
      return new Promise((resolve, reject) => {
        let stopListening: () => void = () => undefined;
        const settle = () => {
          clearTimeout(timer);
          stopListening();
        };
        const waiter: Waiter = {
          bytes,
          enter: () => {
            settle();
            resolve(take(bytes));
          },
        };
        const leave = (error: Error) => {
          settle();
          const at = waiting.indexOf(waiter);
          if (at >= 0) waiting.splice(at, 1);
          reject(error);
          // Whoever was behind may be smaller.
          serve();
        };
        waiting.push(waiter);
        const timer = setTimeout(() => leave(tooManyLarge()), waitMs);
        stopListening = departure.whenGone(() => leave(departure.reason()));
      });
    },
    get usedBytes() {
      return usedBytes;
    },
  };
}

const tooManyLarge = () =>
  new Refusal('Too many large requests are under way. Please try again later.', { serverSide: true });
