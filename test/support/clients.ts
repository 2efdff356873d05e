/**
 * The clients that users have, unmodified: the `neon` CLI, @neon/sdk, @neondatabase/api-client and psql.
 * Each is pointed at a Ballast only by what its own documentation offers (environment, base URL).
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { createNeonClient } from '@neon/sdk';
import { createApiClient } from '@neondatabase/api-client';
import { REPOSITORY, type Ballast } from './ballast.ts';

const run = promisify(execFile);
const TIMEOUT_MS = 60_000;

export interface Ran {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end; a code other than 0 is an answer, not an exception. */
export async function runProgram(
  file: string,
  args: readonly string[],
  options: { env?: NodeJS.ProcessEnv; cwd?: string; timeoutMs?: number } = {},
): Promise<Ran> {
  try {
    const { stdout, stderr } = await run(file, [...args], {
      env: options.env,
      cwd: options.cwd,
      timeout: options.timeoutMs ?? TIMEOUT_MS,
      maxBuffer: 64 * 1024 * 1024,
    });
    return { code: 0, stdout, stderr };
  } catch (error) {
    const { code, stdout = '', stderr = '', message } = error as { code?: unknown } & Partial<Ran> & Error;
    return { code: typeof code === 'number' ? code : -1, stdout, stderr: stderr || message };
  }
}

/** The CLI with its own configuration directory below the test's. */
export function neonCli(ballast: Ballast, key = ballast.api.apiKey) {
  const env: NodeJS.ProcessEnv = {
    PATH: process.env['PATH'],
    HOME: ballast.root,
    NEON_API_HOST: ballast.baseUrl,
    NEON_API_KEY: key,
    NEON_CONFIG_DIR: path.join(ballast.root, 'neon-config'),
    CI: 'true',
    // libpq takes address and port from here; the host of the URI still goes out as TLS server name.
    PGHOSTADDR: '127.0.0.1',
    PGPORT: String(ballast.pgPort),
  };
  const cli = path.join(REPOSITORY, 'node_modules/neon/dist/cli.js');
  const raw = (args: readonly string[]) =>
    runProgram(process.execPath, [cli, '--no-analytics', '--no-color', ...args], { env, cwd: ballast.root });
  /** Output of a command that must succeed, parsed. */
  const json = async <T = any>(args: readonly string[]): Promise<T> => {
    const ran = await raw([...args, '--output', 'json']);
    if (ran.code !== 0) throw new Error(`neon ${args.join(' ')} ended with ${ran.code}: ${ran.stderr}${ran.stdout}`);
    return (ran.stdout.trim() === '' ? undefined : JSON.parse(ran.stdout)) as T;
  };
  return { raw, json };
}

export const neonSdk = (ballast: Ballast) =>
  createNeonClient({
    apiKey: ballast.api.apiKey,
    baseUrl: ballast.baseUrl,
    throwOnError: true,
    wait: { pollIntervalMs: 100, timeoutMs: 60_000 },
  });

export const neonApiClient = (ballast: Ballast) =>
  createApiClient({ apiKey: ballast.api.apiKey, baseURL: ballast.baseUrl, timeout: 60_000 });

const PSQL = ['/usr/bin/psql', '/usr/local/bin/psql', '/opt/homebrew/bin/psql'].find((file) => existsSync(file));
export const hasPsql = PSQL !== undefined;

/** Unaligned, tuples only. Given a URI or libpq's environment, as users do. */
export async function psql(target: { uri: string } | { env: NodeJS.ProcessEnv }, sql: string): Promise<Ran> {
  if (PSQL === undefined) throw new Error('psql is not installed');
  const env: NodeJS.ProcessEnv = { PATH: process.env['PATH'], PGCONNECT_TIMEOUT: '30' };
  const args = ['-X', '-At', '-v', 'ON_ERROR_STOP=1', '-c', sql];
  if ('env' in target) return runProgram(PSQL, args, { env: { ...env, ...target.env } });
  return runProgram(PSQL, ['-d', target.uri, ...args], { env });
}

/** libpq's environment for an endpoint by host name, as TLS clients connect (SNI). */
export function libpqEnvironment(
  ballast: Ballast,
  place: { endpointId: string; role: string; password: string; database: string },
): NodeJS.ProcessEnv {
  return {
    PGHOST: `${place.endpointId}.localhost`,
    PGHOSTADDR: '127.0.0.1',
    PGPORT: String(ballast.pgPort),
    PGUSER: place.role,
    PGPASSWORD: place.password,
    PGDATABASE: place.database,
    PGSSLMODE: 'require',
  };
}
