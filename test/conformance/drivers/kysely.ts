/** Kysely, with its dialect over node-postgres and pg-cursor. */
import { CompiledQuery, Kysely, PostgresDialect, sql, type ColumnType, type Transaction } from 'kysely';
import pg from 'pg';
import Cursor from 'pg-cursor';
import type { Driver, OpenOptions, Session, TransactionOptions } from '../session.ts';
import type { Target } from '../paths.ts';
import { configOf } from './pg.ts';

interface Tables {
  'conform.people': {
    id: number;
    name: string;
    email: string | null;
    score: ColumnType<string | null, string | undefined, string>;
    tags: ColumnType<string[], string[] | undefined, string[]>;
    extra: ColumnType<unknown, string | undefined, string>;
    joined: ColumnType<Date, Date | undefined, Date>;
  };
  'conform.posts': { id: number; author: number; title: string; views: ColumnType<string, string | undefined, string> };
}

export const kyselyDriver: Driver = {
  name: 'kysely',
  paths: ['direct', 'pooled'],
  can: () => ['builder', 'transaction', 'cursor'],
  open,
};

async function open(target: Target, options: OpenOptions = {}): Promise<Session> {
  const pool = new pg.Pool({ ...configOf(target, options), max: 1 });
  pool.on('error', () => {});
  const db = new Kysely<Tables>({ dialect: new PostgresDialect({ pool, cursor: Cursor as never }) });
  return {
    query: (text, values = []) => db.executeQuery(CompiledQuery.raw(text, [...values])),
    close: () => db.destroy(),
    transaction: (statements, { isolation, readOnly }: TransactionOptions = {}) => {
      let transaction = db.transaction();
      if (isolation !== undefined) transaction = transaction.setIsolationLevel(isolation);
      if (readOnly) transaction = transaction.setAccessMode('read only');
      return transaction.execute(async (tx: Transaction<Tables>) => {
        const all: unknown[] = [];
        for (const { text, values = [] } of statements)
          all.push(await tx.executeQuery(CompiledQuery.raw(text, [...values])));
        return all;
      });
    },
    cursor: async ({ text, values = [] }, size, batches = Infinity) => {
      // Its streams give rows one by one; the batches are how they are fetched.
      const rows: unknown[] = [];
      const executor = db.getExecutor();
      const query = CompiledQuery.raw(text, [...values]);
      for await (const result of executor.stream(query, size)) {
        rows.push(result.rows);
        if (rows.length >= batches) break;
      }
      return rows as unknown[][];
    },
    builder: () => builder(db),
  };
}

async function builder(db: Kysely<Tables>): Promise<unknown> {
  const joined = new Date('2024-05-06T07:08:09.123Z');
  const inserted = await db
    .insertInto('conform.people')
    .values([
      {
        id: 1,
        name: 'Ada',
        email: 'ada@x',
        score: '10.50',
        tags: ['a', 'b c'],
        extra: JSON.stringify({ n: [1, null] }),
        joined,
      },
      { id: 2, name: 'zażółć 🐘', email: null, score: '1', tags: [], extra: 'null', joined },
    ])
    .returningAll()
    .execute();
  const posts = await db
    .insertInto('conform.posts')
    .values([
      { id: 1, author: 1, title: 'first', views: '9007199254740993' },
      { id: 2, author: 1, title: 'second', views: '0' },
    ])
    .executeTakeFirst();
  const upserted = await db
    .insertInto('conform.people')
    .values({ id: 2, name: 'other', email: null })
    .onConflict((conflict) => conflict.column('id').doUpdateSet({ score: '7.25' }))
    .returning(['id', 'name', 'score'])
    .executeTakeFirstOrThrow();
  const both = await db
    .selectFrom('conform.posts')
    .innerJoin('conform.people', 'conform.people.id', 'conform.posts.author')
    .select(['title', 'views', 'name', sql<number>`length(title)`.as('length')])
    .orderBy('conform.posts.id', 'desc')
    .execute();
  const updated = await db
    .updateTable('conform.people')
    .set({ extra: '{"changed": true}' })
    .where('id', 'in', [1, 2])
    .executeTakeFirst();
  const read = await db
    .selectFrom('conform.people')
    .selectAll()
    .where('joined', '>', new Date(0))
    .orderBy('id')
    .execute();
  const twice = await db
    .insertInto('conform.people')
    .values({ id: 1, name: 'again', email: null })
    .execute()
    .catch(({ code, constraint }: { code: string; constraint: string }) => ({ code, constraint }));
  const deleted = await db.deleteFrom('conform.posts').executeTakeFirst();
  return { inserted, posts, upserted, both, updated, read, twice, deleted };
}
