/**
 * What may be told of a statement: the words that it begins with, which say what it does. Literals, quoted names and
 * comments can hold anything, so they are never told.
 */
const MAX_WORDS = 3;
const COMMENTS = /^(?:\s+|--[^\n]*(?:\n|$)|\/\*(?:[^*]|\*(?!\/))*\*\/)+/;
/** A bare word that nothing makes part of a literal. */
const WORD = /^([A-Za-z_][A-Za-z0-9_.]{0,62})(?=[\s(;,]|$)\s*/;

/** Empty when there is no such word. */
export function firstWords(sql: string): string {
  const words: string[] = [];
  let rest = sql.replace(COMMENTS, '');
  while (words.length < MAX_WORDS) {
    const match = WORD.exec(rest);
    if (!match) break;
    words.push(match[1]!);
    rest = rest.slice(match[0].length);
  }
  return words.join(' ');
}
