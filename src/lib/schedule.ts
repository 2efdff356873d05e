/**
 * Times that come again and again, in UTC.
 */
export type Frequency = 'hourly' | 'daily' | 'weekly' | 'monthly' | 'yearly';

export const FREQUENCIES: readonly Frequency[] = ['hourly', 'daily', 'weekly', 'monthly', 'yearly'];

export interface Recurrence {
  frequency: Frequency;
  /** 0 to 23; of everything but `hourly`. */
  hour?: number;
  /** Of a week: 1 (Monday) to 7. Of a month: 1 to 31, in a shorter month its last day. */
  day?: number;
  /** 1 to 12. */
  month?: number;
}

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** The last time at or before `nowMs`. */
export function lastOccurrence(recurrence: Recurrence, nowMs: number): number {
  const { frequency, hour = 0, day = 1, month = 1 } = recurrence;
  const now = new Date(nowMs);
  const year = now.getUTCFullYear();
  switch (frequency) {
    case 'hourly':
      return Math.floor(nowMs / HOUR_MS) * HOUR_MS;
    case 'daily': {
      const today = Math.floor(nowMs / DAY_MS) * DAY_MS + hour * HOUR_MS;
      return today <= nowMs ? today : today - DAY_MS;
    }
    case 'weekly': {
      // Sunday is 0 for JavaScript and 7 here.
      const daysSince = (now.getUTCDay() - day + 7) % 7;
      const last = (Math.floor(nowMs / DAY_MS) - daysSince) * DAY_MS + hour * HOUR_MS;
      return last <= nowMs ? last : last - 7 * DAY_MS;
    }
    case 'monthly': {
      const last = dayOfMonth(year, now.getUTCMonth(), day, hour);
      return last <= nowMs ? last : dayOfMonth(year, now.getUTCMonth() - 1, day, hour);
    }
    case 'yearly': {
      const last = dayOfMonth(year, month - 1, day, hour);
      return last <= nowMs ? last : dayOfMonth(year - 1, month - 1, day, hour);
    }
  }
}

function dayOfMonth(year: number, month: number, day: number, hour: number): number {
  const lastDay = new Date(Date.UTC(year, month + 1, 0)).getUTCDate();
  return Date.UTC(year, month, Math.min(day, lastDay), hour);
}
