/**
 * Programs that are told what to do by a script and print what came of it, psql and pgbench: the same script runs on
 * plain Postgres and through each path, and must print the same.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import pg from 'pg';
import { configOf } from './drivers/pg.ts';
import { startupOptions, type Target } from './paths.ts';

const TIMEOUT_MS = 120_000;

export interface Printed {
  code: number | null;
  output: string;
  errors: string;
}

/** The first of the places where the program lies on Debian and elsewhere. */
export function findProgram(name: string): string | undefined {
  const majors = [18, 17, 16, 15, 14].map((major) => `/usr/lib/postgresql/${major}/bin/${name}`);
  return [`/usr/bin/${name}`, `/usr/local/bin/${name}`, ...majors].find((file) => existsSync(file));
}

export function libpqOf(target: Target): NodeJS.ProcessEnv {
  const startup = startupOptions(target);
  return {
    PATH: process.env['PATH'],
    PGHOST: target.host,
    PGPORT: String(target.port),
    PGUSER: target.user,
    PGPASSWORD: target.password,
    PGDATABASE: target.database,
    PGCONNECT_TIMEOUT: '60',
    PGTZ: undefined,
    ...(startup !== undefined && { PGOPTIONS: startup }),
  };
}

export function runScript(file: string, args: readonly string[], target: Target, input = ''): Promise<Printed> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, [...args], {
      env: libpqOf(target),
      stdio: ['pipe', 'pipe', 'pipe'],
      timeout: TIMEOUT_MS,
    });
    const printed = { output: '', errors: '' };
    child.stdout.on('data', (chunk: Buffer) => (printed.output += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (printed.errors += chunk.toString()));
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, ...printed }));
    child.stdin.on('error', () => {});
    child.stdin.end(input);
  });
}

/** One statement by the same role, on the direct connection. */
export async function ask(target: Target, text: string): Promise<unknown[]> {
  const client = new pg.Client(configOf(target));
  await client.connect();
  try {
    return (await client.query(text)).rows;
  } finally {
    await client.end();
  }
}
