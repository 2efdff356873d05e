/**
 * Prisma's client with its adapters for pg and for the serverless driver. It is big and lies outside of this repository's
 * packages: .ci/run installs it into BALLAST_TEST_PRISMA_7_DIR. The client needs no engine; its generator would download
 * one that it does not use, so it is told that there is one already.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import type { Driver, OpenOptions, Session, TransactionOptions } from '../session.ts';
import type { Target } from '../paths.ts';
import { BUILDERS } from './drizzle.ts';
import { configOf } from './pg.ts';
import { closeBridge, pointWebSockets, websocketConfig } from './serverless-websocket.ts';

const directory = process.env['BALLAST_TEST_PRISMA_7_DIR'] ?? '/nowhere';
const installed = existsSync(path.join(directory, 'node_modules/@prisma/adapter-neon'));
const load = createRequire(path.join(directory, 'package.json'));

let generated: any;

/** Once for each text of the schema, beside the packages that the generated client imports. */
function client(): any {
  if (generated !== undefined) return generated;
  const schema = readFileSync(path.join(import.meta.dirname, '../programs/schema.prisma'), 'utf8');
  const home = path.join(directory, 'generated', createHash('sha256').update(schema).digest('hex').slice(0, 12));
  const output = path.join(home, 'client');
  if (!existsSync(path.join(output, 'index.js'))) {
    mkdirSync(home, { recursive: true });
    const file = path.join(home, 'schema.prisma');
    writeFileSync(file, schema.replace('OUTPUT', output));
    const prisma = path.join(directory, 'node_modules/prisma/build/index.js');
    const env = { ...process.env, PRISMA_SCHEMA_ENGINE_BINARY: process.execPath, PRISMA_HIDE_UPDATE_MESSAGE: '1' };
    const ran = spawnSync(process.execPath, [prisma, 'generate', '--schema', file], {
      cwd: home,
      env,
      encoding: 'utf8',
      timeout: 120_000,
    });
    if (ran.status !== 0) throw new Error(`prisma generate failed: ${ran.stdout}${ran.stderr}`);
  }
  generated = load(path.join(output, 'index.js'));
  return generated;
}

function driver(name: string, paths: Driver['paths'], adapter: Adapter, stop?: () => Promise<void>): Driver {
  return {
    name: `Prisma with ${name}`,
    paths,
    only: BUILDERS,
    ...(!installed && { missing: 'no Prisma with its adapters in BALLAST_TEST_PRISMA_7_DIR' }),
    can: () => ['builder', 'transaction'],
    open: async (target, options) => open(await adapter(target, options)),
    ...(stop && { stop }),
  };
}

type Adapter = (target: Target, options?: OpenOptions) => Promise<unknown>;

export const prismaDrivers: readonly Driver[] = [
  driver('adapter-pg', ['direct', 'pooled'], async (target, options) => {
    const { PrismaPg } = load('@prisma/adapter-pg');
    return new PrismaPg({ ...configOf(target, options), max: 1 });
  }),
  driver(
    'adapter-neon',
    ['websocket'],
    async (target, options) => {
      const { PrismaNeon } = load('@prisma/adapter-neon');
      // The adapter's own copy of the serverless driver.
      await pointWebSockets(target, load('@neondatabase/serverless').neonConfig);
      return new PrismaNeon({ ...websocketConfig(target, options), max: 1 });
    },
    closeBridge,
  ),
];

function open(adapter: unknown): Session {
  const prisma = new (client().PrismaClient)({ adapter });
  return {
    query: (text, values = []) => prisma.$queryRawUnsafe(text, ...values),
    close: () => prisma.$disconnect(),
    transaction: (statements, { isolation }: TransactionOptions = {}) =>
      prisma.$transaction(
        async (tx: any) => {
          const all: unknown[] = [];
          for (const { text, values = [] } of statements) all.push(await tx.$queryRawUnsafe(text, ...values));
          return all;
        },
        {
          timeout: 60_000,
          maxWait: 60_000,
          ...(isolation && {
            isolationLevel: isolation.replaceAll(/(^| )(\w)/g, (_all, _gap, letter) => letter.toUpperCase()),
          }),
        },
      ),
    builder: () => builder(prisma),
  };
}

async function builder(prisma: any): Promise<unknown> {
  const joined = new Date('2024-05-06T07:08:09.123Z');
  const created = await prisma.person.create({
    data: {
      ...{ id: 1, name: 'Ada', email: 'ada@x', born: new Date('1815-12-10'), score: '10.50' },
      ...{ tags: ['a', 'b c'], extra: { n: [1, null] }, joined },
      posts: {
        create: [
          { id: 1, title: 'first', views: 9_007_199_254_740_993n },
          { id: 2, title: 'second' },
        ],
      },
    },
    include: { posts: { orderBy: { id: 'asc' } } },
  });
  const many = await prisma.person.createMany({
    data: [2, 3].map((id) => ({ id, name: 'zażółć 🐘', tags: [], joined })),
  });
  const upserted = await prisma.person.upsert({
    where: { id: 2 },
    create: { id: 2, name: 'other' },
    update: { score: '7.25' },
  });
  const read = await prisma.person.findMany({
    where: { OR: [{ tags: { has: 'a' } }, { name: { contains: 'żół' } }] },
    orderBy: { id: 'desc' },
    include: { posts: true },
  });
  const counted = await prisma.person.aggregate({ _count: true, _sum: { score: true }, _max: { joined: true } });
  const twice = await prisma.person.create({ data: { id: 1, name: 'again' } }).then(
    () => 'created',
    ({ code }: { code: string }) => code,
  );
  const updated = await prisma.person.updateMany({ where: { id: { in: [1, 3] } }, data: { extra: { changed: true } } });
  const batch = await prisma.$transaction([
    prisma.post.deleteMany(),
    prisma.person.count(),
    prisma.person.findFirst({ where: { extra: { path: ['changed'], equals: true } }, orderBy: { id: 'asc' } }),
  ]);
  return { created, many, upserted, read, counted, twice, updated, batch };
}
