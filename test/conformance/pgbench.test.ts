/**
 * pgbench: it makes its tables (COPY, vacuum, primary keys) and runs its transactions in every mode of the protocol
 * through direct and pooled hosts; what it counts and what is in the tables is what plain Postgres has after the same.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ask, findProgram, runScript } from './programs.ts';
import { startEnds, type Ends, type Target } from './paths.ts';

const pgbench = findProgram('pgbench');
const BOOT_TIMEOUT_MS = 240_000;
/** Numbers of the run, and nothing of its pace. */
const COUNTS = /^(transaction type|scaling factor|query mode|number of .*): .*$/gm;

const PIPELINE = `
\\set n random(1, 1000)
\\startpipeline
select :n + 1;
select :n * 2;
insert into seen values (:client_id);
\\endpipeline
`;

let ends: Ends;
let directory: string;

async function run(target: Target, args: readonly string[]): Promise<string[]> {
  const ran = await runScript(pgbench!, args, target);
  expect(ran.code, ran.errors).toBe(0);
  return [...ran.output.matchAll(COUNTS)].map(([line]) => line);
}

/** Random amounts, but each transaction adds its own to one row of each table and writes it down. */
const SUMS = `
  select (select count(*)::int from pgbench_accounts) as accounts, (select count(*)::int from pgbench_history) as history,
    (select sum(abalance) from pgbench_accounts) = (select coalesce(sum(delta), 0) from pgbench_history) as account_sums,
    (select sum(tbalance) from pgbench_tellers) = (select coalesce(sum(delta), 0) from pgbench_history) as teller_sums,
    (select sum(bbalance) from pgbench_branches) = (select coalesce(sum(delta), 0) from pgbench_history) as branch_sums`;

describe.skipIf(pgbench === undefined)('pgbench (skipped where pgbench is not installed)', () => {
  beforeAll(async () => {
    ends = await startEnds();
    directory = await mkdtemp(path.join(os.tmpdir(), 'ballast-pgbench-'));
    await writeFile(path.join(directory, 'pipeline.sql'), PIPELINE);
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await ends?.stop();
    if (directory !== undefined) await rm(directory, { recursive: true, force: true });
  }, BOOT_TIMEOUT_MS);

  const bench = async (target: Target) => {
    const counts: Record<string, unknown> = {};
    const init = await runScript(pgbench!, ['-i', '-s', '1', '-q'], target);
    expect(init.code, init.errors).toBe(0);
    for (const mode of ['simple', 'extended', 'prepared']) {
      counts[mode] = await run(target, ['-n', '-M', mode, '-c', '8', '-j', '2', '-t', '20']);
      counts[`${mode}, reading only`] = await run(target, ['-n', '-S', '-M', mode, '-c', '8', '-t', '50']);
    }
    counts['a connection for each transaction'] = await run(target, ['-n', '-S', '-C', '-c', '2', '-t', '5']);
    counts['sums'] = await ask(ends.direct(target), SUMS);
    await ask(ends.direct(target), 'drop table if exists seen; create table seen (client int)');
    const file = path.join(directory, 'pipeline.sql');
    for (const mode of ['extended', 'prepared'])
      counts[`pipelines, ${mode}`] = await run(target, ['-n', '-M', mode, '-c', '4', '-t', '25', '-f', file]);
    counts['written by pipelines'] = await ask(
      ends.direct(target),
      'select client, count(*)::int as n from seen group by 1 order by 1',
    );
    return counts;
  };

  test('as on plain Postgres, through direct and pooled hosts', async () => {
    const expected = await bench(ends.plain);
    expect(expected['sums']).toEqual([
      { accounts: 100_000, history: 480, account_sums: true, teller_sums: true, branch_sums: true },
    ]);
    expect(await bench(ends.ballast.direct)).toEqual(expected);
    expect(await bench(ends.ballast.pooled)).toEqual(expected);
  });
});
