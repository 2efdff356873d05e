/**
 * A parent under constant writes (a ledger of numbered commits, and pgbench where it is installed) is branched twenty
 * times. Every child starts, passes amcheck, and holds exactly a prefix of the committed ledger that ends between the
 * request and the end of create_branch. The parent's worst commit is printed beside its worst without branching.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { childPlace, type Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { runProgram } from '../support/clients.ts';
import { judgeLedger, LedgerWriter } from '../support/ledger.ts';
import { query, scalar, withClient } from '../support/sql.ts';
import { quantile } from '../support/wait.ts';

const BRANCHES = 20;
const QUIET_MS = 6_000;
const PGBENCH = ['/usr/bin/pgbench', '/usr/local/bin/pgbench', '/opt/homebrew/bin/pgbench'].find((file) =>
  existsSync(file),
);

let ballast: Ballast;
let load: ChildProcess | undefined;
let writer: LedgerWriter | undefined;

beforeAll(async () => {
  ballast = await Ballast.boot();
}, 300_000);

afterAll(async () => {
  load?.kill('SIGKILL');
  await writer?.stop();
  await ballast?.destroy();
});

/** Background writes at a fixed rate, so that a measurement without and one with branches bear the same load. */
async function startLoad(parent: Place): Promise<void> {
  if (PGBENCH === undefined) return;
  const uri = ballast.uri(parent);
  const initialised = await runProgram(PGBENCH, ['-i', '-s', '5', '-q', uri], { env: { PATH: process.env['PATH'] } });
  if (initialised.code !== 0) throw new Error(`pgbench -i: ${initialised.stderr}`);
  load = spawn(PGBENCH, ['-n', '-c', '2', '-T', '600', '-R', '150', uri], { stdio: 'ignore' });
}

/** Heap and every B-tree of the user's schema, as the branch's own owner through the product. */
async function amcheck(place: Place): Promise<number> {
  return withClient(place.uri, async (client) => {
    await client.query('create extension if not exists amcheck');
    const { rows } = await client.query<{ index: string }>(
      `select i.indexrelid::regclass::text as index from pg_index i join pg_class c on c.oid = i.indexrelid
       join pg_namespace s on s.oid = c.relnamespace
       where s.nspname = 'public' and c.relam = (select oid from pg_am where amname = 'btree')`,
    );
    for (const { index } of rows) await client.query('select bt_index_parent_check($1::regclass, true)', [index]);
    const tables = await client.query<{ corrupt: number }>(
      `select count(*)::int as corrupt from pg_class c join pg_namespace s on s.oid = c.relnamespace,
       lateral verify_heapam(c.oid) where s.nspname = 'public' and c.relkind = 'r'`,
    );
    expect(tables.rows[0]!.corrupt).toBe(0);
    return rows.length;
  });
}

test(`${BRANCHES} branches of a busy parent: each a prefix of the ledger, each sound`, async () => {
  const parent = await ballast.api.createProject({ name: 'busy' });
  await startLoad(parent);
  writer = await LedgerWriter.start(parent.uri);
  const quietFromMs = performance.now();
  await pause(QUIET_MS);
  const quiet = writer.latencies(quietFromMs, performance.now());

  const busyFromMs = performance.now();
  const branchMs: number[] = [];
  const cloneMs: number[] = [];
  for (let number = 1; number <= BRANCHES; number++) {
    const atLeast = writer.last;
    const askedMs = performance.now();
    const created = await ballast.api.call('POST', `/projects/${parent.projectId}/branches`, {
      branch: { parent_id: parent.branchId, name: `under-load-${number}` },
      endpoints: [{ type: 'read_write' }],
    });
    const [cloned] = await ballast.api.settle({ operations: created.operations.slice(0, 1) });
    cloneMs.push(cloned!.total_duration_ms);
    const atMost = writer.last + 1;
    const child = childPlace(parent, created);
    await judgeLedger(child.uri, atLeast, atMost);
    branchMs.push(performance.now() - askedMs);
    // Recovery runs without syncing; nobody may ever be served like that.
    expect(await scalar(child.uri, "select current_setting('fsync') || current_setting('full_page_writes')")).toBe(
      'onon',
    );
    expect(await amcheck(child)).toBeGreaterThan(0);
    // A child is a database in its own right: it writes, and goes to sleep so that twenty do not crowd the machine.
    await query(child.uri, 'insert into ledger (n) select max(n) + 1 from ledger');
    await ballast.api.callAndSettle('DELETE', `/projects/${child.projectId}/branches/${child.branchId}`);
  }
  const busy = writer.latencies(busyFromMs, performance.now());
  expect(writer.lost).toBeUndefined();
  const describe = (values: number[]) =>
    `n=${values.length} p50 ${quantile(values, 0.5).toFixed(1)} ms, worst ${Math.max(...values).toFixed(1)} ms`;
  process.stdout.write(
    `parent's commits without branching: ${describe(quiet)}; while ${BRANCHES} branches were made: ${describe(busy)}; ` +
      `branch to first row: p50 ${quantile(branchMs, 0.5).toFixed(0)} ms, worst ${Math.max(...branchMs).toFixed(0)} ms, of which create_branch p50 ${quantile(cloneMs, 0.5)} ms` +
      `${PGBENCH === undefined ? ' (pgbench is not installed: ledger only)' : ''}\n`,
  );
  await writer.stop();
  // The parent itself lost nothing either.
  const [row] = await query(parent.uri, 'select count(*)::int as count, max(n)::int as max from ledger');
  expect(row.count).toBe(row.max);
  expect(row.max).toBeGreaterThanOrEqual(writer.last);
}, 600_000);

test('a parent keeps its commits when it is branched while it goes to sleep and wakes', async () => {
  load?.kill('SIGKILL');
  const parent = await ballast.api.createProject({ name: 'dozing' });
  await query(parent.uri, 'create table ledger (n bigint primary key)');
  let acknowledged = 0;
  for (let round = 1; round <= 4; round++) {
    await query(parent.uri, 'insert into ledger (n) values ($1)', [(acknowledged += 1)]);
    const suspended = await ballast.api.call('POST', `${ballast.api.endpointPath(parent)}/suspend`);
    const created = await ballast.api.call('POST', `/projects/${parent.projectId}/branches`, {
      branch: { parent_id: parent.branchId },
      endpoints: [{ type: 'read_write' }],
    });
    const woke = query(parent.uri, 'insert into ledger (n) values ($1)', [(acknowledged += 1)]);
    await ballast.api.settle(created);
    await ballast.api.settle(suspended);
    await woke;
    await judgeLedger(childPlace(parent, created).uri, acknowledged - 1, acknowledged);
  }
  await ballast.api.idle(parent.projectId);
  expect(await query(parent.uri, 'select count(*)::int as n from ledger')).toEqual([{ n: acknowledged }]);
});
