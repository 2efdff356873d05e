/**
 * The two ends of the comparison: plain Postgres of the build that Ballast runs, with a role and a database as a project
 * has them, and one project of the built product, reached by each of its paths.
 */
import { Ballast } from '../support/ballast.ts';
import type { Place } from '../support/api.ts';
import { startPlainPostgres, type PlainPostgres } from '../support/plain-postgres.ts';
import { freePort } from '../support/processes.ts';

export type Path = 'direct' | 'pooled' | 'http' | 'websocket';

export interface Target {
  path: 'plain' | Path;
  host: string;
  port: number;
  user: string;
  password: string;
  database: string;
  /** For the startup packet, where the host name does not say which endpoint is meant. */
  endpoint: string | undefined;
  /** Where `path` is http or websocket: what `ballast env` says. */
  fetchEndpoint?: string;
  wsProxy?: (host: string) => string;
}

export interface Ends {
  plain: Target;
  ballast: Readonly<Record<Path, Target>>;
  /** Whoever looks on from outside of the path: the direct connection to the same server. */
  direct(target: Target): Target;
  stop(): Promise<void>;
}

const PASSWORD = 'conform';

export async function startEnds(): Promise<Ends> {
  const plain = await bootPlain();
  const ballast = await bootBallast().catch(async (error: unknown) => {
    await plain.server.stop();
    throw error;
  });
  return {
    plain: plain.target,
    ballast: ballast.targets,
    direct: (target) => (target.path === 'plain' ? target : ballast.targets.direct),
    stop: async () => {
      await Promise.allSettled([plain.server.stop(), ballast.product.destroy()]);
    },
  };
}

async function bootPlain(): Promise<{ server: PlainPostgres; target: Target }> {
  const port = await freePort();
  // What a compute sets for clients to see, and no more.
  const settings = { listen_addresses: '127.0.0.1', TimeZone: 'GMT' };
  const server = await startPlainPostgres(undefined, settings, { port });
  const { query } = server;
  await query('create role neon_superuser createdb createrole nologin in role pg_read_all_data, pg_write_all_data');
  await query(`create role neondb_owner login password '${PASSWORD}' createdb createrole in role neon_superuser`);
  await query(
    `create database neondb owner neondb_owner template template0
     locale 'C.UTF-8' locale_provider builtin builtin_locale 'C.UTF-8'`,
  );
  const target: Target = {
    path: 'plain',
    host: '127.0.0.1',
    port,
    user: 'neondb_owner',
    password: PASSWORD,
    database: 'neondb',
    endpoint: undefined,
  };
  return { server, target };
}

async function bootBallast(): Promise<{ product: Ballast; targets: Record<Path, Target> }> {
  const product = await Ballast.boot();
  try {
    return { product, targets: targetsOf(product, await product.api.createProject({ name: 'conformance' })) };
  } catch (error) {
    await product.destroy();
    throw error;
  }
}

function targetsOf(ballast: Ballast, place: Place): Record<Path, Target> {
  const target = (path: Path, endpoint: string): Target => ({
    path,
    host: '127.0.0.1',
    port: ballast.pgPort,
    user: place.role,
    password: place.password,
    database: place.database,
    endpoint,
  });
  const fetchEndpoint = /fetchEndpoint = \(\) => '(.*)'/.exec(ballast.command(['env']).stdout)?.[1] ?? '';
  const serverless = (path: Path): Target => ({
    ...target(path, place.endpointId),
    host: `${place.endpointId}.localhost`,
    fetchEndpoint,
    wsProxy: (host) => `${host}:${ballast.pgPort}/v2`,
  });
  return {
    direct: target('direct', place.endpointId),
    pooled: target('pooled', `${place.endpointId}-pooler`),
    http: serverless('http'),
    websocket: serverless('websocket'),
  };
}

/** What goes into the startup packet's options. */
export function startupOptions(target: Target, settings: Readonly<Record<string, string>> = {}): string | undefined {
  const parts = target.endpoint === undefined || target.host !== '127.0.0.1' ? [] : [`endpoint=${target.endpoint}`];
  for (const [name, value] of Object.entries(settings)) parts.push(`-c ${name}=${value}`);
  return parts.length === 0 ? undefined : parts.join(' ');
}
