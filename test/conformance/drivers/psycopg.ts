/** psycopg 3, in programs/psycopg_driver.py. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { startupOptions } from '../paths.ts';
import type { Driver } from '../session.ts';
import { createProgram, openIn } from './program.ts';

/** Debian's own interpreter first: that is where its package of psycopg lies. */
const python = ['/usr/bin/python3', 'python3'].find(
  (file) => spawnSync(file, ['-c', 'import psycopg'], { timeout: 30_000 }).status === 0,
);
const program = createProgram(python ?? 'python3', [path.join(import.meta.dirname, '../programs/psycopg_driver.py')]);
const CAN = [
  ...(['script', 'prepared', 'pipeline', 'cursor', 'copyIn', 'copyInGivenUp', 'copyOut'] as const),
  ...(['listen', 'notices', 'cancel', 'transaction'] as const),
];

export const psycopgDriver: Driver = {
  name: 'psycopg',
  paths: ['direct', 'pooled'],
  ...(python === undefined && { missing: 'python3 with psycopg 3 is not installed' }),
  can: () => CAN,
  open: (target, options = {}) => {
    const startup = startupOptions(target, options.settings);
    const connection = {
      host: target.host,
      port: target.port,
      user: target.user,
      password: options.password ?? target.password,
      dbname: options.database ?? target.database,
      sslmode: 'disable',
      connect_timeout: 60,
      ...(startup !== undefined && { options: startup }),
      ...(options.applicationName !== undefined && { application_name: options.applicationName }),
    };
    return openIn(program, connection, CAN);
  },
  stop: () => program.stop(),
};
