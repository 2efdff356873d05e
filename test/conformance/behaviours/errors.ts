/** Errors with all their fields, and what a session is after them. */
import { statements, type Behaviour } from './behaviour.ts';

const TABLES = `
  create table conform.parents (id int primary key);
  create table conform.children (
    id int primary key, parent int not null references conform.parents (id), code varchar(3) unique,
    amount int constraint amount_is_positive check (amount > 0),
    during int4range, constraint never_twice exclude using gist (during with &&));
  insert into conform.parents values (1);
  insert into conform.children values (1, 1, 'abc', 5, '[1,5)');
  create function conform.fails(n int) returns int language plpgsql as $$ begin return 1 / n; end $$;
  create function conform.raises() returns void language plpgsql as $$ begin
    raise exception 'out of % things', 'many' using errcode = 'BA123', detail = 'the detail', hint = 'the hint',
      column = 'c', constraint = 'k', datatype = 'd', table = 't', schema = 's'; end $$;
  create function conform.strange() returns int language plpgsql as $$ declare n int; begin
    execute 'select nothing_like_it from conform.parents' into n; return n; end $$;`;

const CODES: Readonly<Record<string, string>> = {
  'division by zero': 'select 1 / 0',
  syntax: 'select 1 from from x',
  'syntax after text of several bytes': "select 'zażółć 🐘' as a, from",
  'unknown table': 'select * from conform.nowhere',
  'unknown column with a hint': 'select idd from conform.parents',
  'unknown function': 'select conform.no_such(1)',
  'unknown schema': 'create table nowhere_at_all.t (n int)',
  unique: "insert into conform.children values (2, 1, 'abc')",
  'primary key': 'insert into conform.parents values (1)',
  'foreign key': 'insert into conform.children values (2, 77)',
  'foreign key from the other side': 'delete from conform.parents',
  'not null': 'insert into conform.children (id) values (3)',
  check: 'insert into conform.children (id, parent, amount) values (4, 1, -1)',
  exclusion: "insert into conform.children (id, parent, during) values (5, 1, '[4,6)')",
  'too long': "insert into conform.children (id, parent, code) values (6, 1, 'abcd')",
  'invalid text': "select 'x'::int",
  'invalid json': `select '{"a": nope}'::json`,
  'invalid time': "select '2024-02-30'::date",
  'no permission': 'set session_replication_role to replica',
  'inside a function': 'select conform.fails(0)',
  'inside a statement of a function': 'select conform.strange()',
  'raised with every field': 'select conform.raises()',
  'raised in a block': "do $$ begin raise exception using message = 'bare'; end $$",
  'several rows from a subquery': 'select (select n from generate_series(1, 2) n)',
  'no transaction': 'savepoint nowhere',
  'not inside a transaction': 'vacuum conform.nowhere',
  'array literal': "select '{1,2'::int[]",
  regexp: "select 'a' ~ '('",
};

export const errorBehaviours: Behaviour[] = [
  statements('errors with all their fields', CODES, TABLES),
  statements(
    'errors with all their fields, of statements with parameters',
    {
      unique: ['insert into conform.children values ($1, $2, $3)', 2, 1, 'abc'],
      check: ['insert into conform.children (id, parent, amount) values ($1, 1, $2)', 4, -1],
      'unknown column': ['select idd from conform.parents where id = $1', 1],
      'inside a function': ['select conform.fails($1::int)', 0],
      'raised with every field': ['select conform.raises() where $1::int = 1', 1],
    },
    TABLES,
  ),
  {
    name: 'an error amid many rows',
    run: async ({ open, seen }) => {
      const session = await open();
      const failed = await seen(session.query('select 1000 / (20000 - n) as v from generate_series(1, 30000) n'));
      return { failed, after: await seen(session.query('select 1 as one')) };
    },
  },
  {
    name: 'a statement that takes too long for its transaction',
    needs: ['script'],
    run: async ({ open, seen }) => {
      const session = await open();
      const failed = await seen(session.script!("begin; set local statement_timeout = '20ms'; select pg_sleep(600)"));
      const ended = await seen(session.query('rollback'));
      return { failed, ended, after: await seen(session.query('select 1 as one')) };
    },
  },
  {
    name: 'a wrong password',
    run: async ({ open, seen }) =>
      seen(open({ password: 'wrong' }).then((session) => session.query('select 1 as one'))),
  },
  {
    name: 'a database that is not there',
    run: async ({ open, seen }) =>
      seen(open({ database: 'nowhere' }).then((session) => session.query('select 1 as one'))),
  },
];
