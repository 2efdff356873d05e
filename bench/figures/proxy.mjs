/**
 * pgbench -S -M prepared through the proxy, through PgBouncer with session pooling, and straight to the compute's Unix
 * socket, in turn, with 8 clients and with 1. Without TLS everywhere: PgBouncer's would be another library's figure.
 */
import { execFile, spawn } from 'node:child_process';
import { chownSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { computeOf, freePort, openSocketDirectory, query } from '../lib/product.mjs';

const run = promisify(execFile);
const ROUNDS = 3;
const SECONDS = 4;
const SCALE = 5;
const PGBENCH = ['/usr/bin/pgbench', '/usr/local/bin/pgbench'].find((file) => existsSync(file));
const PGBOUNCER = ['/usr/sbin/pgbouncer', '/usr/bin/pgbouncer'].find((file) => existsSync(file));

export const needs = ['xfs'];

export async function* measure({ product, pool, skip }) {
  if (PGBENCH === undefined || PGBOUNCER === undefined) {
    skip('proxy: pgbench or pgbouncer is not installed');
    return;
  }
  const place = await product.createProject({
    name: 'pgbench',
    default_endpoint_settings: { suspend_timeout_seconds: -1 },
  });
  const compute = computeOf(product, place);
  const socketDirectory = openSocketDirectory(product, compute);
  const direct = { PGHOST: socketDirectory, PGPORT: '5432' };
  const proxy = { PGHOST: '127.0.0.1', PGPORT: String(product.pgPort), PGOPTIONS: `endpoint=${place.endpointId}` };
  await pgbench(place, direct, ['-i', '-s', String(SCALE), '-q']);
  await query(place.uri, 'vacuum analyze');
  const bouncer = await startBouncer(pool, compute, socketDirectory, place);
  try {
    for (const clients of [8, 1]) {
      const tps = { proxy: [], bouncer: [], direct: [] };
      const ways = { bouncer: bouncer.env, proxy, direct };
      for (let round = 0; round < ROUNDS; round++) {
        for (const [way, env] of Object.entries(ways)) tps[way].push(await transactionsPerSecond(place, env, clients));
      }
      const name = `pgbench -S -M prepared, ${clients} client${clients === 1 ? '' : 's'}, through the proxy`;
      yield {
        name,
        unit: 'tps',
        samples: tps.proxy,
        floor: { name: 'PgBouncer, session pooling', samples: tps.bouncer },
        bar: { atLeast: 0.9, of: 'floor' },
      };
      yield {
        name: `${name}, beside the bare socket`,
        unit: 'tps',
        samples: tps.proxy,
        floor: { name: 'direct', samples: tps.direct },
      };
    }
  } finally {
    await bouncer.stop();
  }
}

async function pgbench(place, env, args) {
  const own = {
    PATH: process.env.PATH,
    PGUSER: place.role,
    PGPASSWORD: place.password,
    PGDATABASE: place.database,
    PGSSLMODE: 'disable',
  };
  const { stdout } = await run(PGBENCH, args, { env: { ...own, ...env } });
  return stdout;
}

async function transactionsPerSecond(place, env, clients) {
  const output = await pgbench(place, env, [
    '-n',
    '-S',
    '-M',
    'prepared',
    '-c',
    String(clients),
    '-j',
    '1',
    '-T',
    String(SECONDS),
  ]);
  const [, tps] = /tps = ([\d.]+) \(without initial/.exec(output);
  return Number(tps);
}

/** Runs as the compute's user: as root it would refuse to run, and nobody else may enter the socket's directory. */
async function startBouncer(pool, compute, socketDirectory, place) {
  const directory = path.join(pool.directory, 'pgbouncer');
  mkdirSync(directory, { recursive: true, mode: 0o755 });
  const port = await freePort();
  const write = (name, text) => writeFileSync(path.join(directory, name), text, { mode: 0o644 });
  write('users.txt', `"${place.role}" "${place.password}"\n`);
  write(
    'pgbouncer.ini',
    [
      '[databases]',
      `${place.database} = host=${socketDirectory} port=5432 dbname=${place.database} user=${place.role} password=${place.password}`,
      '[pgbouncer]',
      'listen_addr = 127.0.0.1',
      `listen_port = ${port}`,
      'unix_socket_dir =',
      'auth_type = scram-sha-256',
      `auth_file = ${directory}/users.txt`,
      'pool_mode = session',
      'max_client_conn = 100',
      'default_pool_size = 50',
      'log_connections = 0',
      'log_disconnections = 0',
      'ignore_startup_parameters = extra_float_digits,options',
    ].join('\n'),
  );
  chownSync(directory, compute.uid, compute.uid);
  const own = process.getuid?.() === 0 ? { uid: compute.uid, gid: compute.uid } : {};
  const child = spawn(PGBOUNCER, ['-q', path.join(directory, 'pgbouncer.ini')], {
    stdio: 'ignore',
    env: { PATH: process.env.PATH },
    ...own,
  });
  const env = { PGHOST: '127.0.0.1', PGPORT: String(port) };
  for (let attempt = 0; ; attempt++) {
    if (child.exitCode !== null || attempt > 200) throw new Error(`PgBouncer did not start (${child.exitCode})`);
    const ready = await transactionsCount(place, env).catch(() => false);
    if (ready) break;
    await pause(25);
  }
  return {
    env,
    async stop() {
      const ended = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGTERM');
      await Promise.race([ended, pause(2_000)]);
      child.kill('SIGKILL');
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

async function transactionsCount(place, env) {
  await pgbench(place, env, ['-n', '-S', '-t', '1']);
  return true;
}
