/** How statements are sent: prepared, in pipelines, several at once, empty, through cursors. */
import { statements, type Behaviour } from './behaviour.ts';

const NUMBERS =
  "create table conform.numbers (n int primary key, label text); insert into conform.numbers select n, 'number ' || n from generate_series(1, 1000) n";

export const statementBehaviours: Behaviour[] = [
  statements('empty statements', {
    nothing: '',
    blank: ' \n ',
    'a semicolon': ';',
    'a comment': '-- nothing here',
    'after them': 'select 1 as one;',
  }),
  statements('results of every shape', {
    'no rows': 'select 1 as one where false',
    'no columns': 'select',
    'columns of one name': 'select 1 as a, 2 as a, 3 as b',
    'unnamed columns': "select 1, 'x', now() is not null",
    'odd names': 'select 1 as "Mixed Case", 2 as "with "" quote", 3 as "ż🐘"',
    explain: 'explain (costs off) select 1',
    show: 'show standard_conforming_strings',
    values: "values (1, 'a'), (2, 'b')",
    table: 'table pg_catalog.pg_tables limit 0',
    'create and drop': 'create table conform.there (n int)',
    drop: 'drop table conform.there',
    do: 'do $$ begin null; end $$',
  }),
  {
    name: 'several statements in one text',
    setup: NUMBERS,
    needs: ['script'],
    run: async ({ open, seen }) => {
      const session = await open();
      return {
        three: await seen(session.script!("select 1 as a; select 'two' as b, 2 as c; select 3 as d where false")),
        mixed: await seen(
          session.script!(
            'update conform.numbers set label = null where n < 4; select count(label)::int from conform.numbers',
          ),
        ),
        'one fails, all are undone': await seen(session.script!('delete from conform.numbers; select 1 / 0; select 5')),
        left: await seen(session.query('select count(*)::int as n from conform.numbers')),
        'with a transaction of their own': await seen(
          session.script!(
            'begin; delete from conform.numbers where n <= 500; commit; select count(*)::int as n from conform.numbers',
          ),
        ),
        'committed before the failure': await seen(
          session.script!('begin; delete from conform.numbers; commit; select 1 / 0'),
        ),
        'left in the end': await seen(session.query('select count(*)::int as n from conform.numbers')),
        'empty ones among them': await seen(session.script!(';;select 1 as one;;')),
      };
    },
  },
  {
    name: 'several statements are refused where there are parameters',
    run: async ({ open, seen }) => {
      const session = await open();
      return {
        refused: await seen(session.query('select $1::int as a; select 2 as b', [1])),
        after: await seen(session.query('select 1 as one')),
      };
    },
  },
  {
    name: 'prepared statements',
    setup: NUMBERS,
    needs: ['prepared'],
    run: async ({ open, seen, admin }) => {
      const [session, other] = [await open(), await open()];
      const text = 'select label from conform.numbers where n = $1::int';
      const all: Record<string, unknown> = {};
      for (const n of [1, 2, 3, 4, 5, 6, 7, 1000, 1001])
        all[`label ${n}`] = await seen(session.prepared!('by_number', { text, values: [n] }));
      all['the same name in another session'] = await seen(
        other.prepared!('by_number', { text: 'select $1::text as other', values: ['x'] }),
      );
      all['and here again'] = await seen(session.prepared!('by_number', { text, values: [8] }));
      all['a name that fails'] = await seen(session.prepared!('fails', { text: 'select $1::int / 0', values: [1] }));
      all['fails again'] = await seen(session.prepared!('fails', { text: 'select $1::int / 0', values: [1] }));
      all['a syntax error'] = await seen(session.prepared!('wrong', { text: 'selectt $1', values: [1] }));
      all.star = await seen(
        session.prepared!('star', { text: 'select * from conform.numbers where n = $1::int', values: [5] }),
      );
      await admin.query("alter table conform.numbers add column extra text default 'new'");
      all['after the table has changed'] = await seen(
        session.prepared!('star', { text: 'select * from conform.numbers where n = $1::int', values: [5] }),
      );
      all['in a transaction'] = await seen(session.query('begin'));
      all['still there'] = await seen(session.prepared!('by_number', { text, values: [9] }));
      all.rollback = await seen(session.query('rollback'));
      all['and after it'] = await seen(session.prepared!('by_number', { text, values: [10] }));
      return all;
    },
  },
  {
    name: 'many prepared statements',
    needs: ['prepared'],
    run: async ({ open, seen }) => {
      const session = await open();
      const ask = async () => {
        const answers: unknown[] = [];
        for (let n = 0; n < 120; n += 1) {
          const statement = { text: `select $1::int + ${n} as n`, values: [1000] };
          answers.push(await seen(session.prepared!(`statement ${n}`, statement)));
        }
        return answers;
      };
      return { first: await ask(), again: await ask() };
    },
  },
  {
    name: 'pipelines',
    setup: NUMBERS,
    needs: ['pipeline'],
    run: async ({ open, seen }) => {
      const session = await open();
      const all: Record<string, unknown> = {};
      all.hundred = await seen(
        session.pipeline!(
          Array.from({ length: 100 }, (_, n) => ({ text: `select $1::int * 2 as n, '${n}' as t`, values: [n] })),
        ),
      );
      all['with an error amid them'] = await seen(
        session.pipeline!([
          { text: 'select $1::int as n', values: [1] },
          { text: 'select $1::int / 0 as n', values: [1] },
          { text: 'select $1::int as n', values: [3] },
        ]),
      );
      all['a transaction'] = await seen(
        session.pipeline!([
          { text: 'begin' },
          { text: 'delete from conform.numbers where n = $1::int', values: [1] },
          { text: 'rollback' },
          { text: 'select count(*)::int as n from conform.numbers' },
        ]),
      );
      all.after = await seen(session.query('select 1 as one'));
      return all;
    },
  },
  {
    name: "the driver's cursors",
    setup: NUMBERS,
    needs: ['cursor'],
    run: async ({ open, seen }) => {
      const session = await open();
      const statement = { text: 'select n, label from conform.numbers where n > $1::int order by n', values: [10] };
      return {
        all: await seen(session.cursor!(statement, 100)),
        'one at a time': await seen(session.cursor!({ ...statement, values: [995] }, 1)),
        'left early': await seen(session.cursor!(statement, 7, 2)),
        'and on': await seen(session.query('select 1 as one')),
        'no rows': await seen(session.cursor!({ ...statement, values: [5000] }, 10)),
        'an error late': await seen(
          session.cursor!(
            { text: 'select 10 / (500 - n) as v from conform.numbers where n > $1::int order by n', values: [0] },
            100,
          ),
        ),
        after: await seen(session.query('select 1 as one')),
      };
    },
  },
  statements(
    'cursors by SQL',
    {
      begin: 'begin',
      declare: 'declare walk scroll cursor for select n from conform.numbers order by n',
      fetch: 'fetch 3 from walk',
      'fetch on': 'fetch 2 from walk',
      back: 'fetch backward 1 from walk',
      move: 'move absolute 990 in walk',
      last: 'fetch all from walk',
      close: 'close walk',
      commit: 'commit',
    },
    NUMBERS,
  ),
];
