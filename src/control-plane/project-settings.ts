/**
 * `settings` of a project: checks what was asked for and lays it over what is there. Stored are only keys that somebody
 * set; presenting fills in the rest.
 */
import type { ProjectSettingsData } from '@neon/sdk/raw';
import { validatePreload } from './compute-settings.ts';
import type { PreloadLibraryFacts } from './context.ts';
import { invalidRequest, notImplemented, unprocessable } from './errors.ts';
import { isIpPattern } from './ip-patterns.ts';
import { LIMITS } from './limits.ts';

/** Throws 'invalid' or 'unprocessable' naming the setting. */
export function resolveProjectSettings(
  asked: ProjectSettingsData,
  present: ProjectSettingsData,
  libraries: readonly PreloadLibraryFacts[],
): ProjectSettingsData {
  if (asked.hipaa === true) throw notImplemented('settings.hipaa');
  if (asked.audit_log_level !== undefined && asked.audit_log_level !== 'base') {
    throw notImplemented(`settings.audit_log_level "${asked.audit_log_level}"`);
  }
  if (present.enable_logical_replication === true && asked.enable_logical_replication === false) {
    throw unprocessable('logical replication cannot be disabled once it is enabled');
  }
  for (const pattern of asked.allowed_ips?.ips ?? []) {
    if (!isIpPattern(pattern)) {
      throw invalidRequest('allowed_ips must be addresses, networks or ranges', { value: pattern.slice(0, 100) });
    }
  }
  if ((asked.allowed_ips?.ips?.length ?? 0) > LIMITS.allowedIps) {
    throw invalidRequest('too many allowed_ips', { max: LIMITS.allowedIps });
  }
  if (asked.maintenance_window) checkMaintenanceWindow(asked.maintenance_window);
  const { hipaa: _, ...rest } = asked;
  return {
    ...present,
    ...rest,
    ...(asked.quota && { quota: { ...present.quota, ...asked.quota } }),
    ...(asked.allowed_ips && { allowed_ips: { ...present.allowed_ips, ...asked.allowed_ips } }),
    ...(asked.preload_libraries && { preload_libraries: validatePreload(asked.preload_libraries, libraries) }),
  };
}

function checkMaintenanceWindow(window: NonNullable<ProjectSettingsData['maintenance_window']>): void {
  const days = window.weekdays;
  if (days.length === 0 || days.some((day) => !Number.isInteger(day) || day < 1 || day > 7)) {
    throw invalidRequest('maintenance_window.weekdays must be numbers from 1 (Monday) to 7');
  }
  for (const time of [window.start_time, window.end_time]) {
    if (!/^([01]\d|2[0-3]):[0-5]\d$/.test(time)) {
      throw invalidRequest('maintenance_window times must be HH:MM', { value: time.slice(0, 20) });
    }
  }
}
