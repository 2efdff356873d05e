/**
 * `ballast env`: shell lines that point the Neon clients of this machine at this Ballast; for `eval "$(ballast env)"`.
 * What is not for the shell stands in comments.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import type { Home } from '../home.ts';
import { openApi, readKey } from './api.ts';
import { DRIVERS, HTTPS_PORT, driverLines, neonConfigLines } from './env-drivers.ts';
import type { DriverFacts } from './env-drivers.ts';
import { CommandError, print, printJson, printProblem, quote } from './print.ts';
import { holdsCertificate } from './trust-stores.ts';

/** Written by the proxy beside its certificate. */
const CA_FILE = 'ca.pem';
const NODE_CA = 'NODE_EXTRA_CA_CERTS';

export interface EnvOptions {
  json: boolean;
  driver?: string;
}

export async function printEnvironment(
  home: Home,
  options: EnvOptions,
  env: NodeJS.ProcessEnv = process.env,
): Promise<void> {
  const { driver } = options;
  if (driver !== undefined && !DRIVERS.includes(driver)) {
    throw new CommandError(`no driver "${driver}" is known; there are ${DRIVERS.join(', ')}`);
  }
  const { running } = await openApi(home);
  const file = path.join(home.tls, CA_FILE);
  const ca = await readFile(file, 'utf8').catch(() => undefined);
  const facts = { ...running, caFile: ca === undefined ? undefined : file };
  const variables: Record<string, string> = {
    NEON_API_HOST: running.apiUrl,
    NEON_API_KEY: await readKey(home),
    ...(ca !== undefined && (await nodeAuthority({ file, ca }, env[NODE_CA]))),
  };
  if (options.json) return printJson(variables);
  const comment = (lines: readonly string[]) => lines.forEach((line) => print(`# ${line}`));
  for (const [name, value] of Object.entries(variables)) print(`export ${name}=${quote(value)}`);
  if (driver !== undefined) return comment(driverLines(driver, facts));
  comment([
    `SDKs take the address as an argument: baseUrl ${running.apiUrl}`,
    `Postgres answers on ${running.pgHost}:${running.pgPort}; connection URIs come from the API`,
    // Not exported: they would apply to every server that this shell's psql talks to.
    ...(ca === undefined ? [] : [`psql verifies with PGSSLROOTCERT=${quote(file)} PGSSLMODE=verify-full`]),
    ...serverless(facts),
    `more for each driver: ballast env --driver ${DRIVERS.join('|')}`,
  ]);
}

function serverless(facts: DriverFacts): string[] {
  const lines = neonConfigLines(facts, facts.domain !== 'localhost' || facts.pgPort === HTTPS_PORT);
  if (lines.length === 0) return ['@neondatabase/serverless needs no neonConfig'];
  return ['@neondatabase/serverless:', ...lines.map((line) => `  ${line}`)];
}

/** Node reads one file: a file that is set already is somebody else's choice, and stays. */
async function nodeAuthority(
  own: { file: string; ca: string },
  set: string | undefined,
): Promise<Record<string, string> | undefined> {
  if (set === undefined || set === '' || set === own.file) return { [NODE_CA]: own.file };
  const theirs = await readFile(set, 'utf8').catch(() => '');
  if (!holdsCertificate(theirs, own.ca)) {
    printProblem(
      `${NODE_CA} is set to ${set} and stays. For Node to trust Ballast's certificates too, put both into one file: ` +
        `cat ${quote(set)} ${quote(own.file)} > both.pem`,
    );
  }
  return undefined;
}
