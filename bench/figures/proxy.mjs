/**
 * pgbench -S through the proxy's direct and pooled hosts, through PgBouncer with session and with transaction pooling, and
 * straight to the compute's Unix socket, in turn: simple and prepared, 1, 8 and 64 clients. Without TLS everywhere.
 *
 * Three things of each: transactions per second, what the way adds to the latency of one client, and the processor time
 * (user and system) of the process in the middle, per transaction.
 */
import { hasBouncer, hasPgbench, bouncerPrepares, pgbench, selectOnly, startBouncer } from '../lib/pgbench.mjs';
import { computeOf, openSocketDirectory, query } from '../lib/product.mjs';

const ROUNDS = 4;
/** Of one run; with many clients so many that the processor time of their logins does not drown that of the rest. */
const transactionsFor = (clients) => (clients > 8 ? 60_000 : 20_000);
const SCALE = 5;
const CLIENTS = [1, 8, 64];
const MODES = ['simple', 'prepared'];

export const needs = ['xfs'];

export async function* measure({ product, pool, skip, quick }) {
  if (!hasPgbench) {
    skip('proxy: pgbench is not installed');
    return;
  }
  if (!hasBouncer) skip('proxy: PgBouncer is not installed; the bare socket stands in for it');
  const place = await product.createProject({
    name: 'pgbench',
    default_endpoint_settings: {
      suspend_timeout_seconds: -1,
      autoscaling_limit_min_cu: 1,
      autoscaling_limit_max_cu: 1,
    },
  });
  const compute = computeOf(product, place);
  const socketDirectory = openSocketDirectory(product, compute);
  const bare = { env: { PGHOST: socketDirectory, PGPORT: '5432' } };
  await pgbench(place, bare.env, ['-i', '-s', String(SCALE), '-q']);
  await query(place.uri, 'vacuum analyze');
  const bouncer = hasBouncer ? await startBouncer({ product, pool, compute, socketDirectory, place }) : undefined;
  const host = (endpoint) => ({
    pid: product.pid,
    env: { PGHOST: '127.0.0.1', PGPORT: String(product.pgPort), PGOPTIONS: `endpoint=${endpoint}` },
  });
  const ways = { bare, direct: host(place.endpointId), pooled: host(`${place.endpointId}-pooler`) };
  try {
    for (const mode of MODES) {
      const peers = bouncer === undefined ? {} : peersFor(bouncer, mode, skip);
      for (const clients of CLIENTS) {
        const runs = await inTurns({ ...ways, ...peers }, quick ? 1 : ROUNDS, (way) =>
          selectOnly(place, way, { clients, transactions: transactionsFor(clients) / (quick ? 10 : 1), mode }),
        );
        yield* figures(runs, mode, clients);
      }
    }
  } finally {
    await bouncer?.stop();
  }
}

function peersFor(bouncer, mode, skip) {
  const session = { pid: bouncer.pid, env: bouncer.session };
  if (mode === 'simple' || bouncerPrepares) {
    return { session, transaction: { pid: bouncer.pid, env: bouncer.transaction } };
  }
  skip(
    'proxy: PgBouncer before 1.21 cannot prepare with transaction pooling; the pooled host stands beside session pooling',
  );
  return { session };
}

/** Every round begins with another way, so that none always comes first. */
async function inTurns(ways, rounds, measureOne) {
  const names = Object.keys(ways);
  const runs = Object.fromEntries(names.map((name) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < names.length; turn++) {
      const name = names[(round + turn) % names.length];
      runs[name].push(await measureOne(ways[name]));
    }
  }
  return runs;
}

function* figures(runs, mode, clients) {
  const of = (way, what) => runs[way].map((run) => run[what]);
  for (const [way, wanted, atLeast] of [
    ['direct', 'session', 1],
    ['pooled', 'transaction', 0.9],
  ]) {
    const peer = [wanted, 'session', 'bare'].find((name) => name in runs);
    const floor = { bare: 'bare socket' }[peer] ?? `PgBouncer, ${peer} pooling`;
    const bar = peer === 'bare' ? {} : { bar: { atLeast, of: 'floor' } };
    const name = `pgbench -S -M ${mode}, ${clients} client${clients === 1 ? '' : 's'}, ${way} host`;
    yield {
      name,
      unit: 'tps',
      samples: of(way, 'tps'),
      floor: { name: floor, samples: of(peer, 'tps') },
      ...bar,
      note: `bare socket ${of('bare', 'tps').map(Math.round).join(', ')} tps`,
    };
    if (peer === 'bare') {
      yield { name: `${name}: processor time per transaction`, unit: 'us', samples: of(way, 'cpuUs') };
      continue;
    }
    yield {
      name: `${name}: processor time per transaction`,
      unit: 'us',
      samples: of(way, 'cpuUs'),
      floor: { name: floor, samples: of(peer, 'cpuUs') },
    };
    if (clients > 1) continue;
    const added = (name) => of(name, 'latencyUs').map((us, round) => us - runs.bare[round].latencyUs);
    yield {
      name: `${name}: latency added to the bare socket`,
      unit: 'us',
      samples: added(way),
      floor: { name: floor, samples: added(peer) },
      bar: { atMost: 1, of: 'floor' },
    };
  }
}
