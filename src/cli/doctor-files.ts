/**
 * Doctor's checks of the data directory: owners, modes, space, user ids.
 */
import { readdir, readFile, stat, statfs } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import type { Config } from '../config.ts';
import { closedAncestor } from '../home-prepare.ts';
import { watermarks } from '../storage/pool.ts';
import type { DoctorContext, Finding } from './finding.ts';
import { formatBytes } from './print.ts';

/** How many projects one should be able to make before their user ids meet somebody else's. */
const UIDS_WANTED = 100_000;

export async function checkDataDirectory({ home, uid }: DoctorContext): Promise<Finding[]> {
  const name = 'data directory';
  const found = await stat(home.dataDir).catch(() => undefined);
  if (found === undefined) {
    return [{ name, level: 'ok', text: `${home.dataDir} does not exist yet; \`ballast start\` makes it` }];
  }
  if (!found.isDirectory()) return [{ name, level: 'fail', text: `${home.dataDir} is not a directory` }];
  if (found.uid !== uid) {
    const text = `${home.dataDir} belongs to user id ${found.uid}, this is user id ${uid}`;
    return [{ name, level: 'fail', text, fix: `run Ballast as that user, or chown -R ${uid} ${home.dataDir}` }];
  }
  const secrets = [home.apiKeyFile, ...['cloud-admin', 'seal-key'].map((leaf) => path.join(home.secrets, leaf))];
  const findings: Finding[] = [];
  for (const file of secrets) {
    const stats = await stat(file).catch(() => undefined);
    if (stats !== undefined && (stats.mode & 0o077) !== 0) {
      findings.push({ name, level: 'fail', text: `${file} can be read by others`, fix: `chmod 600 ${file}` });
    }
  }
  for (const directory of uid === 0 ? [home.pool, home.run, home.postgres] : []) {
    const closed = await closedAncestor(directory);
    if (closed === undefined) continue;
    const text = `Postgres cannot reach ${directory}: ${closed} is closed to other users`;
    findings.push({ name, level: 'fail', text, fix: `chmod o+x ${closed}` });
  }
  return findings.length > 0 ? findings : [{ name, level: 'ok', text: home.dataDir }];
}

/** Only the embedded one: of another, its own server knows more. */
export async function checkCatalog({ config, home, running }: DoctorContext): Promise<Finding[]> {
  const name = 'catalog';
  if (config.catalogUrl !== undefined || running !== undefined) return [];
  const version = path.join(home.catalog, 'pgdata/PG_VERSION');
  if ((await stat(version).catch(() => undefined)) !== undefined) return [];
  const projects = (await readdir(home.pool).catch((): string[] => [])).filter((entry) => /-\d+$/.test(entry));
  if (projects.length === 0) return [];
  const text = `the catalog is lost: ${home.pool} holds the data of ${projects.length} project(s), and nothing knows of it`;
  return [{ name, level: 'fail', text, fix: `ballast catalog rebuild --data-dir ${home.dataDir}` }];
}

export async function checkSpace({ home }: DoctorContext): Promise<Finding[]> {
  const name = 'space';
  const { bsize, bavail, blocks } = await statfs(await existingAncestor(home.pool));
  const freeBytes = bavail * bsize;
  const { highBytes, fullBytes } = watermarks(blocks * bsize);
  const text = `${formatBytes(freeBytes)} free of ${formatBytes(blocks * bsize)} for the pool`;
  if (freeBytes >= highBytes) return [{ name, level: 'ok', text }];
  const fix = 'delete branches that nobody needs, or move the pool: ballast start --pool <directory on a larger disk>';
  return [
    { name, level: freeBytes < fullBytes ? 'fail' : 'warn', text: `only ${text}; new branches are refused`, fix },
  ];
}

/** The directory itself or the nearest above it that exists. */
export async function existingAncestor(directory: string): Promise<string> {
  const found = await stat(directory).catch(() => undefined);
  return found?.isDirectory() || directory === path.dirname(directory)
    ? directory
    : existingAncestor(path.dirname(directory));
}

export async function checkUids({ config, uid }: DoctorContext): Promise<Finding[]> {
  const name = 'user ids';
  if (uid !== 0) {
    if (!hasPasswordEntry()) {
      const text = `user id ${uid} has no entry in the password file, which Postgres insists on`;
      return [{ name, level: 'fail', text, fix: `useradd --uid ${uid} ballast   (as root)` }];
    }
    return [{ name, level: 'ok', text: `everything runs as user id ${uid}; as root each project would get its own` }];
  }
  const last = config.computeUidBase + UIDS_WANTED;
  const taken = await takenUid(config, last);
  if (taken === undefined) {
    return [{ name, level: 'ok', text: `Postgres runs as user ids from ${config.computeUidBase}, one per project` }];
  }
  const text = `${taken} lies in the user ids from ${config.computeUidBase} that Postgres runs as`;
  return [
    { name, level: 'warn', text, fix: 'ballast start --compute-uid-base <a free range>   (before the first project)' },
  ];
}

function hasPasswordEntry(): boolean {
  try {
    return os.userInfo().username !== '';
  } catch {
    return false;
  }
}

async function takenUid(config: Config, last: number): Promise<string | undefined> {
  const passwd = await readFile('/etc/passwd', 'utf8').catch(() => '');
  for (const line of passwd.split('\n')) {
    const [user = '', , id = ''] = line.split(':');
    if (Number(id) >= config.computeUidBase && Number(id) < last) return `user ${user} (${id})`;
  }
  const subuid = await readFile('/etc/subuid', 'utf8').catch(() => '');
  for (const line of subuid.split('\n')) {
    const [user = '', start = '', count = ''] = line.split(':');
    if (count === '') continue;
    const overlaps = Number(start) < last && Number(start) + Number(count) > config.computeUidBase;
    if (overlaps) return `the subordinate range of ${user} (${start}:${count})`;
  }
  return undefined;
}
