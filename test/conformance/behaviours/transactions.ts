/** Transactions by SQL in one session, and between several. */
import { waitFor } from '../../support/wait.ts';
import { statements, type Behaviour } from './behaviour.ts';
import { settle } from '../session.ts';

const ACCOUNTS =
  'create table conform.accounts (id int primary key, amount int not null); insert into conform.accounts values (1, 100), (2, 100)';
const WAIT = { timeoutMs: 90_000 };

export const transactionBehaviours: Behaviour[] = [
  statements(
    'commit, rollback and savepoints',
    {
      begin: 'begin',
      write: 'update conform.accounts set amount = amount - 10 where id = 1',
      savepoint: 'savepoint one',
      'write more': 'update conform.accounts set amount = 0',
      'back to it': 'rollback to savepoint one',
      read: 'select * from conform.accounts order by id',
      release: 'release savepoint one',
      commit: 'commit',
      'begin again': 'begin',
      'delete all': 'delete from conform.accounts',
      rollback: 'rollback',
      'what is left': 'select * from conform.accounts order by id',
    },
    ACCOUNTS,
  ),
  statements(
    'a failed transaction refuses all until it ends',
    {
      begin: 'begin',
      write: 'update conform.accounts set amount = 0',
      fails: 'select 1 / 0',
      refused: 'select 1 as one',
      'refused with parameters': ['select $1::int as one', 1],
      commit: 'commit',
      'what is left': 'select * from conform.accounts order by id',
      'begin again': 'begin',
      savepoint: 'savepoint here',
      'fails again': 'select * from conform.nowhere',
      'back to the savepoint': 'rollback to here',
      'goes on': 'select 1 as one',
      end: 'end',
    },
    ACCOUNTS,
  ),
  statements(
    'isolation levels and read-only transactions',
    {
      ...Object.fromEntries(
        ['read uncommitted', 'read committed', 'repeatable read', 'serializable'].flatMap((level) => [
          [`begin ${level}`, `begin isolation level ${level}`],
          [`show ${level}`, 'show transaction_isolation'],
          [`end ${level}`, 'commit'],
        ]),
      ),
      'read only': 'begin read only',
      'may not write': 'delete from conform.accounts',
      'end of read only': 'rollback',
      deferrable: 'begin isolation level serializable read only deferrable',
      'show deferrable': 'show transaction_deferrable',
      'end of deferrable': 'commit',
      chain: 'begin isolation level repeatable read',
      'commit and chain': 'commit and chain',
      'still repeatable read': 'show transaction_isolation',
      'end of chain': 'rollback',
      'commit without begin': 'commit',
    },
    ACCOUNTS,
  ),
  statements('tables made in a transaction that is rolled back', {
    begin: 'begin',
    create: 'create table conform.brief (n int)',
    fill: 'insert into conform.brief select generate_series(1, 10)',
    count: 'select count(*)::int as n from conform.brief',
    rollback: 'rollback',
    gone: 'select count(*)::int as n from conform.brief',
  }),
  {
    name: 'two serializable transactions that cross: one fails',
    needs: ['session'],
    setup: ACCOUNTS,
    run: async ({ open, seen }) => {
      const [a, b] = [await open(), await open()];
      for (const session of [a, b]) {
        await session.query('begin isolation level serializable');
        await session.query('select sum(amount)::int from conform.accounts');
      }
      await a.query('update conform.accounts set amount = amount + 1 where id = 1');
      await b.query('update conform.accounts set amount = amount + 1 where id = 2');
      const first = await seen(a.query('commit'));
      const second = await seen(b.query('commit'));
      return { first, second, after: await seen(b.query('select * from conform.accounts order by id')) };
    },
  },
  {
    name: 'repeatable read does not see what others commit',
    needs: ['session'],
    setup: ACCOUNTS,
    run: async ({ open, seen, admin }) => {
      const session = await open();
      await session.query('begin isolation level repeatable read');
      const before = await seen(session.query('select amount from conform.accounts where id = 1'));
      await admin.query('update conform.accounts set amount = 7 where id = 1');
      const same = await seen(session.query('select amount from conform.accounts where id = 1'));
      const failed = await seen(session.query('update conform.accounts set amount = 8 where id = 1'));
      await session.query('rollback');
      return {
        before,
        same,
        failed,
        after: await seen(session.query('select amount from conform.accounts where id = 1')),
      };
    },
  },
  {
    name: 'a writer waits for the lock of another',
    needs: ['session'],
    setup: ACCOUNTS,
    run: async ({ open, seen, admin }) => {
      const [a, b] = [await open(), await open()];
      await a.query('begin');
      await a.query('update conform.accounts set amount = amount + 1 where id = 1');
      const waiting = settle(b.query('update conform.accounts set amount = amount * 2 where id = 1'));
      await waitFor(
        'the writer to wait',
        async () => {
          const { rows } = await admin.query(
            "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '%amount * 2%'",
          );
          return rows.length > 0;
        },
        WAIT,
      );
      await a.query('commit');
      return { waited: await waiting, after: await seen(a.query('select amount from conform.accounts where id = 1')) };
    },
  },
  {
    name: 'a deadlock is broken',
    needs: ['session'],
    setup: ACCOUNTS,
    run: async ({ open, seen }) => {
      const sessions = [await open(), await open()];
      for (const [at, session] of sessions.entries()) {
        await session.query('begin');
        await session.query(`update conform.accounts set amount = amount + 1 where id = ${at + 1}`);
      }
      const crossed = await Promise.all(
        sessions.map(async (session, at) => {
          const settled = await settle(
            session.query(`update conform.accounts set amount = amount + 1 where id = ${2 - at}`),
          );
          // Lets the other go on; a failed transaction rolls back.
          await session.query('commit');
          return settled;
        }),
      );
      // Which of the two is up to Postgres.
      const failed = crossed.filter((settled) => 'error' in settled);
      const { code } = (failed[0] as { error: { code?: string } } | undefined)?.error ?? {};
      return {
        failed: failed.length,
        code,
        after: await seen(sessions[0]!.query('select sum(amount)::int as n from conform.accounts')),
      };
    },
  },
  {
    name: "the driver's own transactions",
    setup: ACCOUNTS,
    needs: ['transaction'],
    run: async ({ open, seen }) => {
      const session = await open();
      const take = {
        text: 'update conform.accounts set amount = amount - $1::int where id = $2::int',
        values: [30, 1],
      };
      const read = { text: 'select id, amount from conform.accounts order by id' };
      const level = { text: 'show transaction_isolation' };
      return {
        done: await seen(session.transaction!([take, read])),
        undone: await seen(session.transaction!([take, { text: 'select 1 / 0' }, read])),
        left: await seen(session.query(read.text)),
        serializable: await seen(session.transaction!([level, read], { isolation: 'serializable' })),
        'repeatable read': await seen(session.transaction!([level], { isolation: 'repeatable read' })),
      };
    },
  },
];
