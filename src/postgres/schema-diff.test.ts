import { applyPatch } from 'diff';
import { expect, test } from 'vitest';
import { diffSchemas } from './schema-diff.ts';

const numbered = (count: number, prefix: string) =>
  Array.from({ length: count }, (_, index) => `${prefix} ${index}\n`).join('');

test('equal schemas have no difference', async () => {
  expect(await diffSchemas('db', 'a\n', 'a\n')).toBe('');
});

test('headers, hunks and context', async () => {
  const base = 'one\ntwo\nthree\nfour\nfive\nsix\n';
  expect(await diffSchemas('neondb', base, base.replace('five', '5'))).toBe(
    '--- a/neondb\n+++ b/neondb\n@@ -2,5 +2,5 @@\n two\n three\n four\n-five\n+5\n six\n',
  );
});

test('a database with a strange name', async () => {
  expect(await diffSchemas('a "b"\tc', 'x\n', 'y\n')).toContain('+y');
});

test('what is entirely different is told in bounded time, and is still a patch', async () => {
  const [base, target] = [numbered(20_000, 'old'), numbered(20_000, 'new')];
  let turns = 0;
  const counting = setInterval(() => (turns += 1), 10);
  const diff = await diffSchemas('db', base, target);
  clearInterval(counting);
  expect(turns).toBeGreaterThan(5);
  expect(diff.startsWith('--- a/db\n+++ b/db\n@@ -1,20000 +1,20000 @@\n-old 0\n')).toBe(true);
  expect(applyPatch(base, diff)).toBe(target);
}, 30_000);
