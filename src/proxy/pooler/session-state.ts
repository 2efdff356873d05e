/**
 * What a transaction may leave behind in its session, and how it is removed before another client gets the session.
 *
 * Noticed: command tags (SET, LISTEN, DECLARE CURSOR, DO, ...) and words in the text of statements (set_config,
 * advisory locks, temporary tables). False alarms cost one short query. What a function or trigger of the user's does
 * to its session without any such word cannot be seen from here, as with every pooler of transactions.
 */

/** Bits. */
export const EFFECT = {
  none: 0,
  /** Settings, role, cursors, locks, temporary tables, notifications. */
  session: 1,
  /** Statements made by SQL. */
  statements: 2,
} as const;

/** As one implicit transaction; the role comes first, because the rest must not depend on it. */
const RESET = [
  'SET SESSION AUTHORIZATION DEFAULT',
  'RESET ROLE',
  'RESET ALL',
  'CLOSE ALL',
  'UNLISTEN *',
  'SELECT pg_catalog.pg_advisory_unlock_all()',
  'DISCARD SEQUENCES',
  'DISCARD TEMP',
].join(';');

export function resetSql(effects: number): string {
  return (effects & EFFECT.statements) === 0 ? RESET : `${RESET};DEALLOCATE ALL`;
}

const WORDS =
  /set_config|advisory|\btemp\b|\btemporary\b|pg_temp|setseed|\bload\b|\blisten\b|\bcursor\b|dblink|\bdo\b|lo_open|lo_creat|nextval|setval/i;
/** Longer texts are not searched; they count as if something had been found. */
const MAX_SEARCHED_BYTES = 16 * 1024;

/** Of a statement's text, before it is run. */
export function effectsOfText(bytes: Buffer, from: number, to: number): number {
  if (to - from > MAX_SEARCHED_BYTES) return EFFECT.session;
  return WORDS.test(bytes.toString('latin1', from, to)) ? EFFECT.session : EFFECT.none;
}

/** The first three letters of the tags that nearly every answer ends with. */
const COMMON = new Set(
  ['SEL', 'INS', 'UPD', 'DEL', 'BEG', 'COM', 'ROL', 'COP', 'FET', 'MOV', 'MER', 'STA', 'SAV', 'REL'].map(code3),
);

function code3(text: string): number {
  return (text.charCodeAt(0) << 16) | (text.charCodeAt(1) << 8) | text.charCodeAt(2);
}

/** Whether the tag at `at` is one that leaves nothing behind and clears nothing. */
export function isCommonTag(bytes: Buffer, at: number): boolean {
  return COMMON.has((bytes[at]! << 16) | (bytes[at + 1]! << 8) | bytes[at + 2]!);
}

const BY_TAG: Readonly<Record<string, number>> = {
  SET: EFFECT.session,
  RESET: EFFECT.session,
  LISTEN: EFFECT.session,
  LOAD: EFFECT.session,
  DO: EFFECT.session,
  CALL: EFFECT.session,
  'DECLARE CURSOR': EFFECT.session,
  PREPARE: EFFECT.statements | EFFECT.session,
  DEALLOCATE: EFFECT.statements | EFFECT.session,
  // A role of the client's own may have settings of its own now; and other kinds of tables may be temporary.
  'DISCARD PLANS': EFFECT.none,
};

export interface TagFacts {
  effects: number;
  /** Every prepared statement of the session is gone. */
  forgetsStatements: boolean;
  changesRoles: boolean;
}

export function factsOfTag(tag: string): TagFacts {
  return {
    effects: Object.hasOwn(BY_TAG, tag) ? BY_TAG[tag]! : EFFECT.none,
    forgetsStatements: tag === 'DEALLOCATE ALL' || tag === 'DISCARD ALL',
    changesRoles: tag.endsWith(' ROLE'),
  };
}
