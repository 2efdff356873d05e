/**
 * Writes docs/coverage.md: what openapi/ledger.json says about every operation, by tag.
 *
 *   node scripts/coverage.mjs
 */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { ensureContract } from './extract-contract.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
export const coverageFile = path.join(root, 'docs', 'coverage.md');
const ledgerFile = path.join(root, 'openapi', 'ledger.json');
const METHODS = ['get', 'post', 'put', 'patch', 'delete'];
const WORDS = { implemented: 'yes', partial: 'partly', 'not-offered': 'no' };

/** The page as text, from the document and the ledger. */
export function renderCoverage() {
  const document = JSON.parse(readFileSync(ensureContract(), 'utf8'));
  const ledger = JSON.parse(readFileSync(ledgerFile, 'utf8'));
  const byTag = new Map();
  for (const [url, item] of Object.entries(document.paths)) {
    for (const method of METHODS.filter((name) => item[name])) {
      const { operationId, tags } = item[method];
      const { status, why } = ledger[operationId];
      const row = `| ${operationId} | \`${method.toUpperCase()} ${url}\` | ${WORDS[status]} | ${why ?? ''} |`;
      byTag.set(tags[0], [...(byTag.get(tags[0]) ?? []), row]);
    }
  }
  const count = (status) => Object.values(ledger).filter((entry) => entry.status === status).length;
  const intro = [
    '# Coverage of the Neon API v2',
    '',
    'Made by `node scripts/coverage.mjs` from `openapi/ledger.json`; a test compares both with the handlers.',
    'Every operation has its route. What is not offered answers 501.',
    '',
    `${Object.keys(ledger).length} operations: ${count('implemented')} implemented, ${count('partial')} in part, ${count('not-offered')} not offered.`,
  ];
  const sections = [...byTag].flatMap(([tag, rows]) => [
    '',
    `## ${tag}`,
    '',
    '| Operation | Request | Offered | Why not |',
    '|---|---|---|---|',
    ...rows,
  ]);
  return `${[...intro, ...sections].join('\n')}\n`;
}

if (process.argv[1] !== undefined && path.resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  writeFileSync(coverageFile, renderCoverage());
}
