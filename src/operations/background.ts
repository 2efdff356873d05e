/**
 * Work that follows an operation and that nobody waits for: few at a time, one per key, and only so many in line.
 * What does not fit is dropped; whatever is put here must be as well if it never ran.
 */
import type { Logger } from '../lib/log.ts';

export interface Background {
  run(key: string, work: () => Promise<void>, options?: { delayMs?: number }): void;
  /** Drops what waits and resolves when what runs has ended. */
  close(): Promise<void>;
}

export function createBackground(options: { logger: Logger; slots?: number; maxWaiting?: number }): Background {
  const slots = options.slots ?? 2;
  const maxWaiting = options.maxWaiting ?? 1_000;
  const waiting = new Map<string, () => Promise<void>>();
  const running = new Map<string, Promise<void>>();
  const delayed = new Map<string, NodeJS.Timeout>();
  let closed = false;

  const advance = (): void => {
    for (const [key, work] of waiting) {
      if (running.size >= slots) return;
      if (running.has(key)) continue;
      waiting.delete(key);
      const done = work()
        .catch((error: unknown) => options.logger.warn({ err: error, work: key }, 'background work failed'))
        .finally(() => {
          running.delete(key);
          advance();
        });
      running.set(key, done);
    }
  };
  return {
    run: (key, work, { delayMs = 0 } = {}) => {
      if (closed || (waiting.size + delayed.size >= maxWaiting && !waiting.has(key) && !delayed.has(key))) return;
      clearTimeout(delayed.get(key));
      delayed.delete(key);
      const begin = (): void => {
        delayed.delete(key);
        waiting.set(key, work);
        advance();
      };
      if (delayMs === 0) begin();
      else delayed.set(key, setTimeout(begin, delayMs));
    },
    close: async () => {
      closed = true;
      for (const timer of delayed.values()) clearTimeout(timer);
      delayed.clear();
      waiting.clear();
      await Promise.all(running.values());
    },
  };
}
