/**
 * The built product, driven from outside as a user does: started by its command, spoken to over HTTP and Postgres.
 */
import { spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statSync,
} from 'node:fs';
import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';

const BIN = path.resolve(import.meta.dirname, '../../bin/ballast.mjs');
const READY_TIMEOUT_MS = 120_000;
const OPERATION_TIMEOUT_MS = 300_000;
const ENDED = new Set(['finished', 'skipped', 'failed', 'error', 'cancelled']);

/** Boots a Ballast whose pool lies on the given directory. */
export async function bootProduct(poolDirectory, flags = []) {
  const root = mkdtempSync(path.join(os.tmpdir(), 'ballast-bench-'));
  chmodSync(root, 0o711);
  const dataDir = path.join(root, 'data');
  const pool = path.join(poolDirectory, 'pool');
  const [apiPort, pgPort] = [await freePort(), await freePort()];
  const address = ['--data-dir', dataDir, '--pool', pool, '--api-port', String(apiPort), '--pg-port', String(pgPort)];
  const child = spawn(process.execPath, [BIN, 'start', ...address, ...flags], {
    cwd: root,
    env: {
      PATH: process.env.PATH,
      HOME: root,
      UV_THREADPOOL_SIZE: '16',
      BALLAST_POSTGRES_PACKAGES: process.env.BALLAST_POSTGRES_PACKAGES ?? '',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  await untilReady(child);
  const key = readFileSync(path.join(dataDir, 'api-key'), 'utf8').trim();
  const baseUrl = `http://127.0.0.1:${apiPort}/api/v2`;
  const metrics = async () => {
    const response = await fetch(`http://127.0.0.1:${apiPort}/metrics`, {
      headers: { authorization: `Bearer ${key}` },
    });
    if (!response.ok) throw new Error(`GET /metrics answered ${response.status}`);
    return response.text();
  };
  return {
    ...client(baseUrl, key),
    /** The text of GET /metrics. */
    metrics,
    root,
    dataDir,
    pool: realpathSync(pool),
    pid: child.pid,
    apiPort,
    pgPort,
    baseUrl,
    key,
    stop,
  };

  async function stop() {
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGINT');
    await Promise.race([ended, pause(60_000)]);
    child.kill('SIGKILL');
    rmSync(root, { recursive: true, force: true });
  }
}

function untilReady(child) {
  return new Promise((resolve, reject) => {
    let output = '';
    const timer = setTimeout(() => reject(new Error(`not ready in time:\n${output}`)), READY_TIMEOUT_MS);
    const take = (chunk) => {
      if (output.length < 100_000) output += chunk;
      if (!/\bready\b/.test(output)) return;
      clearTimeout(timer);
      resolve();
    };
    child.stdout.on('data', take);
    child.stderr.on('data', take);
    child.once('exit', (code) => reject(new Error(`start ended with ${code}:\n${output}`)));
  });
}

function client(baseUrl, key) {
  async function call(method, route, body) {
    const response = await fetch(`${baseUrl}${route}`, {
      method,
      headers: {
        authorization: `Bearer ${key}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${route} answered ${response.status}: ${text}`);
    return text === '' ? undefined : JSON.parse(text);
  }

  async function settle(answer) {
    const deadlineMs = Date.now() + OPERATION_TIMEOUT_MS;
    for (const { id, project_id: project } of answer.operations ?? []) {
      for (;;) {
        const { operation } = await call('GET', `/projects/${project}/operations/${id}`);
        if (operation.status === 'finished' || operation.status === 'skipped') break;
        if (ENDED.has(operation.status) || Date.now() > deadlineMs) {
          throw new Error(`${operation.action} is ${operation.status}: ${operation.error ?? ''}`);
        }
        await pause(5);
      }
    }
    return answer;
  }

  const change = async (method, route, body) => settle(await call(method, route, body));

  async function createProject(project = {}) {
    return place(await change('POST', '/projects', { project }));
  }

  const suspend = (at) => change('POST', `/projects/${at.projectId}/endpoints/${at.endpointId}/suspend`);
  const deleteBranch = (at) => change('DELETE', `/projects/${at.projectId}/branches/${at.branchId}?hard_delete=true`);
  const requestBranch = (at, endpoints = [{ type: 'read_write' }]) =>
    call('POST', `/projects/${at.projectId}/branches`, { branch: { parent_id: at.branchId }, endpoints });

  return { call, settle, change, createProject, suspend, deleteBranch, requestBranch };
}

/** Where a created project is reached. */
export function place(created) {
  const [uri] = created.connection_uris;
  const { role, password, database } = uri.connection_parameters;
  const ids = { projectId: created.project.id, branchId: created.branch.id, endpointId: created.endpoints[0].id };
  return { ...ids, uri: uri.connection_uri, role, password, database };
}

/** Where a created branch is reached: roles, passwords and databases are its parent's. */
export function childOf(parent, created) {
  const endpointId = created.endpoints[0]?.id;
  return {
    ...parent,
    branchId: created.branch.id,
    endpointId,
    uri: parent.uri.replaceAll(parent.endpointId, endpointId),
  };
}

export async function query(uri, sql, values) {
  const session = new pg.Client({ connectionString: uri, connectionTimeoutMillis: 120_000 });
  session.on('error', () => {});
  await session.connect();
  try {
    return (await session.query(sql, values)).rows;
  } finally {
    await session.end();
  }
}

/** The postmaster that runs in a timeline of the pool: { pid, executable, env, dataDirectory, uid, }. */
export function computeOf(product, at) {
  const timeline = path.join(product.pool, at.projectId, at.branchId);
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const dataDirectory = readlinkSync(`/proc/${entry}/cwd`);
      if (!dataDirectory.startsWith(`${timeline}/`)) continue;
      const lines = readFileSync(path.join(dataDirectory, 'postmaster.pid'), 'utf8').split('\n');
      if (lines[0] !== entry) continue;
      const environment = readFileSync(`/proc/${entry}/environ`, 'utf8')
        .split('\0')
        .filter((line) => line.includes('='));
      const env = Object.fromEntries(
        environment.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
      );
      const [, uid] = /Uid:\s+(\d+)/.exec(readFileSync(`/proc/${entry}/status`, 'utf8'));
      return {
        pid: Number(entry),
        executable: readlinkSync(`/proc/${entry}/exe`),
        env,
        dataDirectory,
        uid: Number(uid),
      };
    } catch {
      // Gone meanwhile, or not ours to look at.
    }
  }
  throw new Error(`no compute runs on ${timeline}`);
}

/**
 * A directory in which the compute's user finds its socket. Ballast hides the real one from everybody but itself; a hard
 * link of the socket (same file system, root or the same user) is what lets the floors enter beside the proxy.
 */
export function openSocketDirectory(product, compute) {
  const run = path.join(product.dataDir, 'run');
  const sockets = readdirSync(run)
    .map((leaf) => path.join(run, leaf, '.s.PGSQL.5432'))
    .filter((file) => !file.includes('/catalog/') && existsSync(file) && statSync(file).uid === compute.uid);
  if (sockets.length !== 1) throw new Error(`expected the socket of one compute in ${run}, found ${sockets.length}`);
  const directory = mkdtempSync(path.join(product.root, 'socket-'));
  chmodSync(directory, 0o711);
  linkSync(sockets[0], path.join(directory, '.s.PGSQL.5432'));
  return directory;
}

/** Below those that the kernel gives to outgoing connections, of which a bench opens thousands. */
export async function freePort() {
  for (;;) {
    const port = 12_000 + randomInt(20_000);
    if (await isFree(port)) return port;
  }
}

function isFree(port) {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}
