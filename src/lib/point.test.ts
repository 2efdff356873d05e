import { expect, test } from 'vitest';
import { parseTime, timeToMs } from './point.ts';

test.each([
  ['2026-01-16T21:02:04Z', '2026-01-16T21:02:04.000000Z'],
  ['2026-01-16T21:02:04.2148371Z', '2026-01-16T21:02:04.214837Z'],
  ['2026-01-16T22:02:04.5+01:00', '2026-01-16T21:02:04.500000Z'],
  ['2026-01-16 22:02:04+0100', '2026-01-16T21:02:04.000000Z'],
  ['2026-01-16t21:02:04.1z', '2026-01-16T21:02:04.100000Z'],
  ['2026-01-16 21:02:04-03', '2026-01-17T00:02:04.000000Z'],
  ['2026-01-16T21:02:04', undefined],
  ['2026-02-30T21:02:04Z', undefined],
  ['2026-01-16T25:02:04Z', undefined],
  ['yesterday', undefined],
  ['', undefined],
])('%s', (text, expected) => {
  expect(parseTime(text)).toBe(expected);
});

test('milliseconds are cut, not rounded', () => {
  expect(timeToMs('2026-01-16T21:02:04.999999Z')).toBe(Date.UTC(2026, 0, 16, 21, 2, 4, 999));
});
