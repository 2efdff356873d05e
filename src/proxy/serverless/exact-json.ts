/**
 * Numbers of a JSON text as they were written: JSON.parse makes doubles of them, and Postgres has larger and finer ones.
 *
 * The text has been parsed before, so it is known to be JSON: nothing is checked here.
 */

/** JSON text that is to reach Postgres as it is: a number, or an object with whatever is in it. */
export class Verbatim {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

/** Whether a parsed value is, or has in it, what parsing may have changed. */
export function mayBeInexact(value: unknown): boolean {
  if (typeof value === 'number') return true;
  if (Array.isArray(value)) return value.some(mayBeInexact);
  return typeof value === 'object' && value !== null;
}

/** Values by name of the object that begins at `at`; of two of the same name the last one counts, as it does for JSON.parse. */
export function membersOf(json: string, at: number): Map<string, number> {
  const members = new Map<string, number>();
  for (let next = skipSpace(json, at + 1); json[next] !== '}';) {
    const nameEnd = skipString(json, next);
    const value = skipSpace(json, skipSpace(json, nameEnd) + 1);
    members.set(JSON.parse(json.slice(next, nameEnd)) as string, value);
    next = skipSeparator(json, skipValue(json, value));
  }
  return members;
}

/** Where the values of the array that begins at `at` begin. */
export function elementsOf(json: string, at: number): number[] {
  const elements: number[] = [];
  for (let next = skipSpace(json, at + 1); json[next] !== ']';) {
    elements.push(next);
    next = skipSeparator(json, skipValue(json, next));
  }
  return elements;
}

/** The value that begins at `at`, arrays as arrays, numbers and objects as Verbatim. */
export function exactValue(json: string, at: number): unknown {
  const first = json[at];
  if (first === '[') return elementsOf(json, at).map((element) => exactValue(json, element));
  const text = json.slice(at, skipValue(json, at));
  return first === '{' || first === '-' || isDigit(first) ? new Verbatim(text) : JSON.parse(text);
}

export function skipSpace(json: string, from: number): number {
  let at = from;
  while (json[at] === ' ' || json[at] === '\n' || json[at] === '\r' || json[at] === '\t') at += 1;
  return at;
}

function skipSeparator(json: string, from: number): number {
  const at = skipSpace(json, from);
  return json[at] === ',' ? skipSpace(json, at + 1) : at;
}

/** Behind its closing quote. */
function skipString(json: string, at: number): number {
  for (let from = at + 1; ;) {
    const quote = json.indexOf('"', from);
    let backslashes = 0;
    while (json[quote - 1 - backslashes] === '\\') backslashes += 1;
    from = quote + 1;
    if (backslashes % 2 === 0) return from;
  }
}

function skipValue(json: string, from: number): number {
  const first = json[from];
  if (first === '"') return skipString(json, from);
  if (first !== '{' && first !== '[') {
    let at = from;
    while (at < json.length && !/[\s,\]}]/.test(json[at]!)) at += 1;
    return at;
  }
  let depth = 0;
  for (let at = from; ;) {
    const character = json[at];
    if (character === '"') {
      at = skipString(json, at);
      continue;
    }
    if (character === '{' || character === '[') depth += 1;
    if (character === '}' || character === ']') depth -= 1;
    at += 1;
    if (depth === 0) return at;
  }
}

function isDigit(character: string | undefined): boolean {
  return character !== undefined && character >= '0' && character <= '9';
}
