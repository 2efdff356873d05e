import { expect, test } from 'vitest';
import { createLoginFailures } from './login-failures.ts';

function failures() {
  let now = 0;
  const { note } = createLoginFailures({ freeLoginFailures: 3, maxFailureDelayMs: 100 }, () => now);
  const times = (count: number, address: (i: number) => string, role = 'me', endpoint = 'ep-a') => {
    let last = 0;
    for (let i = 0; i < count; i += 1) last = note(address(i), endpoint, role);
    return last;
  };
  return { note, times, pass: (ms: number) => (now += ms) };
}

test('the first failures of an address are answered at once, later ones ever later, up to a limit', () => {
  const { times, note, pass } = failures();
  expect(times(3, () => '192.0.2.1')).toBe(0);
  expect(note('192.0.2.1', 'ep-a', 'me')).toBe(20);
  expect(times(50, () => '192.0.2.1')).toBe(100);
  expect(note('192.0.2.2', 'ep-a', 'you')).toBe(0);
  expect(note('192.0.2.1', 'ep-b', 'me')).toBe(0);
  pass(60_000);
  expect(note('192.0.2.1', 'ep-a', 'me')).toBe(0);
});

test('a role that is tried from everywhere is answered later too', () => {
  const { times, note } = failures();
  expect(times(30, (i) => `192.0.2.${i}`)).toBe(0);
  expect(note('198.51.100.1', 'ep-a', 'me')).toBe(20);
  expect(note('198.51.100.2', 'ep-a', 'you')).toBe(0);
  expect(note('198.51.100.3', 'ep-b', 'me')).toBe(0);
});

test('a network of IPv6 is one address', () => {
  const { times } = failures();
  expect(times(4, (i) => `2001:db8::${i}`)).toBe(20);
  expect(times(4, (i) => `2001:db8:0:${i + 1}::1`, 'you')).toBe(0);
});

test('what it remembers is bounded', () => {
  const { note, times } = failures();
  times(4, () => '192.0.2.1');
  for (let i = 0; i < 10_000; i += 1) note(`10.0.${i >> 8}.${i & 255}`, 'ep-a', `role ${i}`);
  expect(note('192.0.2.1', 'ep-a', 'me')).toBe(0);
});
