/**
 * Memory of Ballast's own process with 500 projects, of which 490 sleep. The computes' memory is PostgreSQL's and is told
 * beside it.
 */
import { readFileSync } from 'node:fs';
import { computeOf } from '../lib/product.mjs';
import { residentBytes } from '../lib/machine.mjs';

const PROJECTS = Number(process.env.BALLAST_BENCH_PROJECTS ?? 500);
const AWAKE = 10;
const AT_ONCE = 5;
const MIB = 1024 ** 2;

export const needs = ['xfs'];

export async function* measure({ product }) {
  const bootedBytes = residentBytes(product.pid);
  const awake = [];
  for (let made = 0; made < PROJECTS; made += AT_ONCE) {
    const batch = Array.from({ length: Math.min(AT_ONCE, PROJECTS - made) }, () => product.createProject({}));
    const places = await Promise.all(batch);
    const keep = Math.max(0, Math.min(places.length, AWAKE - awake.length));
    awake.push(...places.slice(0, keep));
    await Promise.all(places.slice(keep).map((each) => product.suspend(each)));
  }
  const computes = awake.reduce((sum, each) => sum + proportionalBytes(computeOf(product, each).pid), 0);
  yield {
    name: `memory of Ballast with ${PROJECTS} projects, ${PROJECTS - awake.length} suspended`,
    unit: 'MiB',
    samples: [residentBytes(product.pid) / MIB],
    bar: { atMost: 200, of: 'value' },
    note: `after boot ${(bootedBytes / MIB).toFixed(0)} MiB; ${awake.length} running postmasters ${(computes / MIB).toFixed(0)} MiB (PSS)`,
  };
}

function proportionalBytes(pid) {
  const [, kilobytes] = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'));
  return Number(kilobytes) * 1024;
}
