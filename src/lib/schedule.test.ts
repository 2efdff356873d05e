import { describe, expect, test } from 'vitest';
import { lastOccurrence, type Recurrence } from './schedule.ts';

const last = (recurrence: Recurrence, now: string) =>
  new Date(lastOccurrence(recurrence, Date.parse(now))).toISOString().slice(0, 16);

describe('lastOccurrence', () => {
  test.each<[Recurrence, string, string]>([
    [{ frequency: 'hourly' }, '2026-03-01T10:59:59Z', '2026-03-01T10:00'],
    [{ frequency: 'hourly' }, '2026-03-01T11:00:00Z', '2026-03-01T11:00'],
    [{ frequency: 'daily', hour: 23 }, '2026-03-01T22:59:59Z', '2026-02-28T23:00'],
    [{ frequency: 'daily', hour: 23 }, '2026-03-01T23:00:00Z', '2026-03-01T23:00'],
    [{ frequency: 'daily' }, '2026-03-01T00:00:00Z', '2026-03-01T00:00'],
    // 2026-03-02 is a Monday.
    [{ frequency: 'weekly', day: 1, hour: 2 }, '2026-03-02T01:59:00Z', '2026-02-23T02:00'],
    [{ frequency: 'weekly', day: 1, hour: 2 }, '2026-03-02T02:00:00Z', '2026-03-02T02:00'],
    [{ frequency: 'weekly', day: 7 }, '2026-03-02T02:00:00Z', '2026-03-01T00:00'],
    [{ frequency: 'weekly', day: 7 }, '2026-03-01T00:00:00Z', '2026-03-01T00:00'],
    [{ frequency: 'monthly', day: 31, hour: 5 }, '2026-03-01T00:00:00Z', '2026-02-28T05:00'],
    [{ frequency: 'monthly', day: 31, hour: 5 }, '2026-03-31T05:00:00Z', '2026-03-31T05:00'],
    [{ frequency: 'monthly', day: 15 }, '2026-01-02T00:00:00Z', '2025-12-15T00:00'],
    [{ frequency: 'yearly', month: 2, day: 29 }, '2026-06-01T00:00:00Z', '2026-02-28T00:00'],
    [{ frequency: 'yearly', month: 2, day: 29 }, '2028-06-01T00:00:00Z', '2028-02-29T00:00'],
    [{ frequency: 'yearly', month: 12, day: 31, hour: 23 }, '2026-12-31T22:00:00Z', '2025-12-31T23:00'],
  ])('%o before %s', (recurrence, now, expected) => {
    expect(last(recurrence, now)).toBe(expected);
  });
});
