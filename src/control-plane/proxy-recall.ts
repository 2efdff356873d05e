/**
 * A bounded memory of answers of the catalog: fresh for a short time, dropped by group (a project) when something
 * changes, and still good enough when the catalog cannot be reached.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isAppError } from '../lib/errors.ts';
import { SingleFlight } from '../lib/single-flight.ts';

export interface Answer<T> {
  value: T;
  /** What `invalidate` names; undefined: any change may make it old. */
  group: string | undefined;
}

export interface Recall<T> {
  /** Throws what `ask` throws, unless the catalog is away and an old answer is known. */
  get(key: string, ask: () => Promise<Answer<T>>): Promise<T>;
  invalidate(group: string): void;
}

interface Entry<T> extends Answer<T> {
  freshUntilMs: number;
}

const FRESH_MS = 2_000;
/** A catalog that takes longer is as good as away for whoever is known. */
const PATIENCE_MS = 1_000;
const MAX_ENTRIES = 10_000;

export function createRecall<T>(
  options: { freshMs?: number; maxEntries?: number; patienceMs?: number } = {},
): Recall<T> {
  const freshMs = options.freshMs ?? FRESH_MS;
  const patienceMs = options.patienceMs ?? PATIENCE_MS;
  const maxEntries = options.maxEntries ?? MAX_ENTRIES;
  const entries = new Map<string, Entry<T>>();
  const flights = new SingleFlight<T>();
  // Counts invalidations: an answer that was asked for before one may be of the time before it.
  let epoch = 0;

  const remember = (key: string, answer: Answer<T>, asked: { epoch: number; atMs: number }): void => {
    entries.delete(key);
    if (entries.size >= maxEntries) entries.delete(entries.keys().next().value!);
    entries.set(key, { ...answer, freshUntilMs: asked.epoch === epoch ? asked.atMs + freshMs : 0 });
  };
  return {
    get: (key, ask) => {
      const known = entries.get(key);
      if (known && known.freshUntilMs > performance.now()) return Promise.resolve(known.value);
      return flights.run(`${epoch} ${key}`, async () => {
        const asked = { epoch, atMs: performance.now() };
        const asking = ask().then((answer) => {
          remember(key, answer, asked);
          return answer.value;
        });
        const old = entries.get(key);
        if (!old) return asking;
        const patience = sleep(patienceMs, old.value, { ref: false });
        try {
          return await Promise.race([asking, patience]);
        } catch (error) {
          if (isAppError(error, 'unavailable')) return old.value;
          throw error;
        } finally {
          // Its late answer is remembered, its late failure is nobody's.
          asking.catch(() => undefined);
        }
      });
    },
    invalidate: (group) => {
      epoch += 1;
      for (const entry of entries.values()) {
        // What was not to be found belongs to nobody, and may be there now: a project that was had back, for one.
        if (entry.group === group || entry.group === undefined) entry.freshUntilMs = 0;
      }
    },
  };
}
