/**
 * Every program that `ballast env --driver …` prints, as it is printed: with the URI of the API, then over TLS with a
 * verified certificate, and refused without the authority.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { isLeftOut } from '../support/left-out.ts';
import type { Place } from '../support/api.ts';
import { Ballast, REPOSITORY } from '../support/ballast.ts';
import { hasPsql, runProgram, type Ran } from '../support/clients.ts';

const PYTHON = '/usr/bin/python3';
const JDBC = '/usr/share/java/postgresql.jar';
const hasPsycopg = spawnSync(PYTHON, ['-c', 'import psycopg']).status === 0;
const hasJdbc = existsSync(JDBC) && spawnSync('javac', ['-version']).status === 0;

let ballast: Ballast;
let place: Place;

beforeAll(async () => {
  ballast = await Ballast.boot();
  place = await ballast.api.createProject({ name: 'drivers' });
}, 150_000);

afterAll(() => ballast?.destroy());

function printed(...args: string[]) {
  const { status, stdout, stderr } = ballast.command(['env', ...args]);
  expect(status, stderr).toBe(0);
  const lines = stdout.split('\n');
  const programs: string[] = [];
  lines.forEach((line, index) => {
    const code = /^# {3}(.*)$/.exec(line)?.[1];
    if (code === undefined) return;
    if (lines[index - 1]!.startsWith('#   ')) programs.push(`${programs.pop()!}\n${code}`);
    else programs.push(code);
  });
  return { stdout, stderr, programs };
}

type Runner = (program: string, env: NodeJS.ProcessEnv) => Promise<Ran>;

const node: Runner = (program, env) =>
  runProgram(process.execPath, ['--input-type=module', '-e', program], { env, cwd: REPOSITORY });
const python: Runner = (program, env) => runProgram(PYTHON, ['-c', program], { env });
const sh: Runner = (program, env) => runProgram('sh', ['-c', program], { env });
const java: Runner = async (program, env) => {
  const file = path.join(ballast.root, 'java/Main.java');
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, program);
  return runProgram('java', ['-cp', JDBC, file], { env, timeoutMs: 120_000 });
};

/** Of .ci/run: packages that would be large for everybody who only starts Ballast. */
const PRISMA = process.env['BALLAST_TEST_PRISMA_DIR'] ?? '';
const hasPrisma = existsSync(path.join(PRISMA, 'node_modules/prisma'));
const SCHEMA = `
generator client {
  provider   = "prisma-client"
  engineType = "client"
  output     = "../generated"
}
datasource db {
  provider = "postgresql"
  url      = env("DATABASE_URL")
}
model Item {
  id Int @id
}
`;
const prisma: Runner = async (program, env) => {
  const cwd = path.join(ballast.root, 'prisma');
  await mkdir(path.join(cwd, 'prisma'), { recursive: true });
  await symlink(path.join(PRISMA, 'node_modules'), path.join(cwd, 'node_modules')).catch(() => undefined);
  await writeFile(path.join(cwd, 'prisma/schema.prisma'), SCHEMA);
  await writeFile(path.join(cwd, 'main.mts'), program);
  // No engine is used, and none is fetched when there seems to be one.
  const noEngine = { ...env, PRISMA_SCHEMA_ENGINE_BINARY: '/bin/true', PRISMA_HIDE_UPDATE_MESSAGE: '1' };
  const cli = path.join(cwd, 'node_modules/prisma/build/index.js');
  const generated = await runProgram(process.execPath, [cli, 'generate'], { env: noEngine, cwd });
  if (generated.code !== 0) throw new Error(`prisma generate: ${generated.stdout}${generated.stderr}`);
  return runProgram(process.execPath, ['--import', 'tsx', 'main.mts'], { env, cwd });
};

const withUri = (uri: string): NodeJS.ProcessEnv => ({
  PATH: process.env['PATH'],
  HOME: ballast.root,
  DATABASE_URL: uri,
});
const caFile = () => path.join(ballast.dataDir, 'tls/ca.pem');

