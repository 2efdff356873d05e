/** Large values, many rows, many columns, many sessions. */
import { statements, type Behaviour } from './behaviour.ts';

const MB = 1024 * 1024;

export const sizeBehaviours: Behaviour[] = [
  statements('twenty megabytes out', {
    text: `select repeat('0123456789abcdef', ${(20 * MB) / 16}) as value`,
    bytea: `select convert_to(repeat('0123456789abcdef', ${(10 * MB) / 16}), 'UTF8') as value`,
    after: 'select 1 as one',
  }),
  statements(
    'twenty megabytes in',
    {
      insert: ['insert into conform.large values (1, $1::text)', 'zażółć!!'.repeat((20 * MB) / 12)],
      read: 'select length(value) as characters, octet_length(value) as bytes, md5(value) as md5 from conform.large',
      'and back': 'select value from conform.large',
    },
    'create table conform.large (id int, value text); alter table conform.large alter value set storage external',
  ),
  statements('many rows', {
    rows: "select n, 'row ' || n as label, n * 1.5 as amount from generate_series(1, 50000) n",
    none: 'select n from generate_series(1, 0) n',
  }),
  statements('many columns', {
    columns: `select ${Array.from({ length: 1600 }, (_, n) => `${n} as column_${n}`).join(', ')}`,
    'too many': `select ${Array.from({ length: 1700 }, (_, n) => `${n} as c${n}`).join(', ')}`,
    after: 'select 1 as one',
  }),
  statements('a long statement', {
    text: `select ${'1 + '.repeat(4000)}1 as n /* ${'x'.repeat(2 * MB)} */`,
    list: `select count(*)::int as n from generate_series(1, 20000) n where n in (${Array.from({ length: 10_000 }, (_, n) => n * 2).join(', ')})`,
  }),
  {
    name: 'many sessions at once',
    setup:
      'create table conform.counter (n int); insert into conform.counter values (0); create table conform.seen (who int, n int)',
    run: async ({ open, seen }) => {
      const sessions = await Promise.all(Array.from({ length: 16 }, () => open()));
      const answers = await Promise.all(
        sessions.map(async (session, who) => {
          const own: unknown[] = [];
          for (let round = 0; round < 8; round += 1) {
            await session.query('update conform.counter set n = n + 1');
            await session.query('insert into conform.seen values ($1::int, $2::int)', [who, round]);
            own.push(
              await seen(
                session.query('select $1::int as who, count(*)::int as n from conform.seen where who = $2::int', [
                  who,
                  who,
                ]),
              ),
            );
          }
          return own;
        }),
      );
      return {
        answers,
        counter: await seen(
          sessions[0]!.query('select n, (select count(*)::int from conform.seen) as seen from conform.counter'),
        ),
      };
    },
  },
];
