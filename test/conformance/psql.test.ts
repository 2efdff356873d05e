/**
 * psql: scripts of its own commands print the same through direct and pooled hosts as on plain Postgres.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ask, findProgram, runScript } from './programs.ts';
import { startEnds, type Ends, type Target } from './paths.ts';

const psql = findProgram('psql');
const BOOT_TIMEOUT_MS = 240_000;

const TABLES = `
  create table conform.fruit (id int primary key, name text not null unique, price numeric(6,2) check (price > 0), tags text[], extra jsonb);
  insert into conform.fruit values (1, 'apple', 1.50, '{red,green}', '{"a": 1}'), (2, 'zażółć 🐘', 0.05, null, null);
  create view conform.cheap as select name from conform.fruit where price < 1;
  create function conform.says(n int) returns int language plpgsql as $$ begin
    raise notice 'n is %', n using detail = 'the detail'; return n; end $$;`;

interface Script {
  text: string;
  /** Differs on pooled hosts, which keep nothing of a session: what is printed there, and not on plain Postgres. */
  pooled?: RegExp;
}

const SCRIPTS: Readonly<Record<string, Script>> = {
  'tables, expanded, unaligned, CSV, JSON, HTML and asciidoc': {
    text: ['aligned', 'unaligned', 'csv', 'html', 'asciidoc', 'latex', 'wrapped']
      .map((format) => `\\pset format ${format}\nselect * from conform.fruit order by id;`)
      .concat(
        '\\pset format aligned',
        '\\x',
        'select * from conform.fruit;',
        '\\x',
        "\\pset null '(null)'",
        'table conform.fruit;',
      )
      .join('\n'),
  },
  'descriptions of tables, views, functions, schemas and types': {
    text: [
      '\\d conform.fruit',
      '\\d+ conform.cheap',
      '\\df conform.*',
      '\\dn conform',
      '\\di conform.*',
      '\\sf conform.says',
      '\\dt conform.*',
      '\\dv conform.*',
      '\\sv conform.cheap',
      '\\encoding',
      '\\l nothing',
    ].join('\n'),
  },
  'variables, \\gset, \\gexec, \\gdesc, \\gx, \\crosstabview, \\if': {
    text: `
      \\set name apple
      select id as found from conform.fruit where name = :'name' \\gset
      \\echo found :found :ROW_COUNT :SQLSTATE
      select format('select %s as from_gexec', n) from generate_series(1, 3) n \\gexec
      select id, price, tags from conform.fruit \\gdesc
      select * from conform.fruit where id = :found \\gx
      select a, b, a * b from generate_series(1, 3) a, generate_series(1, 2) b \\crosstabview
      \\if :found
        \\echo yes
      \\else
        \\echo no
      \\endif
      select 1 / 0;
      \\echo :ERROR :SQLSTATE :LAST_ERROR_MESSAGE`,
  },
  'errors, verbose and in one word': {
    text: `
      \\set VERBOSITY verbose
      select 1 from nowhere;
      select nme from conform.fruit;
      insert into conform.fruit values (1, 'x');
      insert into conform.fruit (id, name, price) values (3, 'x', -1);
      select 'zażółć', from;
      do $$ begin raise exception 'no' using hint = 'try again'; end $$;
      \\set VERBOSITY sqlstate
      select 1 / 0;
      \\set VERBOSITY default
      select 1 / 0;
      \\errverbose
      select conform.says(5);`,
  },
  'transactions, savepoints and ON_ERROR_ROLLBACK': {
    text: `
      begin;
      delete from conform.fruit where id = 1;
      savepoint here;
      select 1 / 0;
      rollback to here;
      select count(*) from conform.fruit;
      rollback;
      \\set ON_ERROR_ROLLBACK on
      begin;
      insert into conform.fruit values (3, 'pear', 2);
      select 1 / 0;
      select count(*) from conform.fruit;
      rollback;
      \\set AUTOCOMMIT off
      delete from conform.fruit;
      rollback;
      \\set AUTOCOMMIT on
      select count(*) from conform.fruit;`,
  },
  '\\copy and COPY, both ways': {
    text: `
      create table conform.copied (n int, label text);
      copy conform.copied from stdin;
1\tone
2\t\\N
\\.
      \\copy conform.copied from pstdin with (format csv)
3,"a ""b"""
\\.
      \\copy (select * from conform.copied order by n) to pstdout with (format csv, header)
      copy conform.copied to stdout;
      \\copy conform.nowhere from pstdin
      copy conform.copied from stdin;
x\ty
\\.
      select count(*) from conform.copied;`,
  },
  'rows in portions, several statements in one, \\; and \\watch': {
    text: `
      \\set FETCH_COUNT 10
      select n, repeat('x', n % 7) from generate_series(1, 100) n;
      \\unset FETCH_COUNT
      select 1 as a\\; select 2 as b\\; select 3 as c;
      \\timing off
      select 1;;`,
  },
  'a session: settings, temporary tables, notifications': {
    text: `
      set work_mem to '12345kB';
      show work_mem;
      create temporary table mine (n int);
      select count(*) from mine;
      listen news;
      notify news, 'hello';
      prepare p as select 1;
      execute p;`,
    pooled: /relation "mine" does not exist/,
  },
};

let ends: Ends;
const printed = (target: Target, script: string) =>
  runScript(psql!, ['-X', '-f', '-'], target, script).then((ran) => ({
    ...ran,
    output: masked(ran.output),
    errors: masked(ran.errors),
  }));
const masked = (text: string) => text.replaceAll(/server process with PID \d+/g, 'server process with PID N');
async function fresh(target: Target): Promise<void> {
  const direct = ends.direct(target);
  await ask(direct, `drop schema if exists conform cascade; create schema conform; ${TABLES}`);
}

describe.skipIf(psql === undefined)('psql (skipped where psql is not installed)', () => {
  beforeAll(async () => {
    ends = await startEnds();
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await ends?.stop();
  }, BOOT_TIMEOUT_MS);

  describe.each(['direct', 'pooled'] as const)('path %s', (path) => {
    test.each(Object.entries(SCRIPTS))('%s', async (_title, { text, pooled }) => {
      await fresh(ends.plain);
      const expected = await printed(ends.plain, text);
      await fresh(ends.ballast[path]);
      const seen = await printed(ends.ballast[path], text);
      if (path === 'direct' || pooled === undefined) return expect(seen).toEqual(expected);
      expect(expected.errors).not.toMatch(pooled);
      return expect(seen.errors).toMatch(pooled);
    });
  });
});
