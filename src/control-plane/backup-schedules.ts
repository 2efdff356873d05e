/**
 * Backup schedules of root branches. reconcilers/backup-schedules.ts takes the snapshots.
 */
import type { BackupSchedule, BackupScheduleItem, SetSnapshotScheduleResponses } from '@neon/sdk/raw';
import { findBackupSchedule, putBackupSchedule } from '../catalog/backup-schedules.ts';
import type { JsonObject } from '../catalog/types.ts';
import { FREQUENCIES } from '../lib/schedule.ts';
import type { Caller } from './caller.ts';
import { changeProject, readProject, type Context } from './context.ts';
import { invalidRequest } from './errors.ts';
import { LIMITS } from './limits.ts';
import { branchOf } from './points.ts';
import { assertRoot } from './snapshots.ts';

export interface BackupSchedules {
  get(caller: Caller, projectId: string, branchId: string): Promise<BackupSchedule>;
  set(
    caller: Caller,
    projectId: string,
    branchId: string,
    body: BackupSchedule,
  ): Promise<SetSnapshotScheduleResponses[200]>;
}

export function createBackupSchedules(context: Context): BackupSchedules {
  return {
    get: async (caller, projectId, branchId) => {
      await readProject(context, caller, projectId);
      await branchOf(context.catalog, projectId, branchId);
      const row = await findBackupSchedule(context.catalog, branchId);
      return { schedule: (row?.schedule ?? []) as unknown as BackupScheduleItem[] };
    },
    set: async (caller, projectId, branchId, body) => {
      const items = body.schedule.map(validateItem);
      if (items.length > LIMITS.backupScheduleItems) {
        throw invalidRequest('a backup schedule has too many entries', { max: LIMITS.backupScheduleItems });
      }
      return changeProject(context, caller, projectId, async (tx) => {
        assertRoot(await branchOf(tx, projectId, branchId));
        await putBackupSchedule(tx, { branchId, projectId, items, now: context.now().toISOString() });
        return {};
      });
    },
  };
}

/** As it is kept and answered: the fields that its frequency has, and no others. */
function validateItem(item: BackupScheduleItem): JsonObject {
  const { frequency, hour, day, month, retention_seconds: retention } = item;
  if (!(FREQUENCIES as readonly string[]).includes(frequency)) {
    throw invalidRequest(`frequency must be one of ${FREQUENCIES.join(', ')}`, { frequency: frequency.slice(0, 100) });
  }
  if (frequency === 'weekly' && day !== undefined && day > 7) {
    throw invalidRequest('day of a weekly backup must be 1 (Monday) to 7', { day });
  }
  const hasDay = frequency === 'weekly' || frequency === 'monthly' || frequency === 'yearly';
  return {
    frequency,
    ...(frequency !== 'hourly' && hour !== undefined && { hour }),
    ...(hasDay && day !== undefined && { day }),
    ...(frequency === 'yearly' && month !== undefined && { month }),
    ...(retention !== undefined && { retention_seconds: retention }),
  };
}
