import { expect, test } from 'vitest';
import { isIpPattern } from './ip-patterns.ts';
import { validateDatabaseName, validateDisplayName, validateRoleName } from './names.ts';

test.each(['app', 'App Role', 'ü'.repeat(31), 'a"b', "o'brien", 'x'.repeat(63)])('a role may be called %s', (name) => {
  expect(validateRoleName(name)).toBe(name);
});

test.each(['pg_monitor', 'pg_x', 'neon_superuser', 'cloud_admin', 'zenith_admin', 'public', 'none'])(
  '%s is reserved for roles',
  (name) => {
    expect(() => validateRoleName(name)).toThrow(/reserved/);
  },
);

test.each(['postgres', 'template0', 'template1'])('%s is reserved for databases', (name) => {
  expect(() => validateDatabaseName(name)).toThrow(/reserved/);
});

test.each(['', 'x'.repeat(64), 'ü'.repeat(32)])('identifiers have 1 to 63 bytes: %s', (name) => {
  expect(() => validateRoleName(name)).toThrow(/bytes/);
  expect(() => validateDatabaseName(name)).toThrow(/bytes/);
});

test.each(['a\0b', 'a\nb', 'a\u007f', '\ud800'])('%j is no identifier', (name) => {
  expect(() => validateRoleName(name)).toThrow(/not valid/);
});

test('branches may be called almost anything', () => {
  for (const name of ['preview/pr-12', 'main (old)', '☃']) expect(validateDisplayName('branch', name)).toBe(name);
  for (const name of [' ', 'a\tb', 'a\0']) expect(() => validateDisplayName('branch', name)).toThrow(/not valid/);
});

test.each([
  '1.2.3.4',
  '10.0.0.0/8',
  '0.0.0.0/0',
  '10.0.0.1-10.0.0.9',
  '::1',
  '2001:db8::/32',
  '2001:db8::1-2001:db8::ff',
])('%s is an IP pattern', (pattern) => {
  expect(isIpPattern(pattern)).toBe(true);
});

test.each([
  '',
  'localhost',
  '1.2.3',
  '1.2.3.4/33',
  '::/129',
  '10.0.0.9-10.0.0.1',
  '10.0.0.1-::1',
  '1.2.3.4-',
  '1.2.3.4/',
  '/8',
  '1.2.3.4/8/8',
])('%j is no IP pattern', (pattern) => {
  expect(isIpPattern(pattern)).toBe(false);
});
