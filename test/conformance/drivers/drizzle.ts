/** drizzle-orm on each of the drivers that it has for Postgres. */
import { neon, neonConfig, Pool as NeonPool } from '@neondatabase/serverless';
import { desc, eq, gt, inArray, sql as words, type SQL } from 'drizzle-orm';
import { drizzle as overHttp } from 'drizzle-orm/neon-http';
import { drizzle as overWebSocket } from 'drizzle-orm/neon-serverless';
import { drizzle as overPg } from 'drizzle-orm/node-postgres';
import { bigint, date, integer, jsonb, numeric, pgSchema, text, timestamp } from 'drizzle-orm/pg-core';
import { drizzle as overPostgresJs } from 'drizzle-orm/postgres-js';
import pg from 'pg';
import type { Capability, Driver, OpenOptions, Session, Statement, TransactionOptions } from '../session.ts';
import type { Target } from '../paths.ts';
import { configOf } from './pg.ts';
import { connectPostgresJs } from './postgres-js.ts';
import { alike, httpUri } from './serverless-http.ts';
import { closeBridge, pointWebSockets, websocketConfig } from './serverless-websocket.ts';

const conform = pgSchema('conform');
const people = conform.table('people', {
  id: integer('id').primaryKey(),
  name: text('name').notNull(),
  email: text('email'),
  born: date('born'),
  score: numeric('score', { precision: 10, scale: 2 }),
  tags: text('tags').array().notNull().default([]),
  extra: jsonb('extra'),
  joined: timestamp('joined', { withTimezone: true }).notNull().defaultNow(),
});
const posts = conform.table('posts', {
  id: integer('id').primaryKey(),
  author: integer('author').notNull(),
  title: text('title').notNull(),
  views: bigint('views', { mode: 'bigint' }).notNull().default(0n),
});

/** What drizzle stands on runs the whole list in files of its own. */
export const BUILDERS =
  /own words|own transactions|parameters of|rows written|errors|commit, rollback|type (integer|bigint|numeric|bytea|date|timestamptz|interval|jsonb|uuid|array of text)$|many sessions|megabytes/;

const JOINED = new Date('2024-05-06T07:08:09.123Z');
type Db = ReturnType<typeof overPg>;

function driver(name: string, paths: Driver['paths'], open: Driver['open'], stop?: () => Promise<void>): Driver {
  const can = (path: string): readonly Capability[] => (path === 'http' ? ['builder'] : ['builder', 'transaction']);
  return { name: `drizzle-orm/${name}`, paths, only: BUILDERS, can, open, ...(stop && { stop }) };
}

export const drizzleDrivers: readonly Driver[] = [
  driver('node-postgres', ['direct', 'pooled'], (target, options) => openPg(target, options)),
  driver('postgres-js', ['direct', 'pooled'], async (target, options) => {
    const sql = connectPostgresJs(target, options);
    return session(overPostgresJs(sql) as never, () => sql.end({ timeout: 5 }));
  }),
  driver('neon-http', ['http'], async (target, options) => {
    if (target.path === 'plain') return openPg(target, options, alike);
    neonConfig.fetchEndpoint = () => target.fetchEndpoint!;
    return session(overHttp(neon(httpUri(target, options))) as never, async () => {}, alike);
  }),
  driver(
    'neon-serverless',
    ['websocket'],
    async (target, options) => {
      await pointWebSockets(target);
      const pool = new NeonPool({ ...websocketConfig(target, options), max: 1 });
      pool.on('error', () => {});
      return session(overWebSocket(pool) as never, () => pool.end());
    },
    closeBridge,
  ),
];

async function openPg(target: Target, options: OpenOptions = {}, wrap?: typeof alike): Promise<Session> {
  const pool = new pg.Pool({ ...configOf(target, options), max: 1 });
  pool.on('error', () => {});
  return session(overPg(pool), () => pool.end(), wrap);
}

function session(db: Db, close: () => Promise<void>, wrap: typeof alike = (work) => work): Session {
  return {
    query: (query, values) => wrap(db.execute(statement({ text: query, ...(values && { values }) })).then(answer)),
    close,
    transaction: (statements, { isolation, readOnly }: TransactionOptions = {}) =>
      db.transaction(
        async (tx) => {
          const all: unknown[] = [];
          for (const each of statements) all.push(answer(await tx.execute(statement(each))));
          return all;
        },
        {
          ...(isolation && { isolationLevel: isolation }),
          ...(readOnly !== undefined && { accessMode: readOnly ? ('read only' as const) : ('read write' as const) }),
        },
      ),
    builder: () => wrap(builder(db)),
  };
}

/** $1, $2, ... become drizzle's own parameters. */
function statement({ text: query, values = [] }: Statement): SQL {
  if (values.length === 0) return words.raw(query);
  const parts = query
    .split(/\$(\d+)/)
    .map((part, at) => (at % 2 === 0 ? words.raw(part) : words`${values[Number(part) - 1]}`));
  return words.join(parts);
}

/** Lists from postgres.js, results from the others. */
function answer(result: unknown): unknown {
  if (Array.isArray(result)) return { rows: [...result], count: (result as { count?: number }).count };
  const { command, rowCount, rows } = result as pg.QueryResult;
  return { command, rowCount, rows };
}

async function builder(db: Db): Promise<unknown> {
  const inserted = await db
    .insert(people)
    .values([
      {
        id: 1,
        name: 'Ada',
        email: 'ada@x',
        born: '1815-12-10',
        score: '10.50',
        tags: ['a', 'b c'],
        extra: { n: [1, null] },
        joined: JOINED,
      },
      { id: 2, name: 'zażółć 🐘', tags: [], joined: JOINED },
    ])
    .returning();
  await db.insert(posts).values([
    { id: 1, author: 1, title: 'first', views: 9_007_199_254_740_993n },
    { id: 2, author: 1, title: 'second' },
  ]);
  const upserted = await db
    .insert(people)
    .values({ id: 2, name: 'other', joined: JOINED })
    .onConflictDoUpdate({ target: people.id, set: { score: '7.25' } })
    .returning({ id: people.id, name: people.name, score: people.score });
  const joined = await db
    .select({ title: posts.title, views: posts.views, name: people.name })
    .from(posts)
    .innerJoin(people, eq(posts.author, people.id))
    .orderBy(desc(posts.id));
  const updated = await db
    .update(people)
    .set({ extra: { changed: true } })
    .where(inArray(people.id, [1, 2]))
    .returning({ extra: people.extra });
  const read = await db
    .select()
    .from(people)
    .where(gt(people.joined, new Date(0)))
    .orderBy(people.id);
  const twice = await db
    .insert(people)
    .values({ id: 1, name: 'again' })
    .then(
      () => 'inserted',
      (error: { cause?: { code?: string; constraint?: string } }) => ({
        code: error.cause?.code,
        constraint: error.cause?.constraint,
      }),
    );
  const deleted = await db.delete(posts).returning();
  return { inserted, upserted, joined, updated, read, twice, deleted };
}
