/**
 * SASLprep (RFC 4013) as Postgres applies it to passwords, on the server and in libpq.
 *
 * Two choices of Postgres matter: what may not be prepared (prohibited or unassigned code points, broken bidirectional
 * text, nothing left) is used as it is, and the checks look at the text after mapping but before normalization.
 * A verifier only fits when both sides make the same choices.
 */
import {
  LEFT_TO_RIGHT,
  MAPPED_TO_NOTHING,
  NON_ASCII_SPACES,
  PROHIBITED,
  RIGHT_TO_LEFT,
  UNASSIGNED,
} from './saslprep-tables.ts';

type Table = readonly (readonly [first: number, last: number])[];

const spaces = decodeTable(NON_ASCII_SPACES);
const nothing = decodeTable(MAPPED_TO_NOTHING);
const prohibited = decodeTable(PROHIBITED);
const unassigned = decodeTable(UNASSIGNED);
const rightToLeft = decodeTable(RIGHT_TO_LEFT);
const leftToRight = decodeTable(LEFT_TO_RIGHT);

/** The text whose UTF-8 bytes go into PBKDF2. Never throws. */
export function saslprep(password: string): string {
  // oxlint-disable-next-line no-control-regex -- all of ASCII is meant
  if (/^[\x00-\x7f]*$/.test(password)) return password;
  const mapped: number[] = [];
  for (const character of password) {
    const code = character.codePointAt(0)!;
    if (contains(spaces, code)) mapped.push(0x20);
    else if (!contains(nothing, code)) mapped.push(code);
  }
  if (!allowed(mapped)) return password;
  return String.fromCodePoint(...mapped).normalize('NFKC');
}

function allowed(codes: readonly number[]): boolean {
  if (codes.length === 0) return false;
  if (codes.some((code) => contains(prohibited, code) || contains(unassigned, code))) return false;
  if (!codes.some((code) => contains(rightToLeft, code))) return true;
  return (
    !codes.some((code) => contains(leftToRight, code)) &&
    contains(rightToLeft, codes[0]!) &&
    contains(rightToLeft, codes.at(-1)!)
  );
}

function contains(table: Table, code: number): boolean {
  let low = 0;
  let high = table.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    const [first, last] = table[middle]!;
    if (code < first) high = middle - 1;
    else if (code > last) low = middle + 1;
    else return true;
  }
  return false;
}

function decodeTable(text: string): Table {
  let end = 0;
  return text.split(' ').map((range) => {
    const [distance, more = '0'] = range.split('+');
    const first = end + parseInt(distance!, 36);
    end = first + parseInt(more, 36);
    return [first, end] as const;
  });
}