const drivers: [driver: string, run: Runner, missing: string | undefined][] = [
  ['pg', node, undefined],
  ['postgres', node, undefined],
  ['drizzle', node, undefined],
  ['prisma', prisma, hasPrisma ? undefined : 'BALLAST_TEST_PRISMA_DIR'],
  ['kysely', node, undefined],
  ['psql', sh, hasPsql ? undefined : 'psql'],
  ['psycopg', python, hasPsycopg ? undefined : 'python3-psycopg'],
  ['jdbc', java, hasJdbc ? undefined : 'libpostgresql-jdbc-java and a JDK'],
];

describe.each(drivers.filter(([driver]) => !isLeftOut(driver)))('%s', (driver, run, missing) => {
  test.skipIf(missing !== undefined)(
    `runs as it is printed${missing === undefined ? '' : ` (skipped without ${missing})`}`,
    async () => {
      const { programs, stdout } = printed('--driver', driver);
      expect(programs).toHaveLength(1);
      const [program] = programs;
      expect(await run(program!, withUri(place.uri))).toMatchObject({
        code: 0,
        stdout: expect.stringContaining(place.role),
      });
      const verified = /add to the URI &(\S+)/.exec(stdout)![1]!;
      const uri = `${place.uri}&${verified}`;
      expect(await run(program!, { ...withUri(uri), NODE_EXTRA_CA_CERTS: caFile() })).toMatchObject({
        code: 0,
        stdout: expect.stringContaining(place.role),
      });
      const stranger = '/etc/ssl/certs/ca-certificates.crt';
      const refused = await run(program!, withUri(uri.replace(caFile(), stranger)));
      expect(refused.code).not.toBe(0);
      expect(refused.stderr).toMatch(/certificat/i);
    },
  );
});

test('serverless runs as it is printed, plain and over TLS', async () => {
  const { programs } = printed('--driver', 'serverless');
  expect(programs).toHaveLength(2);
  const [plain, verified] = programs;
  const good = { code: 0, stdout: expect.stringMatching(new RegExp(`${place.role}.*${place.role}`, 's')) };
  expect(await node(plain!, withUri(place.uri))).toMatchObject(good);
  const env = withUri(place.uri);
  expect(await node(verified!, { ...env, NODE_EXTRA_CA_CERTS: caFile() })).toMatchObject(good);
  const refused = await node(verified!, env);
  expect(refused.code).not.toBe(0);
  expect(refused.stderr).toMatch(/certificate/);
});

test('a shell reads what it prints', async () => {
  const script = 'eval "$1"; printf "%s\\n" "$NEON_API_HOST" "$NEON_API_KEY" "$NODE_EXTRA_CA_CERTS"';
  for (const args of [[], ['--driver', 'serverless'], ['--driver', 'jdbc']]) {
    const ran = await runProgram('sh', ['-c', script, 'sh', printed(...args).stdout], { env: {} });
    expect(ran).toEqual({ code: 0, stderr: '', stdout: `${ballast.baseUrl}\n${ballast.api.apiKey}\n${caFile()}\n` });
  }
});

test('NODE_EXTRA_CA_CERTS of somebody else stays, and what would make both work is said on stderr', async () => {
  const set = async (text: string) => {
    const file = path.join(ballast.root, 'corporate ca.pem');
    await writeFile(file, text);
    return ballast.command(['env'], { NODE_EXTRA_CA_CERTS: file });
  };
  const other = await set('');
  expect(other.stdout).not.toContain('NODE_EXTRA_CA_CERTS');
  expect(other.stderr).toContain(`${ballast.root}/corporate ca.pem' ${caFile()} > both.pem`);
  const both = await set(`# all of ours\n${await readFile(caFile(), 'utf8')}`);
  expect(both.stdout).not.toContain('NODE_EXTRA_CA_CERTS');
  expect(both.stderr).toBe('');
  expect(ballast.command(['env'], { NODE_EXTRA_CA_CERTS: caFile() }).stdout).toContain(`CA_CERTS=${caFile()}`);
});

test('a driver that is not known is refused with the list', () => {
  const { status, stderr } = ballast.command(['env', '--driver', 'odbc']);
  expect(status).toBe(1);
  expect(stderr).toContain('serverless, pg, postgres, prisma, drizzle');
});
