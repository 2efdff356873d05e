/**
 * Reads write-ahead log: where records start and end, and when transactions committed.
 *
 * WAL is a run of fixed-size segments of 8 KiB pages. Each page starts with a header (40 bytes on a segment's first
 * page, 24 on the others) that names its own address; records follow back to back, 8-byte aligned, and continue over
 * page borders. A record carries its length, the start of the one before it and a CRC-32C, so the end of WAL is where
 * the next record is not believable: zeros, another page's address, another predecessor.
 *
 * LSNs are bigint outside. Inside, plain numbers (exact up to 2^53) keep a scan near the speed of memory.
 */
import { crc32c } from '../lib/crc32c.ts';

const PAGE_BYTES = 8192;
const LONG_HEADER_BYTES = 40;
const SHORT_HEADER_BYTES = 24;
const RECORD_HEADER_BYTES = 24;
/** No record is longer than this in any major; more means that it is not a record. */
const RECORD_LIMIT_BYTES = 1020 * 1024 * 1024;

/** xlp_magic of each major. */
const PAGE_MAGIC: Record<number, number> = { 14: 0xd10d, 15: 0xd110, 16: 0xd113, 17: 0xd116, 18: 0xd118 };

const RM_XLOG = 0;
const RM_TRANSACTION = 1;
const XLOG_SWITCH = 0x40;
const XACT_COMMIT = 0x00;
const XACT_COMMIT_PREPARED = 0x30;
const XACT_OPERATION_MASK = 0x70;

/** Microseconds from 1970-01-01 to 2000-01-01, Postgres' epoch. */
const POSTGRES_EPOCH_US = 946_684_800_000_000n;

export interface WalSource {
  major: number;
  segmentSizeBytes: number;
  /** The whole segment, or undefined when there is none. */
  readSegment(segmentNumber: number): Promise<Buffer | undefined>;
}

export interface WalCommit {
  endLsn: bigint;
  /** ISO 8601, UTC, microseconds. */
  time: string;
}

export interface WalScan {
  /** End of the last whole record (aligned, as Postgres counts); the start of the scan when there was none. */
  endLsn: bigint;
  /** The last commit seen. */
  lastCommit: WalCommit | undefined;
  /** How many whole records. */
  records: number;
  /** `limit`: the next record would end after it. `end`: no further believable record. `commit`: see untilAfter. */
  stopped: 'limit' | 'end' | 'commit';
  /** The commit that ended the scan; it is not part of what was scanned. */
  nextCommit: WalCommit | undefined;
}

export interface WalScanOptions {
  /** Start of a record, or of the segment from whose first whole record to scan. */
  fromLsn: bigint;
  /** Records that end after it do not count. Undefined: to the end of WAL. */
  limitLsn?: bigint;
  /** Ends before the first commit with a later time than this (as formatWalTime writes it); '' is before every time. */
  untilAfter?: string;
  /** Also check each record's CRC: needed where nobody vouches for the tail (after a crash). */
  verify?: boolean;
}

export const segmentNumberOf = (lsn: bigint, segmentSizeBytes: number): number =>
  Number(lsn / BigInt(segmentSizeBytes));

/** `TTTTTTTTHHHHHHHHSSSSSSSS` */
export function segmentName(timelineId: number, segmentNumber: number, segmentSizeBytes: number): string {
  const perHigh = 2 ** 32 / segmentSizeBytes;
  return [timelineId, Math.floor(segmentNumber / perHigh), segmentNumber % perHigh]
    .map((part) => part.toString(16).toUpperCase().padStart(8, '0'))
    .join('');
}

/** True when the file's first page says that it is this segment; recycled files say otherwise. */
export function isSegment(firstPage: Buffer, major: number, segmentNumber: number, segmentSizeBytes: number): boolean {
  if (firstPage.length < LONG_HEADER_BYTES) return false;
  return (
    firstPage.readUInt16LE(0) === PAGE_MAGIC[major] &&
    Number(firstPage.readBigUInt64LE(8)) === segmentNumber * segmentSizeBytes &&
    firstPage.readUInt32LE(32) === segmentSizeBytes
  );
}

/** Microseconds since 2000-01-01 as `2026-01-16T21:02:04.214837Z`. */
export function formatWalTime(sinceEpochUs: bigint): string {
  const unixUs = sinceEpochUs + POSTGRES_EPOCH_US;
  const us = ((unixUs % 1_000_000n) + 1_000_000n) % 1_000_000n;
  const seconds = new Date(Number((unixUs - us) / 1000n)).toISOString().slice(0, 19);
  return `${seconds}.${us.toString().padStart(6, '0')}Z`;
}

