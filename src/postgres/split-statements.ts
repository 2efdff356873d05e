/**
 * Splits SQL into statements as psql does: semicolons inside of quotes, comments, parentheses and bodies of the form
 * BEGIN ATOMIC … END do not end one. Relies on standard_conforming_strings.
 */

/** What a statement is made of, from a place where a token begins. Strings and comments that are long are found by hand. */
const TOKEN =
  /\s+|--[^\n]*|\/\*|"(?:[^"]|"")*"|[eE]?'|\$(?:[A-Za-z_\u0080-\uffff][A-Za-z0-9_\u0080-\uffff]*)?\$|[A-Za-z_\u0080-\uffff][A-Za-z0-9_$\u0080-\uffff]*|[\s\S]/y;

/** `CREATE [OR REPLACE] FUNCTION` or `PROCEDURE`: only there BEGIN opens a body. */
const MAKES_ROUTINE = /^create (or replace )?(function|procedure)$/;
const LEADING_WORDS = 4;

/** Without their semicolons, and without comments before and between them; empty ones are left out. */
export function splitStatements(sql: string): string[] {
  const statements: string[] = [];
  let state = fresh();
  for (let at = 0; at < sql.length;) {
    TOKEN.lastIndex = at;
    const token = TOKEN.exec(sql)![0];
    const end = endOf(sql, at, token);
    if (isBlank(token)) {
      at = end;
      continue;
    }
    if (token === ';' && state.parentheses <= 0 && state.bodies === 0) {
      if (state.start !== undefined) statements.push(sql.slice(state.start, at).trimEnd());
      state = fresh();
    } else {
      state.start ??= at;
      note(state, token);
    }
    at = end;
  }
  if (state.start !== undefined) statements.push(sql.slice(state.start).trimEnd());
  return statements;
}

interface Reading {
  start: number | undefined;
  parentheses: number;
  bodies: number;
  /** The first few, in lower case. */
  words: string[];
}

const fresh = (): Reading => ({ start: undefined, parentheses: 0, bodies: 0, words: [] });

const isBlank = (token: string): boolean => /^\s/.test(token) || token.startsWith('--') || token === '/*';

function note(state: Reading, token: string): void {
  if (token === '(') state.parentheses += 1;
  else if (token === ')') state.parentheses -= 1;
  if (!/^[A-Za-z_\u0080-\uffff]/.test(token)) return;
  const word = token.toLowerCase();
  if (state.words.length < LEADING_WORDS) state.words.push(word);
  if (state.parentheses !== 0 || !makesRoutine(state.words)) return;
  if (word === 'begin') state.bodies += 1;
  else if (word === 'case' && state.bodies > 0) state.bodies += 1;
  else if (word === 'end' && state.bodies > 0) state.bodies -= 1;
}

const makesRoutine = (words: string[]): boolean =>
  MAKES_ROUTINE.test(words.slice(0, 2).join(' ')) || MAKES_ROUTINE.test(words.join(' '));

/** Where the token that begins at `at` ends; what is never closed ends with the text. */
function endOf(sql: string, at: number, token: string): number {
  const from = at + token.length;
  if (token === '/*') return endOfComment(sql, from);
  if (token.endsWith("'")) return endOfString(sql, from, token.length === 2);
  if (token.length >= 2 && token.startsWith('$')) return after(sql, token, from);
  return from;
}

function after(sql: string, text: string, from: number): number {
  const found = sql.indexOf(text, from);
  return found === -1 ? sql.length : found + text.length;
}

function endOfString(sql: string, from: number, hasEscapes: boolean): number {
  const special = hasEscapes ? /['\\]/g : /'/g;
  special.lastIndex = from;
  for (let match = special.exec(sql); match; match = special.exec(sql)) {
    const skips = match[0] === '\\' || sql[match.index + 1] === "'";
    if (!skips) return match.index + 1;
    special.lastIndex = match.index + 2;
  }
  return sql.length;
}

function endOfComment(sql: string, from: number): number {
  const mark = /\/\*|\*\//g;
  mark.lastIndex = from;
  let depth = 1;
  for (let match = mark.exec(sql); match; match = mark.exec(sql)) {
    depth += match[0] === '/*' ? 1 : -1;
    if (depth === 0) return mark.lastIndex;
  }
  return sql.length;
}
