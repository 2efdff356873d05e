/**
 * Every setting, declared once: flag, environment variable, default and help. Read and validated at start, then
 * handed down as a plain value; nothing else reads process.env.
 */
import os from 'node:os';
import path from 'node:path';

export type ProxyProtocol = 'off' | 'v2';

export interface Config {
  dataDir: string;
  /** Directory of all timelines; default `<data-dir>/pool`. */
  pool: string;
  /** Address on which API and proxy listen. */
  listen: string;
  apiPort: number;
  pgPort: number;
  domain: string;
  /** PEM files for a real domain; both or none. */
  tlsCert: string | undefined;
  tlsKey: string | undefined;
  /** What every connection to the Postgres port has to begin with. */
  proxyProtocol: ProxyProtocol;
  /** `postgres://…` of a catalog that somebody else runs; undefined: the embedded one. */
  catalogUrl: string | undefined;
  /** Where `ballast postgres install` puts majors that are not bundled; default `<data-dir>/postgres-packages`. */
  postgresPackages: string;
  logLevel: string;
  /** First uid used when running as root. */
  computeUidBase: number;
  /** Seconds for suspend_timeout_seconds = 0. */
  defaultSuspendTimeoutSeconds: number;
  /** How the size of a compute is kept; `auto`: by shares where the machine lets Ballast make control groups. */
  computeLimits: ComputeLimitsSetting;
  /** What every client is told when it has logged in, with the id of its connection. */
  greeting: string | undefined;
}

const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;
export const COMPUTE_LIMITS = ['auto', 'off', 'shares', 'hard'] as const;
export type ComputeLimitsSetting = (typeof COMPUTE_LIMITS)[number];

interface Setting {
  flag: string;
  env: string;
  placeholder: string;
  help: string;
  fallback: string | undefined;
}

export const SETTINGS = {
  dataDir: {
    flag: 'data-dir',
    env: 'BALLAST_DATA_DIR',
    placeholder: 'dir',
    fallback: undefined,
    help: 'where everything is kept (default: ~/.ballast)',
  },
  pool: {
    flag: 'pool',
    env: 'BALLAST_POOL',
    placeholder: 'dir',
    fallback: undefined,
    help: 'directory of all timelines, best on XFS, btrfs or APFS (default: <data-dir>/pool)',
  },
  listen: {
    flag: 'listen',
    env: 'BALLAST_LISTEN',
    placeholder: 'address',
    fallback: '127.0.0.1',
    help: 'address on which the API and the proxy listen',
  },
  apiPort: {
    flag: 'api-port',
    env: 'BALLAST_API_PORT',
    placeholder: 'port',
    fallback: '8080',
    help: 'port of the API',
  },
  pgPort: {
    flag: 'pg-port',
    env: 'BALLAST_PG_PORT',
    placeholder: 'port',
    fallback: '5432',
    help: 'port of the Postgres proxy',
  },
  domain: {
    flag: 'domain',
    env: 'BALLAST_DOMAIN',
    placeholder: 'name',
    fallback: 'localhost',
    help: 'endpoints are <endpoint id>.<domain>',
  },
  tlsCert: {
    flag: 'tls-cert',
    env: 'BALLAST_TLS_CERT',
    placeholder: 'file',
    fallback: undefined,
    help: 'certificate chain for *.<domain> (PEM); default: a local one',
  },
  tlsKey: {
    flag: 'tls-key',
    env: 'BALLAST_TLS_KEY',
    placeholder: 'file',
    fallback: undefined,
    help: 'its private key (PEM)',
  },
  proxyProtocol: {
    flag: 'proxy-protocol',
    env: 'BALLAST_PROXY_PROTOCOL',
    placeholder: 'version',
    fallback: 'off',
    help: 'v2: a load balancer says the client address in front of each connection to the Postgres port; or off',
  },
  catalogUrl: {
    flag: 'catalog-url',
    env: 'BALLAST_CATALOG_URL',
    placeholder: 'url',
    fallback: undefined,
    help: 'a PostgreSQL database for the catalog (default: an embedded one)',
  },
  postgresPackages: {
    flag: 'postgres-packages',
    env: 'BALLAST_POSTGRES_PACKAGES',
    placeholder: 'dir',
    fallback: undefined,
    help: 'where installed Postgres majors are kept (default: <data-dir>/postgres-packages)',
  },
  logLevel: {
    flag: 'log-level',
    env: 'BALLAST_LOG_LEVEL',
    placeholder: 'level',
    fallback: 'info',
    help: 'trace, debug, info, warn, error or silent',
  },
  computeUidBase: {
    flag: 'compute-uid-base',
    env: 'BALLAST_COMPUTE_UID_BASE',
    placeholder: 'uid',
    fallback: '700000',
    help: 'first of the user ids under which Postgres runs when Ballast is root',
  },
  defaultSuspendTimeoutSeconds: {
    flag: 'default-suspend-timeout',
    env: 'BALLAST_DEFAULT_SUSPEND_TIMEOUT',
    placeholder: 'seconds',
    fallback: '300',
    help: 'idle seconds before a compute suspends when its endpoint says 0',
  },
  computeLimits: {
    flag: 'compute-limits',
    env: 'BALLAST_COMPUTE_LIMITS',
    placeholder: 'mode',
    fallback: 'auto',
    help: 'off; shares: busy processors are shared by size; hard: a compute gets no more than its size; auto: shares where possible',
  },
  greeting: {
    flag: 'greeting',
    env: 'BALLAST_GREETING',
    placeholder: 'text',
    fallback: undefined,
    help: 'a notice to every client at login, in front of the id of its connection (default: none)',
  },
} as const satisfies Record<keyof Config, Setting>;