/** The reverse of formatWalTime; '' is before every time. */
function parseWalTime(time: string): bigint {
  if (time === '') return -(2n ** 63n);
  const unixUs = BigInt(Date.parse(`${time.slice(0, 19)}Z`)) * 1000n + BigInt(time.slice(20, 26));
  return unixUs - POSTGRES_EPOCH_US;
}

/** Scans forward. Throws only when the first segment is missing or the major is unknown. */
export async function scanWal(source: WalSource, options: WalScanOptions): Promise<WalScan> {
  const cursor = await openCursor(source, options.fromLsn);
  const limit = options.limitLsn === undefined ? Number.POSITIVE_INFINITY : Number(options.limitLsn);
  let end = cursor.position;
  let previous: number | undefined;
  let lastCommit: { end: number; time: bigint } | undefined;
  let nextCommit: { end: number; time: bigint } | undefined;
  const latest = options.untilAfter === undefined ? undefined : parseWalTime(options.untilAfter);
  let records = 0;
  let stopped: WalScan['stopped'] | undefined;
  while (stopped === undefined) {
    const from = cursor.position;
    const record = nextRecord(cursor, previous, options.verify === true);
    if (record === undefined && cursor.wanted !== undefined) {
      // It goes on in a segment that is not in memory: fetch that, and read the record again from its start.
      await load(cursor, source, cursor.wanted);
      cursor.position = from;
    } else if (record === undefined || record.end > limit) {
      stopped = record === undefined ? 'end' : 'limit';
    } else if (latest !== undefined && record.commitTime !== undefined && record.commitTime > latest) {
      nextCommit = { end: record.end, time: record.commitTime };
      stopped = 'commit';
    } else {
      records += 1;
      end = record.end;
      previous = record.start;
      if (record.commitTime !== undefined) lastCommit = { end, time: record.commitTime };
    }
  }
  return {
    endLsn: BigInt(end),
    lastCommit: lastCommit && commitOf(lastCommit),
    records,
    stopped,
    nextCommit: nextCommit && commitOf(nextCommit),
  };
}

const commitOf = ({ end, time }: { end: number; time: bigint }): WalCommit => ({
  endLsn: BigInt(end),
  time: formatWalTime(time),
});

/** Where the scan stands. Everything but `load` is synchronous: a segment holds tens of thousands of records. */
interface Cursor {
  size: number;
  magic: number;
  /** The LSN; exact as a number below 2^53. */
  position: number;
  number: number;
  segment: Buffer;
  /** The ones in memory; undefined: looked for and not there. */
  segments: Map<number, Buffer | undefined>;
  /** Set when the scan cannot go on without this segment. */
  wanted: number | undefined;
}

async function openCursor(source: WalSource, fromLsn: bigint): Promise<Cursor> {
  const size = source.segmentSizeBytes;
  const magic = PAGE_MAGIC[source.major];
  if (magic === undefined) throw new Error(`no WAL of Postgres ${source.major} can be read`);
  const number = segmentNumberOf(fromLsn, size);
  const segment = await source.readSegment(number);
  if (segment === undefined || segment.length !== size) throw new Error(`WAL segment ${number} is missing`);
  const segments = new Map([[number, segment as Buffer | undefined]]);
  const cursor: Cursor = { size, magic, position: Number(fromLsn), number, segment, segments, wanted: undefined };
  if (cursor.position % size !== 0) return cursor;
  while (!skipContinuation(cursor) && cursor.wanted !== undefined) {
    await load(cursor, source, cursor.wanted);
    cursor.position = Number(fromLsn);
  }
  return cursor;
}

async function load(cursor: Cursor, source: WalSource, number: number): Promise<void> {
  const segment = await source.readSegment(number);
  cursor.segments.set(number, segment?.length === cursor.size ? segment : undefined);
  cursor.wanted = undefined;
}

/** Puts the position behind the header of a page that starts there. False: WAL ends here, or a segment is `wanted`. */
function enter(cursor: Cursor): boolean {
  const number = Math.floor(cursor.position / cursor.size);
  if (number !== cursor.number) {
    if (!cursor.segments.has(number)) cursor.wanted = number;
    const segment = cursor.segments.get(number);
    if (segment === undefined) return false;
    cursor.number = number;
    cursor.segment = segment;
  }
  const offset = cursor.position - number * cursor.size;
  if (offset % PAGE_BYTES !== 0) return true;
  const { segment } = cursor;
  if (segment.readUInt16LE(offset) !== cursor.magic || addressAt(segment, offset + 8) !== cursor.position) return false;
  cursor.position += offset === 0 ? LONG_HEADER_BYTES : SHORT_HEADER_BYTES;
  return true;
}

