/**
 * How large a compute may be and how long it stays awake. Sizes are compute units: 0.25, 0.5, every whole number to 16,
 * then every even one to 56. A compute that grows and shrinks spans at most 8 units and ends at 16.
 */
import type { DefaultEndpointSettings, EndpointSettingsData } from '@neon/sdk/raw';
import type { PreloadLibraryFacts } from './context.ts';
import { invalidRequest, notImplemented } from './errors.ts';
import { LIMITS } from './limits.ts';
import { validatePgSettings } from './pg-settings.ts';

const LARGEST_AUTOSCALING = 16;
const WIDEST_AUTOSCALING = 8;
const SHORTEST_SUSPEND_TIMEOUT_SECONDS = 60;
const LONGEST_SUSPEND_TIMEOUT_SECONDS = 604_800;

export interface ComputeSize {
  minCu: number;
  maxCu: number;
}

/**
 * The size that was asked for; an end that was not named keeps its present value where that fits, and follows the other
 * end where it does not. Throws 'invalid'.
 */
export function resolveComputeSize(
  asked: { autoscaling_limit_min_cu?: number | undefined; autoscaling_limit_max_cu?: number | undefined },
  present: ComputeSize,
): ComputeSize {
  const { autoscaling_limit_min_cu: min, autoscaling_limit_max_cu: max } = asked;
  const minCu = min ?? (max === undefined || fits(present.minCu, max) ? present.minCu : max);
  const maxCu = max ?? (min === undefined || fits(min, present.maxCu) ? present.maxCu : min);
  for (const cu of [minCu, maxCu]) {
    if (!isComputeUnit(cu)) throw invalidRequest('not a compute size', { autoscaling_limit_cu: cu });
  }
  if (!fits(minCu, maxCu)) {
    throw invalidRequest(
      `autoscaling_limit_max_cu must not be below autoscaling_limit_min_cu, nor more than ${WIDEST_AUTOSCALING} above it; ` +
        `sizes over ${LARGEST_AUTOSCALING} do not autoscale`,
      { autoscaling_limit_min_cu: minCu, autoscaling_limit_max_cu: maxCu },
    );
  }
  return { minCu, maxCu };
}

export function validateSuspendTimeout(seconds: number): number {
  const inRange = seconds >= SHORTEST_SUSPEND_TIMEOUT_SECONDS && seconds <= LONGEST_SUSPEND_TIMEOUT_SECONDS;
  if (seconds === 0 || seconds === -1 || inRange) return seconds;
  throw invalidRequest(
    `suspend_timeout_seconds must be 0 (default), -1 (never), or from ${SHORTEST_SUSPEND_TIMEOUT_SECONDS} to ${LONGEST_SUSPEND_TIMEOUT_SECONDS}`,
    { suspend_timeout_seconds: seconds },
  );
}

/** The project's defaults with what was asked for; keys that were not named keep their values. */
export function resolveDefaultEndpointSettings(
  asked: DefaultEndpointSettings,
  present: DefaultEndpointSettings,
  pgVersion: number,
): DefaultEndpointSettings {
  refusePgbouncerSettings(asked.pgbouncer_settings);
  const size = resolveComputeSize(asked, {
    minCu: present.autoscaling_limit_min_cu ?? 0.25,
    maxCu: present.autoscaling_limit_max_cu ?? 0.25,
  });
  const pgSettings = asked.pg_settings ? validatePgSettings(asked.pg_settings, pgVersion) : present.pg_settings;
  return {
    autoscaling_limit_min_cu: size.minCu,
    autoscaling_limit_max_cu: size.maxCu,
    suspend_timeout_seconds: validateSuspendTimeout(
      asked.suspend_timeout_seconds ?? present.suspend_timeout_seconds ?? 0,
    ),
    ...(pgSettings && { pg_settings: pgSettings }),
  };
}

/** An endpoint's own settings; keys that were not named keep their values. */
export function resolveEndpointSettings(
  asked: EndpointSettingsData,
  present: EndpointSettingsData,
  pgVersion: number,
): EndpointSettingsData {
  refusePgbouncerSettings(asked.pgbouncer_settings);
  if (asked.preload_libraries) {
    throw notImplemented('preload_libraries of a single endpoint (set it in the settings of the project)');
  }
  return {
    ...present,
    ...(asked.pg_settings && { pg_settings: validatePgSettings(asked.pg_settings, pgVersion) }),
  };
}

type Preload = NonNullable<EndpointSettingsData['preload_libraries']>;

export function validatePreload(asked: Preload, libraries: readonly PreloadLibraryFacts[]): Preload {
  for (const name of asked.enabled_libraries ?? []) {
    if (!libraries.some((library) => library.name === name)) {
      throw invalidRequest('this library cannot be preloaded', { library_name: name.slice(0, 100) });
    }
  }
  return {
    use_defaults: asked.use_defaults ?? true,
    enabled_libraries: [...new Set(asked.enabled_libraries ?? [])],
  };
}

function refusePgbouncerSettings(settings: Record<string, string> | undefined): void {
  if (settings && Object.keys(settings).length > 0) throw notImplemented('pgbouncer_settings');
}

function isComputeUnit(cu: number): boolean {
  if (cu === 0.25 || cu === 0.5) return true;
  if (!Number.isInteger(cu) || cu < 1 || cu > LIMITS.maxComputeUnits) return false;
  return cu <= LARGEST_AUTOSCALING || cu % 2 === 0;
}

function fits(minCu: number, maxCu: number): boolean {
  if (minCu === maxCu) return true;
  return minCu < maxCu && maxCu - minCu <= WIDEST_AUTOSCALING && maxCu <= LARGEST_AUTOSCALING;
}
