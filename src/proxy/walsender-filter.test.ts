/** What passes on a replication connection and what does not. That Postgres agrees is in proxy-replication.pg.test.ts. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { message } from '../postgres/wire/messages.ts';
import { checkReplicationQuery, createWalsenderFilter, replicationMode } from './walsender-filter.ts';

describe('startup', () => {
  test.each([
    [undefined, 'none'],
    ['database', 'logical'],
    ['false', 'none'],
    ['f', 'none'],
    ['No', 'none'],
    ['of', 'none'],
    ['0', 'none'],
  ])('replication=%s is %s', (value, mode) => {
    expect(replicationMode(value)).toBe(mode);
  });

  test.each(['true', 'TRUE', 't', 'tru', 'yes', 'y', 'on', '1'])('replication=%s is refused as physical', (value) => {
    expect(() => replicationMode(value)).toThrow('physical replication');
  });

  test.each(['Database', 'o', '2', '', 'maybe', ' true'])('replication=%j is refused as nonsense', (value) => {
    expect(() => replicationMode(value)).toThrow('invalid value for parameter "replication"');
  });
});

const ALLOWED = [
  'IDENTIFY_SYSTEM',
  'identify_system;',
  ' \t\nIDENTIFY_SYSTEM ; ',
  'SHOW wal_segment_size',
  'CREATE_REPLICATION_SLOT sub LOGICAL pgoutput',
  'CREATE_REPLICATION_SLOT "sub" LOGICAL pgoutput (SNAPSHOT \'nothing\')',
  'CREATE_REPLICATION_SLOT "sub" LOGICAL pgoutput(FAILOVER, SNAPSHOT \'use\')',
  'CREATE_REPLICATION_SLOT "sub" TEMPORARY LOGICAL "test_decoding" NOEXPORT_SNAPSHOT TWO_PHASE',
  'create_replication_slot s logical WAL2JSON',
  'READ_REPLICATION_SLOT sub',
  'ALTER_REPLICATION_SLOT "sub" ( FAILOVER true )',
  'DROP_REPLICATION_SLOT "sub" WAIT',
  'DROP_REPLICATION_SLOT sub',
  'START_REPLICATION SLOT "sub" LOGICAL 0/16B3748 (proto_version \'4\', publication_names \'"a""b;"\')',
  'START_REPLICATION SLOT sub LOGICAL 0/0',
  'BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ',
  'COPY public.t TO STDOUT',
  "SELECT 'BASE_BACKUP'",
  '-- BASE_BACKUP\nselect 1',
  '',
];

const REFUSED = [
  'BASE_BACKUP',
  'base_backup',
  "\n\tBASE_BACKUP ( LABEL 'x' )",
  'BASE_BACKUP;',
  'START_REPLICATION 0/0',
  'START_REPLICATION PHYSICAL 0/0',
  'START_REPLICATION SLOT s PHYSICAL 0/0 TIMELINE 1',
  'START_REPLICATION SLOT s 0/0',
  'START_REPLICATION SLOT s LOGICAL_X 0/0',
  'START_REPLICATION SLOT "s" PHYSICAL "x" LOGICAL 0/0',
  'START_REPLICATION SLOT LOGICAL 0/0',
  'CREATE_REPLICATION_SLOT s PHYSICAL',
  'CREATE_REPLICATION_SLOT s PHYSICAL RESERVE_WAL',
  'CREATE_REPLICATION_SLOT s LOGICAL "/tmp/evil"',
  'CREATE_REPLICATION_SLOT s LOGICAL "$libdir/../evil"',
  'CREATE_REPLICATION_SLOT s LOGICAL evil',
  'CREATE_REPLICATION_SLOT s LOGICAL pgoutput_evil',
  'CREATE_REPLICATION_SLOT s LOGICAL "pgoutput""/x"',
  'CREATE_REPLICATION_SLOT "s LOGICAL pgoutput" LOGICAL evil',
  'CREATE_REPLICATION_SLOT s LOGICAL pgoutput; BASE_BACKUP',
  'CREATE_REPLICATION_SLOT s /* LOGICAL pgoutput */ LOGICAL evil',
  'IDENTIFY_SYSTEM; BASE_BACKUP',
  'IDENTIFY_SYSTEM BASE_BACKUP',
  'TIMELINE_HISTORY 2',
  'UPLOAD_MANIFEST',
  'SOMETHING_NEW',
  'READ_REPLICATION_SLOT s; BASE_BACKUP',
  'ALTER_REPLICATION_SLOT s (FAILOVER true); BASE_BACKUP',
];

describe('commands', () => {
  test.each(ALLOWED)('%j passes', (text) => {
    expect(checkReplicationQuery(text)).toBeUndefined();
  });

  test.each(REFUSED)('%j is refused', (text) => {
    expect(checkReplicationQuery(text)?.code).toBe('42501');
  });

  test('nothing that begins with a physical command passes, whatever stands around it', () => {
    const space = fc.string({ unit: fc.constantFrom(' ', '\t', '\n', '\r', '\f', '\v') });
    const physical = fc.constantFrom(
      'BASE_BACKUP',
      'UPLOAD_MANIFEST',
      'TIMELINE_HISTORY',
      'START_REPLICATION PHYSICAL',
    );
    const mixedCase = physical.chain((text) =>
      fc
        .array(fc.boolean(), { minLength: text.length, maxLength: text.length })
        .map((upper) => [...text].map((letter, i) => (upper[i] ? letter : letter.toLowerCase())).join('')),
    );
    const rest = fc.string().map((text) => (/^[A-Za-z0-9_$\u0080-\uffff]/.test(text) ? ` ${text}` : text));
    fc.assert(
      fc.property(space, mixedCase, rest, (before, text, after) => {
        expect(checkReplicationQuery(before + text + after)).toBeDefined();
      }),
    );
  });
});

describe('the stream', () => {
  const query = (text: string) => message(0x51, Buffer.from(`${text}\0`));

  test('passes unchanged, byte by byte too', () => {
    const stream = Buffer.concat([query('IDENTIFY_SYSTEM'), message(0x64, Buffer.alloc(5_000, 1)), query('select 1')]);
    const filter = createWalsenderFilter(10_000);
    const passed = [...stream].flatMap((_byte, i) => filter.push(stream.subarray(i, i + 1)));
    expect(Buffer.concat(passed)).toEqual(stream);
  });

  test('ends at a refused command, and nothing of it has passed', () => {
    const filter = createWalsenderFilter(10_000);
    const text = query('BASE_BACKUP');
    expect(filter.push(text.subarray(0, -1))).toEqual([]);
    expect(() => filter.push(text.subarray(-1))).toThrow('replication command BASE_BACKUP is not allowed');
  });

  test('refuses bytes behind the end of a query text, and a query that is too long', () => {
    const hidden = message(0x51, Buffer.from('select 1\0BASE_BACKUP\0'));
    expect(() => createWalsenderFilter(10_000).push(hidden)).toThrow('invalid query message');
    expect(() => createWalsenderFilter(100).push(query('x'.repeat(200)))).toThrow('too long');
  });
});
