/**
 * A plain Postgres on a Unix socket, without anything of Ballast around it, for tests of the wire and the proxy.
 * Local users need a password (SCRAM); `postgres` is the superuser, with the password `postgres`.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { appendFile, chown, mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { startServer, stopServer } from '../../src/postgres/server.ts';
import { BUNDLED_MAJOR, testInstallation } from './installation.ts';

export interface PlainPostgres {
  major: number;
  socketDirectory: string;
  socketPath: string;
  /** One statement as superuser; `database` defaults to postgres. */
  query<Row extends pg.QueryResultRow>(text: string, database?: string): Promise<Row[]>;
  stop(): Promise<void>;
}

const run = promisify(execFile);
const NOBODY = { uid: 65534, gid: 65534 };
/** Majors of the system and the bundled one, bundled first, then newest first. */
export function plainMajors(): number[] {
  const system = [18, 17, 16, 15, 14].filter((major) => existsSync(`/usr/lib/postgresql/${major}/bin/initdb`));
  return [...new Set([BUNDLED_MAJOR, ...system])];
}

export async function startPlainPostgres(
  major = BUNDLED_MAJOR,
  settings: Record<string, string> = {},
  /** Names the socket; TCP takes listen_addresses besides. */
  { port = 5432 }: { port?: number } = {},
): Promise<PlainPostgres> {
  const home = await mkdtemp(path.join(os.tmpdir(), 'ballast-plain-'));
  const data = path.join(home, 'data');
  const owner = process.getuid?.() === 0 ? NOBODY : undefined;
  if (owner) await chown(home, owner.uid, owner.gid);
  const installation = await testInstallation(major);
  const passwordFile = path.join(home, 'password');
  await writeFile(passwordFile, 'postgres\n', { mode: 0o644 });
  await run(
    installation.initdb,
    [
      '-D',
      data,
      '-U',
      'postgres',
      '-A',
      'scram-sha-256',
      `--pwfile=${passwordFile}`,
      '-E',
      'UTF8',
      '--locale=C',
      '--no-sync',
    ],
    { env: { ...installation.env, LC_ALL: 'C' }, cwd: home, ...owner },
  );
  await appendFile(path.join(data, 'pg_hba.conf'), 'local replication all scram-sha-256\n');
  const all: Record<string, string> = {
    listen_addresses: '',
    port: String(port),
    unix_socket_directories: home,
    fsync: 'off',
    shared_buffers: '32MB',
    max_connections: '120',
    wal_level: 'logical',
    ...settings,
  };
  const server = await startServer({
    installation,
    dataDirectory: data,
    owner,
    args: Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
    logFile: path.join(home, 'log'),
    readyWithinMs: 30_000,
  });
  return {
    major,
    socketDirectory: home,
    socketPath: path.join(home, `.s.PGSQL.${port}`),
    query: async <Row extends pg.QueryResultRow>(text: string, database = 'postgres') => {
      const client = new pg.Client({
        host: home,
        port,
        database,
        user: 'postgres',
        password: 'postgres',
        ssl: false,
      });
      await client.connect();
      try {
        return (await client.query<Row>(text)).rows;
      } finally {
        await client.end();
      }
    },
    stop: async () => {
      await stopServer(server, data, { fastWithinMs: 5_000 });
      await rm(home, { recursive: true, force: true });
    },
  };
}