export class ConfigError extends Error {}

type Raw = Partial<Record<keyof Config, string | undefined>>;

/** Flags win over the environment, which wins over defaults. Throws ConfigError naming the flag. */
export function readConfig(flags: Raw, env: NodeJS.ProcessEnv): Config {
  const text = (name: keyof Config): string | undefined => {
    const setting: Setting = SETTINGS[name];
    return flags[name] ?? (env[setting.env] || undefined) ?? setting.fallback;
  };
  const dataDir = path.resolve(text('dataDir') ?? defaultDataDir(env));
  const inDataDir = (name: keyof Config, leaf: string) => path.resolve(text(name) ?? path.join(dataDir, leaf));
  const file = (name: keyof Config) => (text(name) === undefined ? undefined : path.resolve(text(name)!));
  const config: Config = {
    dataDir,
    pool: inDataDir('pool', 'pool'),
    listen: text('listen')!,
    apiPort: integer('apiPort', text('apiPort')!, 0, 65535),
    pgPort: integer('pgPort', text('pgPort')!, 0, 65535),
    domain: text('domain')!.toLowerCase(),
    tlsCert: file('tlsCert'),
    tlsKey: file('tlsKey'),
    proxyProtocol: oneOf('proxyProtocol', text('proxyProtocol')!, ['v2', 'off']),
    catalogUrl: text('catalogUrl'),
    postgresPackages: inDataDir('postgresPackages', 'postgres-packages'),
    logLevel: oneOf('logLevel', text('logLevel')!, LOG_LEVELS),
    computeUidBase: integer('computeUidBase', text('computeUidBase')!, 1, 2 ** 31),
    defaultSuspendTimeoutSeconds: integer(
      'defaultSuspendTimeoutSeconds',
      text('defaultSuspendTimeoutSeconds')!,
      1,
      604800,
    ),
    computeLimits: oneOf('computeLimits', text('computeLimits')!, COMPUTE_LIMITS),
    greeting: text('greeting'),
  };
  validate(config);
  return config;
}

/** The home directory may be unset or empty (a service); the user's entry in the password file then says. */
function defaultDataDir(env: NodeJS.ProcessEnv): string {
  try {
    const home = env['HOME'] || os.userInfo().homedir;
    if (home) return path.join(home, '.ballast');
  } catch {
    // This user id has no entry.
  }
  throw new ConfigError('there is no home directory: say --data-dir');
}

function integer(name: keyof Config, text: string, min: number, max: number): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < min || value > max) {
    throw new ConfigError(`--${SETTINGS[name].flag} must be a whole number from ${min} to ${max}, not "${text}"`);
  }
  return value;
}

function oneOf<T extends string>(name: keyof Config, text: string, values: readonly T[]): T {
  const value = values.find((known) => known === text);
  if (value !== undefined) return value;
  throw new ConfigError(
    `--${SETTINGS[name].flag} must be ${values.slice(0, -1).join(', ')} or ${values.at(-1)}, not "${text}"`,
  );
}

function validate(config: Config): void {
  if ((config.tlsCert === undefined) !== (config.tlsKey === undefined)) {
    throw new ConfigError('--tls-cert and --tls-key go together');
  }
  if (!/^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/.test(config.domain)) {
    throw new ConfigError(`--domain is not a host name: "${config.domain}"`);
  }
}
