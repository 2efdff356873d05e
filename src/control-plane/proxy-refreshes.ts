/**
 * Limits how often something is done per key: those who ask within a second share one answer. Who needs an answer that
 * began after the question gets the next run, shared with all who came while the last one ran.
 */
interface Refresh {
  atMs: number;
  answer: Promise<boolean>;
  running: boolean;
  /** Begins when this one has ended. */
  next: Promise<boolean> | undefined;
}

export interface Refreshes {
  ask(key: string, fresh: boolean): Promise<boolean>;
}

const EVERY_MS = 1_000;
const MAX_KEPT = 10_000;

export function createRefreshes(work: (key: string) => Promise<boolean>): Refreshes {
  const refreshes = new Map<string, Refresh>();
  const begin = (key: string): Promise<boolean> => {
    refreshes.delete(key);
    if (refreshes.size >= MAX_KEPT) refreshes.delete(refreshes.keys().next().value!);
    const refresh: Refresh = { atMs: performance.now(), answer: work(key), running: true, next: undefined };
    const settled = (): void => void (refresh.running = false);
    refresh.answer.then(settled, settled);
    refreshes.set(key, refresh);
    return refresh.answer;
  };
  return {
    ask: (key, fresh) => {
      const last = refreshes.get(key);
      if (!last) return begin(key);
      if (fresh) {
        if (!last.running) return begin(key);
        return (last.next ??= last.answer.then(
          () => begin(key),
          () => begin(key),
        ));
      }
      return performance.now() - last.atMs < EVERY_MS ? last.answer : begin(key);
    },
  };
}
