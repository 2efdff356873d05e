/**
 * How long each phase of one piece of work took, in milliseconds. A phase that comes again is added up.
 */
export interface Stopwatch {
  /** What has passed since the last lap, or the start, belongs to that phase. */
  lap(phase: string): void;
  readonly laps: Readonly<Record<string, number>>;
}

export function startStopwatch(nowMs: () => number = () => performance.now()): Stopwatch {
  const laps: Record<string, number> = {};
  let lastMs = nowMs();
  return {
    laps,
    lap: (phase) => {
      const atMs = nowMs();
      laps[phase] = (laps[phase] ?? 0) + atMs - lastMs;
      lastMs = atMs;
    },
  };
}
