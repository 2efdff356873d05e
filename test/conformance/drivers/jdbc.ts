/** PostgreSQL's JDBC driver, in programs/JdbcDriver.java. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { startupOptions } from '../paths.ts';
import type { Driver } from '../session.ts';
import { createProgram, openIn } from './program.ts';

const JAR = '/usr/share/java/postgresql.jar';
/** Single files are launched as source, which takes the compiler. */
const hasJava = spawnSync('java', ['--list-modules'], { encoding: 'utf8', timeout: 60_000 }).stdout?.includes(
  'jdk.compiler',
);
const source = path.join(import.meta.dirname, '../programs/JdbcDriver.java');
const program = createProgram('java', ['-Xmx1g', '-Duser.timezone=UTC', '-cp', JAR, source]);
const CAN = [
  ...(['script', 'prepared', 'cursor', 'copyIn', 'copyInGivenUp', 'copyOut'] as const),
  ...(['listen', 'notices', 'cancel', 'transaction'] as const),
];

export const jdbcDriver: Driver = {
  name: 'JDBC',
  paths: ['direct', 'pooled'],
  ...(!(hasJava && existsSync(JAR)) && { missing: 'a JDK or libpostgresql-jdbc-java is not installed' }),
  can: () => CAN,
  open: (target, options = {}) => {
    const startup = startupOptions(target, options.settings);
    const properties = {
      user: target.user,
      password: options.password ?? target.password,
      sslmode: 'disable',
      connectTimeout: 60,
      loginTimeout: 60,
      // Texts go as texts of no type, so that Postgres takes them for what the statement wants.
      stringtype: 'unspecified',
      ...(startup !== undefined && { options: startup }),
      ...(options.applicationName !== undefined && { ApplicationName: options.applicationName }),
    };
    const url = `jdbc:postgresql://${target.host}:${target.port}/${options.database ?? target.database}`;
    return openIn(program, { url, properties }, CAN);
  },
  stop: () => program.stop(),
};
