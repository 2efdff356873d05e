/**
 * Where one compute keeps its things outside the data directory, and the record by which it is found again.
 *
 *   <run>/computes/<endpoint id>/    postgresql.conf, pg_hba.conf, pg_ident.conf, jwt.json (readable by the compute's user),
 *                                    record.json (Ballast's alone); written before Postgres starts
 *   <sockets>/<endpoint id>/         where Postgres makes its socket
 *   <sockets>/<96 random bits>/      the same directory, renamed once Postgres is up
 *
 * The rename is a lock. A socket stays reachable under its directory's new name, which only Ballast knows: code that
 * runs inside the compute (dblink, a subscription) can read unix_socket_directories, but finds nothing there, so every
 * connection comes through the proxy and its filter of replication commands. As root the directory is also closed to
 * the compute's user.
 */
import { randomBytes } from 'node:crypto';
import { chmod, chown, mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Home } from '../home.ts';
import type { FileOwner } from '../storage/types.ts';
import type { ComputeSpec } from './types.ts';

export interface Places {
  configuration: string;
  record: string;
  log: string;
  /** Where Postgres believes its socket to be. */
  openSocketDirectory: string;
}

export interface ComputeRecord {
  formatVersion: 1;
  spec: ComputeSpec;
  dataDirectory: string;
  /** Where the socket is once the compute may be entered. */
  socketDirectory: string;
  /** Set once clients may enter; a compute that was interrupted before is stopped, not adopted. */
  ready: boolean;
}

const SAFE_ID = /^[a-z0-9][a-z0-9-]{0,62}$/;

/** Throws RangeError for an id that cannot be a file name; ids come from our own rows. */
export function placesOf(home: Pick<Home, 'run' | 'sockets' | 'log'>, endpointId: string): Places {
  if (!SAFE_ID.test(endpointId)) throw new RangeError(`unsafe endpoint id ${endpointId}`);
  const configuration = path.join(home.run, 'computes', endpointId);
  return {
    configuration,
    record: path.join(configuration, 'record.json'),
    log: path.join(home.log, 'computes', `${endpointId}.log`),
    openSocketDirectory: path.join(home.sockets, endpointId),
  };
}

export function newSocketDirectory(home: Pick<Home, 'sockets'>): string {
  return path.join(home.sockets, randomBytes(12).toString('hex'));
}

/** Files by name, readable by the compute's user and writable by Ballast alone. */
export async function writeConfiguration(
  directory: string,
  files: Record<string, string>,
  owner: FileOwner | undefined,
): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o711 });
  // Whatever the umask was: another user has to get through.
  if (owner) await Promise.all([path.dirname(directory), directory].map((place) => chmod(place, 0o711)));
  await Promise.all(
    Object.entries(files).map(async ([name, content]) => {
      const file = path.join(directory, name);
      // A running compute may be reading the one that is there.
      const temporary = `${file}.tmp`;
      await writeFile(temporary, content, { mode: 0o600 });
      if (owner) {
        await chown(temporary, 0, owner.gid);
        await chmod(temporary, 0o640);
      }
      await rename(temporary, file);
    }),
  );
}

export async function writeRecord(places: Places, record: ComputeRecord): Promise<void> {
  await mkdir(places.configuration, { recursive: true, mode: 0o711 });
  const temporary = `${places.record}.tmp`;
  await writeFile(temporary, JSON.stringify(record), { mode: 0o600 });
  await rename(temporary, places.record);
}

/** Every record that can be read, by endpoint id. Broken ones are left out. */
export async function readRecords(home: Pick<Home, 'run' | 'sockets' | 'log'>): Promise<ComputeRecord[]> {
  const names = await readdir(path.join(home.run, 'computes')).catch((): string[] => []);
  const records = await Promise.all(
    names
      .filter((name) => SAFE_ID.test(name))
      .map(async (name): Promise<ComputeRecord | undefined> => {
        try {
          return JSON.parse(await readFile(placesOf(home, name).record, 'utf8')) as ComputeRecord;
        } catch {
          return undefined;
        }
      }),
  );
  return records.filter((record) => record !== undefined && record.formatVersion === 1) as ComputeRecord[];
}

/** An empty directory in which the compute's user may make a socket. */
export async function openSocketDirectory(directory: string, owner: FileOwner | undefined): Promise<void> {
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory, { mode: 0o700 });
  if (owner) await chown(directory, owner.uid, owner.gid);
}

/** From here on only Ballast reaches the socket. */
export async function sealSocketDirectory(from: string, to: string, owner: FileOwner | undefined): Promise<void> {
  if (owner) await chown(from, 0, 0);
  await rename(from, to);
}

/** What a compute leaves behind; its log stays. */
export async function removePlaces(places: Places, socketDirectory: string): Promise<void> {
  const remove = (place: string) => rm(place, { recursive: true, force: true });
  await Promise.all([remove(places.openSocketDirectory), remove(socketDirectory), remove(places.configuration)]);
}
