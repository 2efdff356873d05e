/**
 * The difference of two dumps of a schema, as a unified diff.
 */
import { formatPatch, structuredPatch, type StructuredPatch } from 'diff';

const CONTEXT_LINES = 3;
/** Two entirely different schemas must not keep the process busy for long; beyond this the diff is all old, all new. */
const TIMEOUT_MS = 5_000;

/** From `base` to `target`, both of the database `name`. The empty string when they are equal. */
export async function diffSchemas(name: string, base: string, target: string): Promise<string> {
  if (base === target) return '';
  const [from, to] = [`a/${name}`, `b/${name}`];
  const patch = await new Promise<StructuredPatch | undefined>((resolve) => {
    // With a callback it works in small steps, and lets others work between them.
    const options = { context: CONTEXT_LINES, timeout: TIMEOUT_MS, callback: resolve };
    structuredPatch(from, to, base, target, undefined, undefined, options);
  });
  if (!patch) return replacement(from, to, lines(base), lines(target));
  return patch.hunks.length === 0 ? '' : formatPatch(patch).replace(/^(Index:.*\n)?=+\n/, '');
}

const lines = (text: string): string[] => text.replace(/\n$/, '').split('\n');

function replacement(from: string, to: string, before: string[], after: string[]): string {
  return [
    `--- ${from}`,
    `+++ ${to}`,
    `@@ -1,${before.length} +1,${after.length} @@`,
    ...before.map((line) => `-${line}`),
    ...after.map((line) => `+${line}`),
    '',
  ].join('\n');
}
