/**
 * Many connections: the memory of Ballast's process per idle client of a pooled host, plain and with TLS, beside PgBouncer's;
 * per client that idles while its endpoint sleeps; and a storm of connections to sleeping endpoints, beside bare starts
 * of as many Postgres with the same parallelism.
 */
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { bareFloor } from '../lib/floor.mjs';
import { residentBytes } from '../lib/machine.mjs';
import { hasBouncer, hasPgbench, pgbench, startBouncer } from '../lib/pgbench.mjs';
import { computeOf, openSocketDirectory, query } from '../lib/product.mjs';
import { timed } from '../lib/stats.mjs';

const POOLED_CLIENTS = 2000;
const SLEEPERS = 50;
const CLIENTS_PER_SLEEPER = 40;
const STORM_PER_SLEEPER = 10;
const STORMS = 4;
/** Computes that Ballast starts at a time. */
const STARTS_AT_ONCE = 16;
const LOGINS_AT_ONCE = 50;
const SETTLE_MS = 3000;
const KIB = 1024;

export const needs = ['xfs'];

export async function* measure({ product, pool, subset, skip, quick }) {
  if (subset('pooled')) yield* pooledClients(product, pool, quick ? 200 : POOLED_CLIENTS, skip);
  if (!subset('asleep') && !subset('storm')) return;
  const sleepers = [];
  for (let n = 0; n < (quick ? 5 : SLEEPERS); n++) sleepers.push(await product.createProject({ name: `sleeper-${n}` }));
  if (subset('asleep')) yield* idleAtSleepers(product, sleepers);
  if (subset('storm')) yield* storms(product, pool, sleepers, quick ? 1 : STORMS);
}

async function* pooledClients(product, pool, count, skip) {
  const place = await product.createProject({
    name: 'pooled',
    default_endpoint_settings: { suspend_timeout_seconds: -1 },
  });
  const compute = computeOf(product, place);
  const socketDirectory = openSocketDirectory(product, compute);
  let bouncer;
  if (hasBouncer && hasPgbench) {
    await pgbench(place, { PGHOST: socketDirectory, PGPORT: '5432' }, ['-i', '-q']);
    bouncer = await startBouncer({ product, pool, compute, socketDirectory, place });
  } else skip('load: pgbench or PgBouncer is not installed; memory stands alone');
  const ours = { pid: product.pid, port: product.pgPort, database: place.database, endpoint: pooledOptions(place) };
  const peer = bouncer && { pid: bouncer.pid, port: bouncer.port, database: bouncer.transaction.PGDATABASE };
  try {
    for (const tls of [false, true]) {
      // What the first clients bring once (code, buffers, tables) is not theirs.
      await bytesPerClient(place, ours, tls, Math.ceil(count / 10));
      const own = await bytesPerClient(place, ours, tls, count);
      const its = peer && (await bytesPerClient(place, peer, tls, count));
      yield {
        name: `memory per idle pooled client, ${count} clients, ${tls ? 'TLS' : 'plain'}`,
        unit: 'KiB',
        samples: [own / KIB],
        ...(peer && { floor: { name: 'PgBouncer', samples: [its / KIB] } }),
      };
    }
  } finally {
    await bouncer?.stop();
  }
}

const pooledOptions = (place) => `endpoint=${place.endpointId}-pooler`;

async function bytesPerClient(place, server, tls, count) {
  const before = residentBytes(server.pid);
  const clients = await connectMany(
    Array.from({ length: count }, () => ({
      host: '127.0.0.1',
      port: server.port,
      user: place.role,
      password: place.password,
      database: server.database,
      options: server.endpoint,
      ssl: tls ? { rejectUnauthorized: false } : false,
    })),
  );
  // What logging in has left for the collector does not count for ever, but how long it stays is not ours to say.
  await pause(SETTLE_MS);
  const bytes = (residentBytes(server.pid) - before) / count;
  await Promise.all(clients.map((client) => client.end()));
  return bytes;
}

/** Logged in, with one query done, and idle. */
async function connectMany(settings) {
  const clients = [];
  await atOnce(LOGINS_AT_ONCE, settings, async (each) => {
    const client = new pg.Client({ ...each, connectionTimeoutMillis: 300_000 });
    client.on('error', () => {});
    await client.connect();
    await client.query('select 1');
    clients.push(client);
  });
  return clients;
}

async function atOnce(width, items, work) {
  let next = 0;
  const worker = async () => {
    while (next < items.length) await work(items[next++]);
  };
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, worker));
}

async function* idleAtSleepers(product, sleepers) {
  await Promise.all(sleepers.map((sleeper) => product.suspend(sleeper)));
  await pause(SETTLE_MS);
  const before = residentBytes(product.pid);
  const clients = await connectMany(
    sleepers.flatMap((sleeper) =>
      Array.from({ length: CLIENTS_PER_SLEEPER }, () => ({
        host: '127.0.0.1',
        port: product.pgPort,
        user: sleeper.role,
        password: sleeper.password,
        database: sleeper.database,
        options: pooledOptions(sleeper),
        ssl: false,
      })),
    ),
  );
  await atOnce(STARTS_AT_ONCE, sleepers, (sleeper) => product.suspend(sleeper));
  await pause(SETTLE_MS);
  const bytes = residentBytes(product.pid) - before;
  yield {
    name: `memory per client that idles at one of ${sleepers.length} sleeping endpoints, ${clients.length} clients`,
    unit: 'KiB',
    samples: [bytes / clients.length / KIB],
  };
  await Promise.all(clients.map((client) => client.end()));
}

async function* storms(product, pool, sleepers, rounds) {
  const [model] = sleepers;
  await query(model.uri, 'select 1');
  const compute = computeOf(product, model);
  await atOnce(STARTS_AT_ONCE, sleepers, (sleeper) => product.suspend(sleeper));
  const floor = await bareFloor(pool.directory, compute, model, pool.name === 'plain' ? 'never' : 'always');
  const samples = [];
  const floorSamples = [];
  for (let round = 0; round < rounds; round++) {
    floorSamples.push(await floor.wakeMany(sleepers.length, STARTS_AT_ONCE));
    const connections = sleepers.flatMap((sleeper) => Array.from({ length: STORM_PER_SLEEPER }, () => sleeper));
    samples.push(await timed(() => Promise.all(connections.map((sleeper) => query(sleeper.uri, 'select 1')))));
    await atOnce(STARTS_AT_ONCE, sleepers, (sleeper) => product.suspend(sleeper));
  }
  floor.remove();
  yield {
    name: `wake storm: ${sleepers.length * STORM_PER_SLEEPER} connections to ${sleepers.length} sleeping endpoints, to the last first row`,
    unit: 'ms',
    samples,
    floor: { name: `${sleepers.length} bare starts + first row, ${STARTS_AT_ONCE} at a time`, samples: floorSamples },
  };
}
