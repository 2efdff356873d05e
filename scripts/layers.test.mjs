/**
 * The layers of ARCHITECTURE.md are enforced by lint; this shows that each rule fires, and that what is allowed passes.
 * Every import below becomes a file of its own in a temporary tree, and one run of oxlint judges them all.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

const ROOT = path.resolve(import.meta.dirname, '..');

/** Folder of the importing file, then what it imports, from src/ (or from the root where that begins with /). */
const REFUSED = [
  ['src/lib', 'catalog/types'],
  ['src/lib', 'postgres/server'],
  ['src/lib', 'main'],
  ['src/contract', 'api/server'],
  ['src/contract', 'control-plane/projects'],
  ['src/postgres', 'storage/types'],
  ['src/postgres', 'compute/extensions'],
  ['src/postgres/wire', 'catalog/types'],
  ['src/storage', 'catalog/types'],
  ['src/storage', 'compute/types'],
  ['src/storage', 'operations/queue'],
  ['src/compute', 'catalog/types'],
  ['src/compute', 'control-plane/projects'],
  ['src/catalog', 'compute/types'],
  ['src/catalog', 'operations/queue'],
  ['src/catalog', 'cli/start'],
  ['src/operations', 'storage/types'],
  ['src/operations', 'control-plane/projects'],
  ['src/operations/actions', 'control-plane/projects'],
  ['src/operations/actions', 'api/server'],
  ['src/control-plane', 'storage/types'],
  ['src/control-plane', 'compute/types'],
  ['src/control-plane', 'operations/runner'],
  ['src/control-plane', 'operations/actions/actions'],
  ['src/control-plane', 'api/server'],
  ['src/reconcilers', 'api/server'],
  ['src/reconcilers', 'proxy/proxy'],
  ['src/api', 'proxy/proxy'],
  ['src/api', 'catalog/types'],
  ['src/api', 'storage/types'],
  ['src/api', 'compute/types'],
  ['src/api/handlers', 'catalog/types'],
  ['src/api', 'main'],
  ['src/proxy', 'api/server'],
  ['src/proxy', 'catalog/types'],
  ['src/proxy', 'compute/types'],
  ['src/proxy', 'control-plane/projects'],
  ['src/proxy', 'postgres/server'],
  ['src/cli', 'catalog/types'],
  ['src/cli', 'control-plane/projects'],
  ['test/acceptance', 'lib/errors'],
  ['bench', 'lib/errors'],
];

const ALLOWED = [
  ['src/lib', 'lib/errors'],
  ['src/contract', 'lib/errors'],
  ['src/postgres', 'lib/errors'],
  ['src/storage', 'postgres/server'],
  ['src/compute', 'storage/types'],
  ['src/catalog', 'postgres/server'],
  ['src/operations', 'catalog/types'],
  ['src/operations/actions', 'storage/types'],
  ['src/control-plane', 'catalog/types'],
  ['src/control-plane', 'operations/queue'],
  ['src/reconcilers', 'catalog/types'],
  ['src/api', 'control-plane/projects'],
  ['src/proxy', 'control-plane/proxy-access.types'],
  ['src/proxy', 'postgres/wire/scram'],
  ['src/cli', 'main'],
  ['src/cli', 'storage/pool-image'],
];

let tree;
let found;

beforeAll(() => {
  tree = mkdtempSync(path.join(os.tmpdir(), 'ballast-layers-test-'));
  cpSync(path.join(ROOT, '.oxlintrc.json'), path.join(tree, '.oxlintrc.json'));
  symlinkSync(path.join(ROOT, 'node_modules'), path.join(tree, 'node_modules'));
  for (const [index, edge] of [...REFUSED, ...ALLOWED].entries()) {
    const [folder, target] = edge;
    const file = path.join(tree, folder, fileOf(index));
    mkdirSync(path.dirname(file), { recursive: true });
    const specifier = path.relative(path.dirname(file), path.join(tree, 'src', `${target}.ts`));
    const relative = specifier.startsWith('.') ? specifier : `./${specifier}`;
    writeFileSync(file, `import { x } from '${relative}';\nexport const y = x;\n`);
  }
  const { stdout } = spawnSync(path.join(ROOT, 'node_modules/.bin/oxlint'), ['-f', 'json'], {
    cwd: tree,
    encoding: 'utf8',
  });
  const restricted = JSON.parse(stdout).diagnostics.filter((one) => one.code.includes('no-restricted-imports'));
  found = new Set(restricted.map((one) => path.basename(one.filename)));
}, 60_000);

afterAll(() => rmSync(tree, { recursive: true, force: true }));

function fileOf(index) {
  return `edge-${index}.ts`;
}

test.each(REFUSED.map(([folder, target], index) => [folder, target, index]))(
  '%s must not import %s',
  (_from, _to, index) => {
    expect(found).toContain(fileOf(index));
  },
);

test.each(ALLOWED.map(([folder, target], index) => [folder, target, REFUSED.length + index]))(
  '%s may import %s',
  (_from, _to, index) => {
    expect(found).not.toContain(fileOf(index));
  },
);
