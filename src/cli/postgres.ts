/**
 * `ballast postgres list|install`: which PostgreSQL majors projects can use.
 */
import path from 'node:path';
import type { Config } from '../config.ts';
import { locateHome } from '../home-prepare.ts';
import { errorMessage } from '../lib/errors.ts';
import { silentLogger } from '../lib/log.ts';
import { installMajor } from '../postgres/install-major.ts';
import { MAJORS, createInstallations } from '../postgres/installations.ts';
import type { Installations } from '../postgres/types.ts';
import { CommandError, print, printJson, table } from './print.ts';

export type AvailableMajor = Awaited<ReturnType<Installations['available']>>[number];

/** What is at hand; nothing is copied or started. */
export async function availableMajors(config: Config): Promise<AvailableMajor[]> {
  const home = await locateHome(config);
  const prepareExtensions = () => Promise.reject(new Error('a look at the majors makes no installation'));
  return createInstallations({ home, config, logger: silentLogger(), prepareExtensions }).available();
}

export async function listPostgres(config: Config, options: { json: boolean }): Promise<void> {
  const available = await availableMajors(config);
  if (options.json) return printJson(available);
  const rows = MAJORS.map((major) => {
    const found = available.find((candidate) => candidate.major === major);
    return found
      ? [String(major), found.version, found.source]
      : [String(major), '-', `ballast postgres install ${major}`];
  });
  print(table(['MAJOR', 'VERSION', 'SOURCE'], rows));
}

export async function installPostgres(config: Config, majors: readonly string[]): Promise<void> {
  const wanted = majors.map(Number);
  for (const major of wanted) {
    if (!(MAJORS as readonly number[]).includes(major)) {
      throw new CommandError(`Postgres ${major} is not supported; there are ${MAJORS.join(', ')}`);
    }
  }
  for (const major of wanted) {
    const installed = await installMajor(config.postgresPackages, major, npmEnvironment(config, process.env)).catch(
      (error: unknown) => {
        throw new CommandError(`Postgres ${major} could not be installed: ${errorMessage(error)}`, { cause: error });
      },
    );
    print(`Postgres ${major}: ${installed}`);
  }
}

/** Without what an outer npm (`npm run ballast`) tells its scripts, and with a cache even where there is no home. */
function npmEnvironment(config: Config, env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const kept = Object.entries(env).filter(
    ([name]) => !/^npm_(config_(?!registry|cache)|package_|lifecycle_|execpath|node_execpath)/i.test(name),
  );
  const home = env['HOME'];
  const cache = home ? {} : { npm_config_cache: path.join(config.postgresPackages, '.npm-cache') };
  return { ...Object.fromEntries(kept), ...cache };
}
