/**
 * Builds dist/: compiled sources, the thread that dumps schemas, the SQL of the catalog's migrations, and the API document extracted from its package.
 * Everything is made in a directory beside dist/ and swapped in at the end, so a failed build leaves the old one.
 * dist/.build-hash names what it was built from (see setup.mjs).
 */
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { ROOT, buildHash } from './setup.mjs';

const DIST = path.join(ROOT, 'dist');
const next = path.join(ROOT, '.cache', `dist-${process.pid}`);

function node(script, args, quiet = false) {
  const { status } = spawnSync(process.execPath, [path.join(ROOT, script), ...args], {
    // What a step says when all goes well is of no interest.
    stdio: ['ignore', quiet ? 'ignore' : 'inherit', 'inherit'],
    cwd: ROOT,
  });
  if (status !== 0) {
    rmSync(next, { recursive: true, force: true });
    process.exit(status ?? 1);
  }
}

const hash = buildHash();
mkdirSync(next, { recursive: true });
node('node_modules/typescript/bin/tsc', ['-p', 'tsconfig.build.json', '--outDir', next]);
const migrations = path.join(ROOT, 'src/catalog/migrations');
for (const name of readdirSync(migrations).filter((file) => file.endsWith('.sql'))) {
  cpSync(path.join(migrations, name), path.join(next, 'catalog/migrations', name));
}
cpSync(path.join(ROOT, 'src/postgres/dump-worker.js'), path.join(next, 'postgres/dump-worker.js'));
node('scripts/extract-contract.mjs', [path.join(next, 'contract/document.json')], true);
writeFileSync(path.join(next, '.build-hash'), hash);

const old = path.join(ROOT, '.cache', `dist-old-${process.pid}`);
if (existsSync(DIST)) renameSync(DIST, old);
renameSync(next, DIST);
rmSync(old, { recursive: true, force: true });
