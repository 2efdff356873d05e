import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { splitStatements } from './split-statements.ts';

describe('what does not end a statement', () => {
  test.each([
    ["select 'a;b', 'it''s;'"],
    [String.raw`select E'a\';b', e'\\'`],
    [String.raw`select 'a\'`],
    ['create table "a;b""c;" (x int)'],
    ['select $$a;b$$, $x$ $$ ; $y$ $x$'],
    ['select a /* ; /* ; */ ; */ from b'],
    ['select a -- ; \n from b'],
    ['create rule r as on insert to t do also (select 1; select 2)'],
    ['create function f() returns int begin atomic select 1; select case when true then 2 end; end'],
    ['CREATE OR REPLACE PROCEDURE public.p()\n LANGUAGE sql\nBEGIN ATOMIC\n INSERT INTO t VALUES (1);\nEND'],
    ["select type'a;b'"],
    ['select $1, a$b$ '.trimEnd()],
  ])('%s', (statement) => {
    expect(splitStatements(`${statement};`)).toEqual([statement]);
    expect(splitStatements(`-- before\n${statement} ;\n${statement}\n;;`)).toEqual([statement, statement]);
  });
});

test('begin and end outside of routines are words like any other', () => {
  expect(splitStatements('begin; select 1; end; create table begin (x int); select 2')).toEqual([
    'begin',
    'select 1',
    'end',
    'create table begin (x int)',
    'select 2',
  ]);
});

test('nothing, blanks and comments', () => {
  expect(splitStatements('')).toEqual([]);
  expect(splitStatements(' \n; -- a\n /* b */ ;')).toEqual([]);
});

test('what is not closed ends with the text', () => {
  expect(splitStatements("select 'a; b")).toEqual(["select 'a; b"]);
  expect(splitStatements('select 1; /* a; b')).toEqual(['select 1']);
});

test('long texts', () => {
  const body = `'${'x;'.repeat(2_000_000)}'`;
  expect(splitStatements(`select ${body}; select $$${body}$$`)).toEqual([`select ${body}`, `select $$${body}$$`]);
});

test('any text comes back, statement by statement', () => {
  const part = fc.constantFrom(
    "'",
    '"',
    '$$',
    '$a$',
    '(',
    ')',
    '/*',
    '*/',
    '--',
    '\n',
    ';',
    'begin',
    'end',
    'create',
    ' ',
  );
  fc.assert(
    fc.property(fc.array(part), (parts) => {
      const sql = parts.join('');
      let from = 0;
      for (const statement of splitStatements(sql)) {
        const at = sql.indexOf(statement, from);
        expect(at).toBeGreaterThanOrEqual(from);
        from = at + statement.length;
      }
    }),
  );
});
