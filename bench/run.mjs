/**
 * `npm run bench [-- names] [--strict] [--quick]`: every figure of the README, each beside its floor measured in the same run.
 *
 * Names: branch (parts: suspended, running, big; as branch.running), create, wake, proxy, api, memory, disk, replica,
 * serverless (sql, tls), load (pooled, asleep, storm), history (past, restore, snapshot, replay, bytes, depth); none: all.
 * --quick: few rounds, to see that it works.
 * Pools are loop-mounted XFS and btrfs images where root can mount them (BALLAST_BENCH_DIR: use that directory instead).
 * Results also go to bench/results/<time>.json. Exit code 0 unless --strict and a bar is not met.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { machineLine } from './lib/machine.mjs';
import { mountImage, plainDirectory } from './lib/pool-image.mjs';
import { bootProduct } from './lib/product.mjs';
import { printFigure, quantile, ratio, verdict } from './lib/stats.mjs';

const NAMES = [
  'branch',
  'create',
  'wake',
  'proxy',
  'serverless',
  'load',
  'api',
  'memory',
  'disk',
  'replica',
  'history',
];
const IMAGE_BYTES = 24 * 1024 ** 3;

const { values: options, positionals } = parseArgs({
  options: {
    strict: { type: 'boolean', default: false },
    quick: { type: 'boolean', default: false },
    fs: { type: 'string', multiple: true },
  },
  allowPositionals: true,
});
const unknown = positionals.filter((name) => !NAMES.includes(name.split('.')[0]));
if (unknown.length > 0) {
  process.stderr.write(`unknown: ${unknown.join(', ')}; there are ${NAMES.join(', ')}\n`);
  process.exit(2);
}

const machine = machineLine();
process.stdout.write(`${machine}\n`);
const results = [];
const skipped = [];
for (const name of NAMES) {
  if (positionals.length > 0 && !positionals.some((each) => each.split('.')[0] === name)) continue;
  const figures = await import(`./figures/${name}.mjs`);
  for (const fs of figures.needs) {
    if (options.fs !== undefined && !options.fs.includes(fs)) continue;
    await measureOn(name, figures, fs);
  }
}
for (const reason of skipped) process.stdout.write(`skipped ${reason}\n`);
save();
const over = results.filter((figure) => verdict(figure) === 'over');
process.stdout.write(`${results.length} figures, ${over.length} over their bar\n`);
process.exit(options.strict && over.length > 0 ? 1 : 0);

/** Every group gets a Ballast and a pool of its own, so that one's leftovers are not another's noise. */
async function measureOn(name, figures, fs) {
  const pool = openPool(fs);
  if (pool === undefined) {
    skipped.push(`${name} on ${fs}: needs root, loop devices and mkfs.${fs}`);
    return;
  }
  let product;
  try {
    product = await bootProduct(pool.directory, ['--default-suspend-timeout', '3600']);
    const subset = (part) =>
      positionals.length === 0 || positionals.includes(name) || positionals.includes(`${name}.${part}`);
    const skip = (reason) => skipped.push(reason);
    for await (const figure of figures.measure({ product, pool, subset, skip, quick: options.quick })) {
      results.push(figure);
      printFigure(figure);
    }
  } finally {
    await product?.stop();
    pool.remove();
  }
}

/** XFS is the first choice; without it the figures of an ordinary directory are better than none. */
function openPool(fs) {
  const given = process.env.BALLAST_BENCH_DIR;
  if (given) return { name: 'given', directory: given, remove() {} };
  return mountImage(fs, IMAGE_BYTES) ?? (fs === 'xfs' ? plainDirectory() : undefined);
}

function save() {
  const directory = path.join(import.meta.dirname, 'results');
  mkdirSync(directory, { recursive: true });
  const file = path.join(directory, `${new Date().toISOString().replaceAll(':', '-')}.json`);
  const figures = results.map((figure) => ({
    ...figure,
    p50: quantile(figure.samples, 0.5),
    p95: quantile(figure.samples, 0.95),
    ratio: ratio(figure),
    verdict: verdict(figure),
  }));
  writeFileSync(file, `${JSON.stringify({ machine, figures, skipped }, null, 2)}\n`);
  process.stdout.write(`${file}\n`);
}
