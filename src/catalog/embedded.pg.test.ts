import { execFile } from 'node:child_process';
import { mkdtemp, readFile, readdir, rm, stat } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readConfig } from '../config.ts';
import type { Home } from '../home.ts';
import { prepareHome } from '../home-prepare.ts';
import { silentLogger } from '../lib/log.ts';
import { findServer } from '../postgres/server.ts';
import { prepareExtensions } from '../postgres/extensions.ts';
import { createInstallations } from '../postgres/installations.ts';
import { CatalogDatabase } from './database.ts';
import { startEmbeddedCatalog, type EmbeddedCatalog, type EmbeddedCatalogOptions } from './embedded.ts';

const logger = silentLogger();
const isRoot = process.getuid?.() === 0;
let dataDir: string;
let home: Home;
let options: EmbeddedCatalogOptions;
let embedded: EmbeddedCatalog;

beforeAll(async () => {
  dataDir = await mkdtemp(path.join(os.tmpdir(), 'ballast-embedded-'));
  const config = readConfig({ dataDir: path.join(dataDir, 'data') }, {});
  home = await prepareHome(config);
  const installations = createInstallations({ home, config, logger, prepareExtensions });
  options = { home, config, installations, logger };
  embedded = await startEmbeddedCatalog(options);
});
afterAll(async () => {
  await embedded.stop();
  await rm(dataDir, { recursive: true, force: true });
});

async function ask<T>(text: string): Promise<T[]> {
  const catalog = new CatalogDatabase({ connection: embedded.connection, logger });
  try {
    return await catalog.query<T>(text);
  } finally {
    await catalog.close();
  }
}

test('accepts Ballast and is durable', async () => {
  const [row] = await ask<Record<string, string>>(
    `select current_setting('fsync') as fsync, current_setting('synchronous_commit') as synchronous_commit,
       current_setting('listen_addresses') as listen_addresses, current_setting('data_checksums') as data_checksums`,
  );
  expect(row).toEqual({ fsync: 'on', synchronousCommit: 'on', listenAddresses: '', dataChecksums: 'on' });
});

test('refuses everybody who does not know the secret', async () => {
  for (const password of [undefined, 'guess']) {
    const client = new pg.Client({ ...embedded.connection, password });
    client.on('error', () => undefined);
    await expect(client.connect()).rejects.toThrow(/password/i);
  }
  const other = new pg.Client({ ...embedded.connection, user: 'postgres' });
  other.on('error', () => undefined);
  await expect(other.connect()).rejects.toThrow(/pg_hba/);
});

test('keeps its secret out of the data directory and out of the process list', async () => {
  const secret = embedded.connection.password!;
  expect((await stat(path.join(home.secrets, 'catalog'))).mode & 0o777).toBe(0o600);
  const { stdout } = await promisify(execFile)('ps', ['axww', '-o', 'args']);
  expect(stdout).not.toContain(secret);
  const found = await promisify(execFile)('grep', ['-rl', secret, home.catalog]).then(
    () => 'found',
    () => 'not found',
  );
  expect(found).toBe('not found');
  expect(await readdir(home.catalog)).toEqual(['pgdata']);
});

test.skipIf(!isRoot)(
  'as root, runs as its own user behind directories that no other user enters (needs root)',
  async () => {
    const uid = options.config.computeUidBase;
    for (const directory of [embedded.connection.host, home.catalog, path.join(home.catalog, 'pgdata')]) {
      const facts = await stat(directory);
      expect({ directory, uid: facts.uid, mode: facts.mode & 0o777 }).toEqual({ directory, uid, mode: 0o700 });
    }
    const server = await findServer(path.join(home.catalog, 'pgdata'));
    expect(await readFile(`/proc/${server!.pid}/status`, 'utf8')).toMatch(new RegExp(`^Uid:\\s+${uid}\\s+${uid}`, 'm'));
  },
);

test('is taken over when it outlived Ballast', async () => {
  const before = await findServer(path.join(home.catalog, 'pgdata'));
  const again = await startEmbeddedCatalog(options);
  expect((await findServer(path.join(home.catalog, 'pgdata')))!.pid).toBe(before!.pid);
  expect(again.connection).toEqual(embedded.connection);
  // Two keepers would both start it again; the first one's does so here.
  await again.stop();
  await expect.poll(() => ask('select 1 as n').catch(() => undefined)).toEqual([{ n: 1 }]);
});

test('comes back by itself when it is killed, with what was committed', async () => {
  await ask('create table public.kept (n integer); insert into public.kept values (7)');
  process.kill((await findServer(path.join(home.catalog, 'pgdata')))!.pid, 'SIGKILL');
  await expect.poll(() => ask('select n from public.kept').catch(() => undefined)).toEqual([{ n: 7 }]);
});

test('starts again with what it held after a clean stop', async () => {
  await embedded.stop();
  expect(await findServer(path.join(home.catalog, 'pgdata'))).toBeUndefined();
  embedded = await startEmbeddedCatalog(options);
  expect(await ask('select n from public.kept')).toEqual([{ n: 7 }]);
});
