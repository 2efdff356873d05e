/**
 * What a client may say on a replication connection: logical replication and plain SQL, nothing physical.
 *
 * Postgres lets every role with REPLICATION take a physical copy of the whole cluster, also with
 * `replication=database`, and pg_hba.conf cannot tell the two apart. So commands are checked here. A command is told
 * from SQL by its first word, as Postgres does: each has an underscore in it (SHOW aside), and no SQL statement begins
 * with such a word, so that commands of later versions are refused until they are listed.
 *
 * Only simple-query messages matter: Postgres refuses the extended protocol on replication connections by itself.
 */
import { FRONTEND, HEADER_BYTES, MessageFramer } from '../postgres/wire/messages.ts';
import { ProtocolError } from '../postgres/wire/startup.ts';
import { refusals } from './refusal.ts';
import type { Refusal } from './refusal.ts';

export type ReplicationMode = 'none' | 'logical';

/** Reads the startup parameter as Postgres does. Throws Refusal for physical replication and for nonsense. */
export function replicationMode(value: string | undefined): ReplicationMode {
  if (value === undefined) return 'none';
  if (value === 'database') return 'logical';
  const word = value.toLowerCase();
  // Postgres takes every unambiguous beginning of a boolean's name.
  const begins = (name: string, atLeast: number) => word.length >= atLeast && name.startsWith(word);
  if (begins('false', 1) || begins('no', 1) || begins('off', 2) || word === '0') return 'none';
  if (begins('true', 1) || begins('yes', 1) || begins('on', 2) || word === '1') throw refusals.physicalReplication();
  throw refusals.invalidReplication(value);
}

// Exactly what the server's lexer takes for white space.
const SPACE = '[\\x20\\t\\n\\r\\f\\v]';
// Neither quotes that could hide something nor a second command.
const SLOT_OPTIONS = "[A-Z0-9_\\x20\\t\\n\\r\\f\\v(),']*";
const SLOT = '(?:[A-Za-z0-9_]{1,64}|"[a-z0-9_]{1,64}")';
// Any other library would be loaded from wherever its name says.
const PLUGIN = ['pgoutput', 'test_decoding', 'wal2json', 'decoderbufs'].map((name) => `${name}|"${name}"`).join('|');

/** A blank in the pattern is white space, a tilde is white space that may be missing. */
const command = (pattern: string) =>
  new RegExp(`^${pattern.replaceAll(' ', `${SPACE}+`).replaceAll('~', `${SPACE}*`)}$`, 'i');

const ALLOWED: Record<string, RegExp> = {
  IDENTIFY_SYSTEM: command(`IDENTIFY_SYSTEM`),
  CREATE_REPLICATION_SLOT: command(
    `CREATE_REPLICATION_SLOT ${SLOT}(?: TEMPORARY)? LOGICAL (?:${PLUGIN})(?: ${SLOT_OPTIONS}|~\\(${SLOT_OPTIONS})?`,
  ),
  READ_REPLICATION_SLOT: command(`READ_REPLICATION_SLOT ${SLOT}`),
  ALTER_REPLICATION_SLOT: command(`ALTER_REPLICATION_SLOT ${SLOT}~\\([^;]*\\)`),
  DROP_REPLICATION_SLOT: command(`DROP_REPLICATION_SLOT ${SLOT}(?: WAIT)?`),
  // What follows LOGICAL are options of the plugin, whose values are free text.
  START_REPLICATION: command(`START_REPLICATION SLOT ${SLOT} LOGICAL [0-9A-F]{1,8}/[0-9A-F]{1,8}(?:~\\([^]*\\))?`),
};

/** Undefined when Postgres may see it. `text` is what a simple query holds. */
export function checkReplicationQuery(text: string): Refusal | undefined {
  const trimmed = text.replace(/^[ \t\n\r\f\v]+/, '').replace(/[ \t\n\r\f\v;]+$/, '');
  const word = /^[A-Za-z0-9_$\u0080-\uffff]*/.exec(trimmed)![0].toUpperCase();
  if (!word.includes('_')) return undefined;
  const allowed = Object.hasOwn(ALLOWED, word) ? ALLOWED[word] : undefined;
  return allowed?.test(trimmed) ? undefined : refusals.replicationCommand(word.slice(0, 63));
}

export interface WalsenderFilter {
  /** The bytes to pass on. Throws Refusal or ProtocolError: then the connection has to end. */
  push(chunk: Buffer): Buffer[];
}

export function createWalsenderFilter(maxCommandBytes: number): WalsenderFilter {
  const framer = new MessageFramer((type) => type === FRONTEND.query, maxCommandBytes);
  return {
    push(chunk) {
      return framer.push(chunk).map((frame) => {
        if (frame.kind === 'bytes') return frame.bytes;
        const body = frame.raw.subarray(HEADER_BYTES);
        // Postgres reads up to the first NUL; whatever comes behind it was never checked.
        if (body.indexOf(0) !== body.length - 1 || body.length === 0) throw new ProtocolError('invalid query message');
        const refusal = checkReplicationQuery(body.toString('latin1', 0, body.length - 1));
        if (refusal) throw refusal;
        return frame.raw;
      });
    },
  };
}
