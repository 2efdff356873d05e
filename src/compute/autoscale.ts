/**
 * How large a compute should be from now on: a pure function of its size, its load, and its limits.
 *
 * It grows at once, to what the load needs and some room. A compute that its own limit holds back shows no more load than
 * that limit, so it doubles. It shrinks when it has needed less for a whole window, to the most that it needed in that
 * window and the one before, and by half at most: what comes every minute finds it large enough.
 */
import { CU_STEP, sizeFor } from './sizes.ts';

export interface Bounds {
  minCu: number;
  maxCu: number;
}

export interface Load {
  /** Used on average since the last time. */
  processors: number;
  /** It wanted more than its limit. */
  heldBack: boolean;
  /** What it works on: not what merely lies in the cache. */
  memoryBytes: number;
}

export interface Scale {
  /** The size now. */
  cu: number;
  /** The most that was needed in this window, and in the one before it. */
  peakCu: number;
  formerPeakCu: number;
  /** How long this window has lasted. */
  windowMs: number;
}

export const WINDOW_MS = 30_000;
/** Of what a size has, the share that may be in use before a larger one is due. */
const FULL = 0.75;

/** A compute starts small; `cu` is for one that runs already. */
export function firstScale(bounds: Bounds, cu = bounds.minCu): Scale {
  const size = within(cu, bounds);
  return { cu: size, peakCu: size, formerPeakCu: size, windowMs: 0 };
}

/** Limits may have changed since the last time. */
export function nextScale(scale: Scale, load: Load, elapsedMs: number, bounds: Bounds): Scale {
  const present = within(scale.cu, bounds);
  const needed = within(neededCu(present, load), bounds);
  const peakCu = Math.max(needed, within(scale.peakCu, bounds));
  const windowMs = scale.windowMs + elapsedMs;
  if (windowMs < WINDOW_MS) {
    return { cu: Math.max(present, needed), peakCu, formerPeakCu: scale.formerPeakCu, windowMs };
  }
  const wanted = Math.max(peakCu, within(scale.formerPeakCu, bounds));
  const cu = Math.max(wanted, toStep(present / 2));
  return {
    cu: within(Math.min(cu, Math.max(present, needed)), bounds),
    peakCu: needed,
    formerPeakCu: peakCu,
    windowMs: 0,
  };
}

function neededCu(present: number, { processors, heldBack, memoryBytes }: Load): number {
  const byUse = sizeFor({ processors: processors / FULL, memoryBytes: memoryBytes / FULL });
  return heldBack ? Math.max(byUse, 2 * present) : byUse;
}

function toStep(cu: number): number {
  return Math.ceil(cu / CU_STEP) * CU_STEP;
}

function within(cu: number, { minCu, maxCu }: Bounds): number {
  return Math.min(maxCu, Math.max(minCu, cu));
}