const addressAt = (bytes: Buffer, offset: number) =>
  bytes.readUInt32LE(offset) + bytes.readUInt32LE(offset + 4) * 2 ** 32;

/** A segment may open with the rest of a record of the one before (xlp_rem_len). False as in `enter`. */
function skipContinuation(cursor: Cursor): boolean {
  const start = cursor.position;
  if (!enter(cursor)) {
    cursor.position = start;
    return false;
  }
  let left = cursor.segment.readUInt32LE(16);
  while (left > 0) {
    if (!enter(cursor)) return false;
    const part = Math.min(left, PAGE_BYTES - (cursor.position % PAGE_BYTES));
    cursor.position += part;
    left -= part;
  }
  cursor.position = align(cursor.position);
  return true;
}

const align = (position: number) => Math.ceil(position / 8) * 8;

interface WalRecord {
  start: number;
  end: number;
  /** Microseconds since 2000-01-01. */
  commitTime: bigint | undefined;
}

/** Undefined: what follows is not a whole record that continues the WAL, or a segment is `wanted` to tell. */
function nextRecord(cursor: Cursor, previous: number | undefined, verify: boolean): WalRecord | undefined {
  cursor.position = align(cursor.position);
  if (!enter(cursor)) return undefined;
  const start = cursor.position;
  const at = start % cursor.size;
  const length = cursor.segment.readUInt32LE(at);
  if (length < RECORD_HEADER_BYTES || length > RECORD_LIMIT_BYTES) return undefined;
  // Most records lie within a page and are no commits: those are read where they are.
  const inPlace = !verify && length <= PAGE_BYTES - (at % PAGE_BYTES);
  const bytes = inPlace ? cursor.segment : gather(cursor, length, verify);
  if (bytes === undefined) return undefined;
  const offset = inPlace ? at : 0;
  if (inPlace) cursor.position += length;
  if (previous !== undefined && addressAt(bytes, offset + 8) !== previous) return undefined;
  if (verify && !hasRightCrc(bytes)) return undefined;
  const info = bytes[offset + 16]!;
  const manager = bytes[offset + 17]!;
  if (manager === RM_XLOG && (info & 0xf0) === XLOG_SWITCH) {
    cursor.position = (Math.floor(start / cursor.size) + 1) * cursor.size;
  }
  const commitTime = manager === RM_TRANSACTION ? commitTimeOf(bytes, offset, info) : undefined;
  if (cursor.segments.size > 1) forgetSegmentsBefore(cursor);
  return { start, end: align(cursor.position), commitTime };
}

function forgetSegmentsBefore(cursor: Cursor): void {
  for (const number of cursor.segments.keys()) {
    if (number < cursor.number) cursor.segments.delete(number);
  }
}

/** Enough of a record to know a commit by: header, block-less data headers, time. */
const KEPT_BYTES = 64;

/**
 * Moves behind the record and returns its bytes: all of them with `whole`, else at least the first KEPT_BYTES.
 * Undefined when it breaks off.
 */
function gather(cursor: Cursor, length: number, whole: boolean): Buffer | undefined {
  const kept: Buffer[] = [];
  let keptBytes = 0;
  for (let left = length; left > 0;) {
    if (!enter(cursor)) return undefined;
    const at = cursor.position % cursor.size;
    const part = Math.min(left, PAGE_BYTES - (at % PAGE_BYTES));
    if (whole || keptBytes < KEPT_BYTES) {
      kept.push(cursor.segment.subarray(at, at + part));
      keptBytes += part;
    }
    cursor.position += part;
    left -= part;
  }
  return kept.length === 1 ? kept[0] : Buffer.concat(kept);
}

function hasRightCrc(record: Buffer): boolean {
  const body = crc32c(record.subarray(RECORD_HEADER_BYTES));
  return crc32c(record.subarray(0, 20), body) === record.readUInt32LE(20);
}

/** Transaction records refer to no blocks; an origin or a top-level xid may stand before the data. */
function commitTimeOf(bytes: Buffer, start: number, info: number): bigint | undefined {
  const operation = info & XACT_OPERATION_MASK;
  if (operation !== XACT_COMMIT && operation !== XACT_COMMIT_PREPARED) return undefined;
  let offset = start + RECORD_HEADER_BYTES;
  for (;;) {
    const id = bytes[offset];
    if (id === 0xfd) offset += 3;
    else if (id === 0xfc) offset += 5;
    else if (id === 0xff) return bytes.readBigInt64LE(offset + 2);
    else if (id === 0xfe) return bytes.readBigInt64LE(offset + 5);
    else return undefined;
  }
}
