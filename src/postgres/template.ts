/**
 * Templates: one freshly made cluster per major and build, which every new project clones.
 *
 *   <pool>/template/<major>-<build>/pgdata/   at rest, clean, never started again
 *   <pool>/template/<major>-<build>/meta.json what it is; written before the directory gets its name
 *
 * Everything that all projects share is done here once: cloud_admin's verifier, neon_superuser and its grants, the
 * roles and functions by which a tenant could reach the host (template-sql.ts). The work is done in single-user mode:
 * no socket, no port, nobody else can be in. initdb and postgres refuse to run as root, and initdb wants a user that
 * the password file knows, so root lends the work to `nobody` and takes the files back afterwards.
 */
import { randomBytes } from 'node:crypto';
import { chmod, chown, mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { run } from '../lib/child-process.ts';
import { syncDirectories } from '../lib/durable.ts';
import type { Durable } from '../lib/durable.ts';
import type { Logger } from '../lib/log.ts';
import { formatLsn } from '../lib/lsn.ts';
import type { Lsn } from '../lib/lsn.ts';
import { SingleFlight } from '../lib/single-flight.ts';
import { readControlData } from './control-data.ts';
import { templateScript } from './template-sql.ts';
import type { Installations, PostgresInstallation } from './types.ts';

/** Bumped when what a template contains changes; templates of other revisions are left alone and not used. */
const REVISION = 2;
const WAL_SEGMENT_MEBIBYTES = 4;

export interface TemplateMeta {
  revision: number;
  /** The directory's name. */
  name: string;
  major: number;
  version: string;
  build: string;
  timelineId: number;
  /** Its shutdown checkpoint: WAL of a project replays onto the template from here. */
  redoLsn: Lsn;
  catalogVersion: number;
}

export interface Template extends TemplateMeta {
  dataDirectory: string;
}

export interface Templates {
  /** Makes it when needed (about a second). Throws what installations.get throws. */
  get(major: number): Promise<Template>;
  /** One that was made before, by name. */
  find(name: string): Promise<Template | undefined>;
  /** True for the temporary name of one that is being made now. */
  making(temporaryName: string): boolean;
}

export interface TemplatesOptions {
  /** `<pool>/template`. */
  directory: string;
  installations: Installations;
  /** cloud_admin's password. */
  secret: string;
  durable: Durable;
  logger: Logger;
  /** Makes an empty directory of the kind that the pool clones (a subvolume, perhaps). */
  makeDataDirectory: (directory: string) => Promise<void>;
  /** Removes a directory that may hold such. */
  removeDirectory: (directory: string) => Promise<void>;
}

export function createTemplates(options: TemplatesOptions): Templates {
  const flights = new SingleFlight<Template>();
  const find = (name: string) => readTemplate(path.join(options.directory, name));
  const inProgress = new Set<string>();
  const makeOnce = async (installation: PostgresInstallation, name: string) => {
    const temporaryName = `.${name}.tmp-${randomBytes(4).toString('hex')}`;
    inProgress.add(temporaryName);
    try {
      return await make(options, installation, { name, temporaryName });
    } finally {
      inProgress.delete(temporaryName);
    }
  };
  return {
    find,
    making: (temporaryName) => inProgress.has(temporaryName),
    get: async (major) => {
      const installation = await options.installations.get(major);
      const name = `${major}-${installation.build}-r${REVISION}`;
      return (await find(name)) ?? flights.run(name, async () => (await find(name)) ?? makeOnce(installation, name));
    },
  };
}

async function readTemplate(directory: string): Promise<Template | undefined> {
  try {
    const meta = JSON.parse(await readFile(path.join(directory, 'meta.json'), 'utf8')) as TemplateMeta;
    return { ...meta, dataDirectory: path.join(directory, 'pgdata') };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

async function make(
  options: TemplatesOptions,
  installation: PostgresInstallation,
  names: { name: string; temporaryName: string },
): Promise<Template> {
  const { name } = names;
  const target = path.join(options.directory, name);
  const temporary = path.join(options.directory, names.temporaryName);
  const dataDirectory = path.join(temporary, 'pgdata');
  const worker = await borrowedUser();
  await mkdir(temporary, { recursive: true, mode: 0o711 });
  try {
    await options.makeDataDirectory(dataDirectory);
    await chmod(dataDirectory, 0o700);
    if (worker) await chown(dataDirectory, worker.uid, worker.gid);
    await initialise(installation, dataDirectory, worker);
    await runScripts(installation, dataDirectory, worker, options.secret);
    if (worker) await run('chown', ['-R', '0:0', dataDirectory]);
    await configure(dataDirectory);
    const meta = await describe(installation, name, dataDirectory);
    await writeFile(path.join(temporary, 'meta.json'), `${JSON.stringify(meta, null, 2)}\n`, { mode: 0o600 });
    await syncTree(options.durable, temporary);
    await rename(temporary, target);
    await options.durable.directory('template', options.directory);
    options.logger.info({ template: name }, 'made a template');
    return { ...meta, dataDirectory: path.join(target, 'pgdata') };
  } catch (error) {
    await options.removeDirectory(temporary);
    const other = await readTemplate(target);
    if (other) return other;
    throw error;
  }
}

/** Undefined unless Ballast is root. */
async function borrowedUser(): Promise<{ uid: number; gid: number } | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const uid = Number((await run('id', ['-u', 'nobody'])).trim());
  const gid = Number((await run('id', ['-g', 'nobody'])).trim());
  return { uid, gid };
}

async function initialise(
  installation: PostgresInstallation,
  dataDirectory: string,
  owner: { uid: number; gid: number } | undefined,
): Promise<void> {
  const args = (locale: string) => [
    `--pgdata=${dataDirectory}`,
    '--username=cloud_admin',
    '--encoding=UTF8',
    `--locale=${locale}`,
    // Sorting by code point, by Postgres itself from 17 on: no library update can change the order of an index.
    ...(installation.major >= 17 ? ['--locale-provider=builtin', '--builtin-locale=C.UTF-8'] : []),
    '--data-checksums',
    `--wal-segsize=${WAL_SEGMENT_MEBIBYTES}`,
    '--auth=trust',
    '--no-sync',
  ];
  const options = { env: { ...installation.env, PATH: '/usr/bin:/bin', LC_ALL: 'C' }, owner, cwd: dataDirectory };
  try {
    await run(installation.initdb, args('C.UTF-8'), options);
  } catch (error) {
    if (!/invalid locale name/.test(String(error))) throw error;
    // A system without C.UTF-8. initdb has put nothing into the directory yet.
    await run(installation.initdb, args('C'), options);
  }
}

async function runScripts(
  installation: PostgresInstallation,
  dataDirectory: string,
  owner: { uid: number; gid: number } | undefined,
  secret: string,
): Promise<void> {
  // template0 as well: a tenant may create a database from it.
  for (const database of ['template0', 'template1', 'postgres']) {
    const args = [
      '--single',
      '-j',
      '-D',
      dataDirectory,
      '-c',
      'exit_on_error=on',
      '-c',
      'log_statement=none',
      database,
    ];
    const statements = templateScript(installation.major, database, secret);
    const input = statements.map((statement) => `${statement};\n\n`).join('');
    await run(installation.postgres, args, {
      env: { ...installation.env, LC_ALL: 'C' },
      owner,
      cwd: dataDirectory,
      input,
    });
  }
}

/** What holds for any start of any clone; computes say the rest on their command line, which outranks this. */
const POSTGRESQL_CONF = `# Settings of a compute are given on its command line.
listen_addresses = ''
password_encryption = 'scram-sha-256'
default_text_search_config = 'pg_catalog.english'
lc_messages = 'C'
wal_recycle = off
wal_init_zero = off
max_prepared_transactions = 0
restore_command = 'false'
recovery_target_timeline = 'current'
`;

async function configure(dataDirectory: string): Promise<void> {
  const files: Record<string, string> = {
    'postgresql.conf': POSTGRESQL_CONF,
    'postgresql.auto.conf': '',
    'pg_hba.conf': 'local all all scram-sha-256\n',
    'pg_ident.conf': '',
  };
  for (const [name, content] of Object.entries(files)) {
    await writeFile(path.join(dataDirectory, name), content, { mode: 0o600 });
  }
  await rm(path.join(dataDirectory, 'postmaster.opts'), { force: true });
}

async function describe(
  installation: PostgresInstallation,
  name: string,
  dataDirectory: string,
): Promise<TemplateMeta> {
  const control = await readControlData(dataDirectory);
  if (control.state !== 'shut down' || !control.checksums) throw new Error(`template ${name} is not as it should be`);
  const { major, version, build } = installation;
  const { timelineId, catalogVersion } = control;
  return {
    revision: REVISION,
    name,
    major,
    version,
    build,
    timelineId,
    redoLsn: formatLsn(control.redoLsn),
    catalogVersion,
  };
}

async function syncTree(durable: Durable, root: string): Promise<void> {
  const entries = await readdir(root, { withFileTypes: true, recursive: true });
  for (const entry of entries) {
    if (entry.isFile()) await durable.file('template', path.join(entry.parentPath, entry.name));
  }
  await syncDirectories(durable, 'template', root);
}
