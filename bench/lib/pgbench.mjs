/**
 * pgbench and PgBouncer, the client and the peer of the proxy's figures. PgBouncer stands before the same compute as the proxy,
 * enters by the same Unix socket, and has the same certificate where it speaks TLS.
 */
import { execFile, execFileSync, spawn } from 'node:child_process';
import { chownSync, copyFileSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { cpuMs } from './machine.mjs';
import { freePort } from './product.mjs';

const run = promisify(execFile);
const DEBIAN = '/usr/lib/postgresql';
const PGBENCH = find([
  ...(existsSync(DEBIAN) ? readdirSync(DEBIAN).map((major) => `${DEBIAN}/${major}/bin/pgbench`) : []),
  '/usr/bin/pgbench',
  '/usr/local/bin/pgbench',
]);
const PGBOUNCER = find(['/usr/sbin/pgbouncer', '/usr/bin/pgbouncer', '/usr/local/bin/pgbouncer']);
const START_TIMEOUT_MS = 30_000;

export const hasPgbench = PGBENCH !== undefined;
export const hasBouncer = PGBOUNCER !== undefined;
/** Since 1.21 prepared statements survive transaction pooling. */
export const bouncerPrepares = hasBouncer && bouncerVersion() >= 121;

function find(candidates) {
  return candidates.find((file) => existsSync(file));
}

function bouncerVersion() {
  const [, major, minor] = /PgBouncer (\d+)\.(\d+)/.exec(execFileSync(PGBOUNCER, ['--version'], { encoding: 'utf8' }));
  return Number(major) * 100 + Number(minor);
}

/** Runs pgbench as the role of `place`; `env` says where to. */
export async function pgbench(place, env, args) {
  const own = { PATH: process.env.PATH, PGUSER: place.role, PGPASSWORD: place.password, PGDATABASE: place.database };
  const { stdout } = await run(PGBENCH, args, { env: { ...own, PGSSLMODE: 'disable', ...env } });
  return stdout;
}

/**
 * One run of `pgbench -S`: transactions per second, latency in microseconds, and the processor time that the process
 * between client and compute used per transaction, in microseconds, without what the logins cost (undefined where there
 * is no such process).
 */
export async function selectOnly(place, way, { clients, transactions, mode }) {
  const each = Math.ceil(transactions / clients);
  const args = ['-n', '-S', '-M', mode, '-c', String(clients), '-j', '1'];
  const used = async (count) => {
    const before = way.pid === undefined ? 0 : cpuMs(way.pid);
    const output = await pgbench(place, way.env, [...args, '-t', String(count)]);
    return { output, ms: way.pid === undefined ? 0 : cpuMs(way.pid) - before };
  };
  const logins = way.pid === undefined ? { ms: 0 } : await used(1);
  const { output, ms } = await used(each);
  const [, tps] = /tps = ([\d.]+) \(without initial/.exec(output);
  return {
    tps: Number(tps),
    latencyUs: (clients / Number(tps)) * 1e6,
    cpuUs: way.pid === undefined ? undefined : ((ms - logins.ms) * 1000) / ((each - 1) * clients),
  };
}

/** The same with a connection for every transaction: how many a second, and what each cost the process in the middle. */
export async function connectOnly(place, way, { clients, connections }) {
  const before = cpuMs(way.pid);
  const each = String(Math.ceil(connections / clients));
  const output = await pgbench(place, way.env, ['-n', '-S', '-C', '-c', String(clients), '-j', '1', '-t', each]);
  const [, tps] = /tps = ([\d.]+) \(including reconnection/.exec(output);
  return { perSecond: Number(tps), cpuUs: ((cpuMs(way.pid) - before) * 1000) / (Number(each) * clients) };
}

/**
 * A PgBouncer with two databases for the compute's one: `<database>` pools by session, `<database>_transaction` by
 * transaction. Runs as the compute's user: as root it would refuse to, and nobody else may enter the socket's directory.
 * Gives { pid, port, session, transaction, stop }, the two being environments for pgbench.
 */
export async function startBouncer({ product, pool, compute, socketDirectory, place }) {
  const directory = path.join(pool.directory, 'pgbouncer');
  mkdirSync(directory, { recursive: true, mode: 0o755 });
  const port = await freePort();
  const write = (name, text) => writeFileSync(path.join(directory, name), text, { mode: 0o644 });
  const certificate = (name) => {
    const file = path.join(directory, name);
    copyFileSync(path.join(product.dataDir, 'tls', name), file);
    chownSync(file, compute.uid, compute.uid);
    return file;
  };
  const target = `host=${socketDirectory} port=5432 dbname=${place.database} user=${place.role} password=${place.password}`;
  write('users.txt', `"${place.role}" "${place.password}"\n`);
  write(
    'pgbouncer.ini',
    [
      '[databases]',
      `${place.database} = ${target} pool_mode=session`,
      `${place.database}_transaction = ${target} pool_mode=transaction`,
      '[pgbouncer]',
      'listen_addr = 127.0.0.1',
      `listen_port = ${port}`,
      'listen_backlog = 1024',
      'unix_socket_dir =',
      'auth_type = scram-sha-256',
      `auth_file = ${directory}/users.txt`,
      'max_client_conn = 4000',
      'default_pool_size = 64',
      // So that the sessions of one way are no weight on the compute while the next is measured.
      'server_idle_timeout = 2',
      ...(bouncerPrepares ? ['max_prepared_statements = 200'] : []),
      'client_tls_sslmode = allow',
      `client_tls_cert_file = ${certificate('server.pem')}`,
      `client_tls_key_file = ${certificate('server-key.pem')}`,
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
  const session = { PGHOST: '127.0.0.1', PGPORT: String(port) };
  const stop = async () => {
    const ended = new Promise((resolve) => child.once('exit', resolve));
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL');
      await ended;
    }
    rmSync(directory, { recursive: true, force: true });
  };
  const deadlineMs = Date.now() + START_TIMEOUT_MS;
  for (;;) {
    const ready = await pgbench(place, session, ['-n', '-S', '-t', '1']).then(
      () => true,
      () => false,
    );
    if (ready) break;
    if (child.exitCode !== null || Date.now() > deadlineMs) {
      await stop();
      throw new Error(`PgBouncer did not start (${child.exitCode})`);
    }
    await pause(25);
  }
  return {
    pid: child.pid,
    port,
    session,
    transaction: { ...session, PGDATABASE: `${place.database}_transaction` },
    stop,
  };
}
