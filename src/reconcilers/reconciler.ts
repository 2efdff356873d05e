/**
 * A reconciler looks at the world and records what should be done about it. It runs periodically, takes no input, and
 * never overlaps itself; a run that fails is logged, and the next one looks again.
 */
import type { Logger } from '../lib/log.ts';

export interface Reconciler {
  name: string;
  everyMs: number;
  run(): Promise<void>;
}

/** Starts all; the result stops them and waits for the runs that are under way. */
export function startReconcilers(reconcilers: readonly Reconciler[], logger: Logger): { stop(): Promise<void> } {
  let stopped = false;
  const timers = new Map<string, NodeJS.Timeout>();
  const runs = new Map<string, Promise<void>>();
  const schedule = (reconciler: Reconciler): void => {
    if (stopped) return;
    timers.set(
      reconciler.name,
      setTimeout(() => {
        const done = reconciler
          .run()
          .catch((error: unknown) => logger.warn({ err: error, reconciler: reconciler.name }, 'a reconciler failed'))
          .finally(() => schedule(reconciler));
        runs.set(reconciler.name, done);
      }, reconciler.everyMs),
    );
  };
  for (const reconciler of reconcilers) schedule(reconciler);
  return {
    stop: async () => {
      stopped = true;
      for (const timer of timers.values()) clearTimeout(timer);
      await Promise.all(runs.values());
    },
  };
}
