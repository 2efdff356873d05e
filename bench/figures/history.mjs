/**
 * What going back costs: a branch at a time behind much WAL, a branch restored in place, a snapshot, the speed of replay
 * beside a bare Postgres on the same WAL, the bytes that history keeps, and a lineage of a hundred branches.
 */
import { execFile } from 'node:child_process';
import { chownSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { bareFloor, startBare } from '../lib/floor.mjs';
import { usedBytes } from '../lib/machine.mjs';
import { childOf, computeOf, query } from '../lib/product.mjs';
import { inTurn, timed } from '../lib/stats.mjs';

const run = promisify(execFile);
const MIB = 1024 ** 2;
const ROUNDS = 6;
const DEPTH = 100;
const UPDATES = 300;
const READ_SECONDS = 5;
const READ_ROUNDS = 3;
const PGBENCH = ['/usr/bin/pgbench', '/usr/local/bin/pgbench'].find((file) => existsSync(file));

export const needs = ['xfs'];

export async function* measure({ product, pool, subset, skip }) {
  if (subset('past')) yield* pastBranches(product, pool);
  if (subset('restore')) yield* restores(product, pool);
  if (subset('snapshot')) yield* snapshots(product, pool);
  if (subset('replay')) yield* replaySpeed(product, pool);
  if (subset('bytes')) yield* keptBytes(product, pool);
  if (!subset('depth')) return;
  if (PGBENCH === undefined) skip('history.depth: pgbench is not installed');
  else yield* depth(product, pool);
}

const reflinkOf = (pool) => (pool.name === 'plain' ? 'never' : 'always');

async function* pastBranches(product, pool) {
  const parent = await product.createProject({ name: 'past' });
  await query(parent.uri, 'create table filler (id int, text text)');
  const floor = await floorOf(product, pool, parent);
  await query(parent.uri, 'select 1');
  for (const megabytes of [64, 1024]) {
    await writeWal(parent, megabytes);
    const { at, lsn } = await pointNow(parent);
    await query(parent.uri, 'insert into filler values (0)');
    const behind = behindBase(product, parent, lsn);
    const { samples, floorSamples } = await inTurn(
      ROUNDS,
      () => pastBranch(product, parent, { parent_timestamp: at }),
      () => floor.branch(),
    );
    yield {
      name: `branch at a time, ${megabytes} MB of WAL later, ${pool.name}: POST to first row`,
      unit: 'ms',
      samples,
      floor: { name: 'bare clone + start + first row', samples: floorSamples },
      note: `${(behind / MIB).toFixed(0)} MB of WAL between the nearest base and the point`,
    };
  }
  floor.remove();
}

async function* restores(product, pool) {
  const place = await product.createProject({ name: 'restored' });
  await query(place.uri, 'create table filler (id int, text text)');
  const floor = await floorOf(product, pool, place);
  let number = 0;
  const restoreOnce = async () => {
    await query(place.uri, 'insert into filler select n from generate_series(1, 1000) n');
    const { at } = await pointNow(place);
    await query(place.uri, 'delete from filler');
    const body = {
      source_branch_id: place.branchId,
      source_timestamp: at,
      preserve_under_name: `old-${(number += 1)}`,
    };
    return timed(async () => {
      await product.change('POST', `/projects/${place.projectId}/branches/${place.branchId}/restore`, body);
      const [{ count }] = await query(place.uri, 'select count(*)::int as count from filler');
      if (count !== number * 1000) throw new Error(`${count} rows after restore ${number}`);
    });
  };
  const { samples, floorSamples } = await inTurn(ROUNDS, restoreOnce, () => floor.branch());
  floor.remove();
  yield {
    name: `restore of a branch from itself in time, ${pool.name}: POST to first row of the restored data`,
    unit: 'ms',
    samples,
    floor: { name: 'bare clone + start + first row', samples: floorSamples },
  };
}

async function* snapshots(product, pool) {
  const place = await product.createProject({ name: 'snapshots' });
  await query(place.uri, 'create table filler (id int, text text)');
  const floor = await floorOf(product, pool, place);
  await query(place.uri, 'select 1');
  const take = async () => {
    let made;
    const ms = await timed(async () => {
      made = await product.change(
        'POST',
        `/projects/${place.projectId}/branches/${place.branchId}/snapshot?name=bench`,
      );
    });
    await product.change('DELETE', `/projects/${place.projectId}/snapshots/${made.snapshot.id}`);
    return ms;
  };
  const { samples, floorSamples } = await inTurn(ROUNDS, take, () => floor.clone());
  floor.remove();
  yield {
    name: `snapshot of a running branch, ${pool.name}: POST to finished`,
    unit: 'ms',
    samples,
    floor: { name: 'bare clone', samples: floorSamples },
  };
}

/** The same 200 MB of WAL on the same base: by a branch beside one at the base itself, and by a bare Postgres. */
async function* replaySpeed(product, pool) {
  const megabytes = 200;
  const place = await product.createProject({ name: 'replay' });
  await query(place.uri, 'create table filler (id int, text text)');
  await writeWal(place, 32);
  const compute = computeOf(product, place);
  await product.suspend(place);
  // The base behind a suspend comes a moment later.
  await pause(3000);
  const bare = await bareReplay(pool, compute, place);
  await query(place.uri, 'select 1');
  const near = await pointNow(place);
  await query(place.uri, 'insert into filler values (0)');
  await writeWal(place, megabytes);
  const far = await pointNow(place);
  await query(place.uri, 'insert into filler values (0)');
  const writtenMb = (toBytes(far.lsn) - toBytes(near.lsn)) / MIB;
  await bare.stage(product, place);
  const speeds = [];
  const floor = [];
  for (let round = 0; round < 3; round += 1) {
    const nearMs = await pastBranch(product, place, { parent_lsn: near.lsn });
    const farMs = await pastBranch(product, place, { parent_lsn: far.lsn });
    speeds.push((1000 * writtenMb) / Math.max(1, farMs - nearMs));
    floor.push((1000 * writtenMb) / Math.max(1, await bare.replayMs()));
  }
  bare.remove();
  yield {
    name: `replay of ${writtenMb.toFixed(0)} MB of WAL, ${pool.name}`,
    unit: 'MB/s',
    samples: speeds,
    floor: { name: 'bare recovery of the same WAL, fsync off', samples: floor },
  };
}

/** A data directory at rest, and later the WAL that was written after it. */
async function bareReplay(pool, compute, place) {
  const root = path.join(pool.directory, 'bare-replay');
  mkdirSync(root, { recursive: true });
  chownSync(root, compute.uid, compute.uid);
  const [base, staged] = [path.join(root, 'base'), path.join(root, 'wal')];
  await run('cp', ['-a', `--reflink=${reflinkOf(pool)}`, compute.dataDirectory, base]);
  rmSync(path.join(base, 'recovery.signal'), { force: true });
  const start = async (withWal) => {
    const target = path.join(root, 'run');
    await run('cp', ['-a', `--reflink=${reflinkOf(pool)}`, base, target]);
    if (withWal) {
      await run('sh', [
        '-c',
        `cp -a --reflink=${reflinkOf(pool)} "$1"/* "$2"/`,
        'sh',
        staged,
        path.join(target, 'pg_wal'),
      ]);
      writeFileSync(path.join(target, 'recovery.signal'), '');
      chownSync(path.join(target, 'recovery.signal'), compute.uid, compute.uid);
    }
    let stop;
    const settings = ['fsync=off', 'hot_standby=off', `restore_command=false`];
    const ms = await timed(async () => {
      stop = await startBare(root, compute, place, target, settings);
    });
    await stop();
    rmSync(target, { recursive: true, force: true });
    return ms;
  };
  return {
    stage: async (product, at) => {
      mkdirSync(staged, { recursive: true });
      const timeline = path.join(product.pool, at.projectId, at.branchId);
      for (const from of [path.join(timeline, 'wal'), path.join(timeline, 'pgdata', 'pg_wal')]) {
        await run('sh', ['-c', 'cp -a "$1"/0* "$2"/', 'sh', from, staged]);
      }
    },
    replayMs: async () => (await start(true)) - (await start(false)),
    remove: () => rmSync(root, { recursive: true, force: true }),
  };
}

async function* keptBytes(product, pool) {
  const place = await product.createProject({ name: 'kept' });
  await query(
    place.uri,
    `create table filler as select id, 0 as n, repeat('x', 900) as text from generate_series(1, 60000) id`,
  );
  await query(place.uri, 'create index on filler (id)');
  const before = usedBytes(pool.directory);
  const { lsn: first } = await pointNow(place);
  let last = first;
  while (toBytes(last) - toBytes(first) < 1024 * MIB) {
    await query(place.uri, 'update filler set n = n + 1 where id % 10 = (random() * 9)::int');
    await query(place.uri, 'vacuum filler');
    ({ lsn: last } = await pointNow(place));
  }
  await query(place.uri, 'checkpoint').catch(() => undefined);
  await pause(2000);
  const writtenGb = (toBytes(last) - toBytes(first)) / (1024 * MIB);
  yield {
    name: `bytes of history kept for each GB of WAL written, ${pool.name}`,
    unit: 'MB',
    samples: [(usedBytes(pool.directory) - before) / MIB / writtenGb],
    floor: { name: 'the WAL itself', samples: [1024] },
  };
}

async function* depth(product, pool) {
  const root = await product.createProject({ name: 'depth' });
  await pgbench(product, root, ['-i', '-s', '5', '-q']);
  const lineage = [root];
  const childMs = async (parent, keep) => {
    let child;
    const ms = await timed(async () => {
      child = childOf(parent, await product.requestBranch(parent));
      await query(child.uri, 'select 1');
    });
    if (keep) lineage.push(child);
    else await product.deleteBranch(child);
    return ms;
  };
  const shallow = [];
  for (let round = 0; round <= ROUNDS; round += 1) shallow.push(await childMs(root, false));
  for (let level = 1; level <= DEPTH; level += 1) {
    await childMs(lineage.at(-1), true);
    await query(
      lineage.at(-1).uri,
      `update pgbench_accounts set abalance = $1 where aid in (select 1 + (random() * 499999)::int from generate_series(1, ${UPDATES}))`,
      [level],
    );
  }
  const deep = [];
  for (let round = 0; round <= ROUNDS; round += 1) deep.push(await childMs(lineage.at(-2), false));
  yield {
    name: `branch at depth ${DEPTH}, running parents, ${pool.name}: POST to first row`,
    unit: 'ms',
    samples: deep.slice(1),
    floor: { name: 'the same at depth 1', samples: shallow.slice(1) },
    bar: { atMost: 1.5, of: 'floor' },
  };
  const reads = { deep: [], root: [] };
  for (let round = 0; round < READ_ROUNDS; round += 1) {
    reads.root.push(await readsPerSecond(product, root));
    reads.deep.push(await readsPerSecond(product, lineage.at(-1)));
  }
  yield {
    name: `pgbench -S at depth ${DEPTH}, ${pool.name}`,
    unit: 'tps',
    samples: reads.deep,
    floor: { name: 'at depth 0', samples: reads.root },
    bar: { atLeast: 0.95, of: 'floor' },
  };
}

async function pgbench(product, place, args) {
  const env = {
    PATH: process.env.PATH,
    PGHOST: '127.0.0.1',
    PGPORT: String(product.pgPort),
    PGOPTIONS: `endpoint=${place.endpointId}`,
    PGUSER: place.role,
    PGPASSWORD: place.password,
    PGDATABASE: place.database,
    PGSSLMODE: 'disable',
  };
  return (await run(PGBENCH, args, { env })).stdout;
}

async function readsPerSecond(product, place) {
  await pgbench(product, place, ['-n', '-S', '-c', '2', '-T', '1']);
  const output = await pgbench(product, place, ['-n', '-S', '-M', 'prepared', '-c', '2', '-T', String(READ_SECONDS)]);
  return Number(/tps = ([\d.]+)/.exec(output)[1]);
}

/** The parent sleeps afterwards. */
async function floorOf(product, pool, place) {
  await query(place.uri, 'select 1');
  const compute = computeOf(product, place);
  await product.suspend(place);
  return bareFloor(pool.directory, compute, place, reflinkOf(pool));
}

async function pastBranch(product, parent, point) {
  let child;
  const ms = await timed(async () => {
    const body = { branch: { parent_id: parent.branchId, ...point }, endpoints: [{ type: 'read_write' }] };
    child = childOf(parent, await product.call('POST', `/projects/${parent.projectId}/branches`, body));
    await query(child.uri, 'select 1');
  });
  await product.deleteBranch(child);
  return ms;
}

/** Rows of about a kilobyte, as much as that much WAL. */
async function writeWal(place, megabytes) {
  for (let done = 0; done < megabytes; done += 16) {
    await query(place.uri, `insert into filler select id, repeat(md5(id::text), 30) from generate_series(1, 15000) id`);
  }
}

async function pointNow(place) {
  const [row] = await query(
    place.uri,
    `select pg_current_wal_flush_lsn()::text as lsn,
       to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as at`,
  );
  return row;
}

function toBytes(lsn) {
  const [high, low] = lsn.split('/').map((part) => Number.parseInt(part, 16));
  return high * 2 ** 32 + low;
}

/** Bytes of WAL from the start of the newest base that can serve the point; the template's are counted from 0. */
function behindBase(product, place, lsn) {
  const bases = path.join(product.pool, place.projectId, place.branchId, 'bases');
  const starts = readdirSync(bases).flatMap((name) => {
    try {
      const base = JSON.parse(readFileSync(path.join(bases, name, 'base.json'), 'utf8'));
      return toBytes(base.stopLsn) <= toBytes(lsn) ? [toBytes(base.startLsn)] : [];
    } catch {
      return [];
    }
  });
  return toBytes(lsn) - Math.max(0, ...starts);
}
