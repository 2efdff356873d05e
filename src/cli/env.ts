/**
 * `ballast env`: shell lines that point the Neon clients of this machine at this Ballast; for `eval "$(ballast env)"`.
 */
import { access } from 'node:fs/promises';
import path from 'node:path';
import type { Home } from '../home.ts';
import { openApi, readKey } from './api.ts';
import { print, printJson, quote } from './print.ts';

/** Written by the proxy beside its certificate. */
const CA_FILE = 'ca.pem';

export async function printEnvironment(home: Home, options: { json: boolean }): Promise<void> {
  const { running } = await openApi(home);
  const caFile = path.join(home.tls, CA_FILE);
  const hasCa = await access(caFile).then(
    () => true,
    () => false,
  );
  const variables: Record<string, string> = {
    NEON_API_HOST: running.apiUrl,
    NEON_API_KEY: await readKey(home),
    ...(hasCa && { NODE_EXTRA_CA_CERTS: caFile }),
  };
  if (options.json) return printJson(variables);
  for (const [name, value] of Object.entries(variables)) print(`export ${name}=${quote(value)}`);
  print(`# SDKs take the address as an argument: baseUrl ${running.apiUrl}`);
  // Not exported: it would apply to every server that this shell's psql talks to.
  if (hasCa) print(`# psql verifies with PGSSLROOTCERT=${quote(caFile)} and sslmode=verify-full`);
  print(`# Postgres answers on ${running.pgHost}:${running.pgPort}; connection URIs come from the API`);
  const { pgHost, pgPort } = running;
  print(`# @neondatabase/serverless: neonConfig.fetchEndpoint = () => 'http://${pgHost}:${pgPort}/sql'`);
  print(`#   neonConfig.wsProxy = (host) => \`\${host}:${pgPort}/v2\`; neonConfig.useSecureWebSocket = false`);
}
