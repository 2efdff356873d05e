/**
 * A fresh, migrated catalog database for each test file, on one throw-away Postgres that all test processes of this tree share.
 *
 * The first opener starts the server (fsync off, Unix socket only, as `nobody` when the tests run as root), the last
 * one to close stops it and removes its files. Databases are copies of a template that the migrations filled once.
 * Layout: `<tmp>/ballast-test-catalog-<uid>-<tree>/{data,socket,log}` and the lock directory `….lock` beside it.
 */
import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { chown, mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import { CatalogDatabase, type CatalogConnection } from '../../src/catalog/database.ts';
import { migrate, readMigrations } from '../../src/catalog/migrate.ts';
import { silentLogger } from '../../src/lib/log.ts';
import { findServer, isAlive, startServer, stopServer } from '../../src/postgres/server.ts';
import { testInstallation } from './installation.ts';

export interface TestCatalog {
  catalog: CatalogDatabase;
  /** For further CatalogDatabases on the same database, and for `pg` clients. */
  connection: CatalogConnection;
  close(): Promise<void>;
}

const run = promisify(execFile);
const uid = process.getuid?.() ?? 0;
/** A tree has a server of its own: it runs from the tree's packages, and would not survive another tree. */
const TREE = createHash('sha256')
  .update(import.meta.dirname)
  .digest('hex')
  .slice(0, 8);
const ROOT = path.join(os.tmpdir(), `ballast-test-catalog-${uid}-${TREE}`);
const DATA = path.join(ROOT, 'data');
const SOCKET = path.join(ROOT, 'socket');
const LOCK = `${ROOT}.lock`;
const NOBODY = { uid: 65534, gid: 65534 };
const owner = uid === 0 ? NOBODY : undefined;

/** `migrated: false` gives an empty database. */
export async function openTestCatalog(options: { migrated?: boolean } = {}): Promise<TestCatalog> {
  const name = `test_${randomBytes(6).toString('hex')}`;
  // The keeper's session is what tells other processes that the server is in use.
  const keeper = await withLock(async () => {
    if (!(await findServer(DATA))) await start();
    const client = new pg.Client({ ...serverConnection('postgres'), ssl: false });
    client.on('error', () => undefined);
    await client.connect();
    try {
      const template = options.migrated === false ? 'template0' : await makeTemplate(client);
      await client.query(`create database ${name} template ${template}`);
    } catch (error) {
      await release(client);
      throw error;
    }
    return client;
  });
  const connection = serverConnection(name);
  const catalog = new CatalogDatabase({ connection, logger: silentLogger(), name: 'test' });
  return {
    catalog,
    connection,
    close: async () => {
      await catalog.close();
      await withLock(async () => {
        await keeper.query(`drop database if exists ${name} with (force)`);
        await release(keeper);
      });
    },
  };
}

/** Stops the server when this was its last session. */
async function release(keeper: pg.Client): Promise<void> {
  const { rows } = await keeper.query(
    `select 1 from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()`,
  );
  await keeper.end();
  if (rows.length === 0) await stop();
}

function serverConnection(database: string): CatalogConnection {
  return { host: SOCKET, port: 5432, user: 'ballast', database, password: undefined, ssl: false };
}

async function makeTemplate(client: pg.Client): Promise<string> {
  const migrations = await readMigrations();
  const name = `template_${migrations.map((migration) => migration.checksum.slice(0, 8)).join('_')}`;
  const { rows } = await client.query('select 1 from pg_database where datname = $1', [name]);
  if (rows.length > 0) return name;
  await client.query(`drop database if exists ${name}_new`);
  await client.query(`create database ${name}_new template template0`);
  const catalog = new CatalogDatabase({ connection: serverConnection(`${name}_new`), logger: silentLogger() });
  await migrate(catalog, migrations);
  await catalog.close();
  await client.query(`alter database ${name}_new rename to ${name}`);
  return name;
}

async function start(): Promise<void> {
  await rm(ROOT, { recursive: true, force: true });
  await mkdir(SOCKET, { recursive: true, mode: 0o755 });
  await mkdir(DATA, { mode: 0o700 });
  if (owner) for (const directory of [DATA, SOCKET]) await chown(directory, owner.uid, owner.gid);
  const installation = await testInstallation();
  await run(
    installation.initdb,
    ['-D', DATA, '-U', 'ballast', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-sync', '--no-instructions'],
    { env: { ...installation.env, LC_ALL: 'C' }, cwd: ROOT, ...owner },
  );
  await startServer({
    installation,
    dataDirectory: DATA,
    owner,
    args: settings(),
    logFile: path.join(ROOT, 'log'),
    readyWithinMs: 20_000,
  });
}

function settings(): string[] {
  const values = {
    listen_addresses: '',
    unix_socket_directories: SOCKET,
    fsync: 'off',
    full_page_writes: 'off',
    shared_buffers: '32MB',
    max_connections: '200',
    max_wal_size: '256MB',
    wal_level: 'minimal',
    max_wal_senders: '0',
    jit: 'off',
  };
  return Object.entries(values).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
}

async function stop(): Promise<void> {
  const server = await findServer(DATA);
  if (server) await stopServer(server, DATA, { fastWithinMs: 5_000 });
  await rm(ROOT, { recursive: true, force: true });
}

/** Across processes: mkdir is atomic; a lock whose holder died is broken. */
async function withLock<T>(work: () => Promise<T>): Promise<T> {
  const pidFile = path.join(LOCK, 'pid');
  for (;;) {
    try {
      await mkdir(LOCK);
      await writeFile(pidFile, String(process.pid));
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    const holder = Number(await readFile(pidFile, 'utf8').catch(() => '0'));
    const age =
      Date.now() -
      (await stat(LOCK).then(
        (s) => s.mtimeMs,
        () => Date.now(),
      ));
    if (holder ? !isAlive(holder) : age > 5_000) await rm(LOCK, { recursive: true, force: true });
    else await sleep(20);
  }
  try {
    return await work();
  } finally {
    await rm(LOCK, { recursive: true, force: true });
  }
}
