/**
 * Reads write-ahead log: where records start and end, and when transactions committed.
 *
 * WAL is a run of fixed-size segments of 8 KiB pages. Each page starts with a header (40 bytes on a segment's first
 * page, 24 on the others) that names its own address; records follow back to back, 8-byte aligned, and continue over
 * page borders. A record carries its length, the start of the one before it and a CRC-32C, so the end of WAL is where
 * the next record is not believable: zeros, another page's address, another predecessor.
 *
 * LSNs are bigint outside. Inside a segment plain numbers do, which keeps a scan near the speed of memory.
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
  /** `limit`: the next record would end after it. `end`: no further believable record. */
  stopped: 'limit' | 'end';
}

export interface WalScanOptions {
  /** Start of a record, or of the segment from whose first whole record to scan. */
  fromLsn: bigint;
  /** Records that end after it do not count. Undefined: to the end of WAL. */
  limitLsn?: bigint;
  /** Also check each record's CRC: needed where nobody vouches for the tail (after a crash). */
  verify?: boolean;
}

export const segmentNumberOf = (lsn: bigint, segmentSizeBytes: number): number => Number(lsn / BigInt(segmentSizeBytes));

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

/** Scans forward. Throws only when the first segment is missing or the major is unknown. */
export async function scanWal(source: WalSource, options: WalScanOptions): Promise<WalScan> {
  const cursor = await openCursor(source, options.fromLsn);
  const limit = options.limitLsn === undefined ? Number.POSITIVE_INFINITY : Number(options.limitLsn);
  let end = cursor.address();
  let previous: bigint | undefined;
  let lastCommit: WalCommit | undefined;
  let records = 0;
  for (;;) {
    const record = await nextRecord(cursor, previous, options.verify === true);
    const stopped = record === undefined ? 'end' : record.end > limit ? 'limit' : undefined;
    if (record === undefined || stopped !== undefined) {
      return { endLsn: BigInt(end), lastCommit, records, stopped: stopped ?? 'end' };
    }
    records += 1;
    end = record.end;
    previous = record.startLsn;
    if (record.commitTime !== undefined) {
      lastCommit = { endLsn: BigInt(end), time: formatWalTime(record.commitTime) };
    }
  }
}

/** Where the scan stands: a segment in memory and an offset in it. */
interface Cursor {
  address(): number;
  segment: Buffer;
  offset: number;
  /** Makes sure that the offset is behind a valid page header, loading the next segment when needed. */
  enter(): Promise<boolean>;
  size: number;
}

async function openCursor(source: WalSource, fromLsn: bigint): Promise<Cursor> {
  const size = source.segmentSizeBytes;
  const magic = PAGE_MAGIC[source.major];
  if (magic === undefined) throw new Error(`no WAL of Postgres ${source.major} can be read`);
  let number = segmentNumberOf(fromLsn, size);
  const first = await source.readSegment(number);
  if (first === undefined) throw new Error(`WAL segment ${number} is missing`);
  const cursor: Cursor = {
    segment: first,
    offset: Number(fromLsn % BigInt(size)),
    size,
    address: () => number * size + cursor.offset,
    enter: async () => {
      if (cursor.offset >= size) {
        const next = await source.readSegment(number + 1);
        if (next === undefined || next.length !== size) return false;
        number += 1;
        cursor.segment = next;
        cursor.offset = 0;
      }
      if (cursor.offset % PAGE_BYTES !== 0) return true;
      if (!isPage(cursor.segment, cursor.offset, magic, cursor.address())) return false;
      cursor.offset += headerBytes(cursor.offset);
      return true;
    },
  };
  if (cursor.offset === 0) await skipContinuation(cursor, magic);
  return cursor;
}

const headerBytes = (offset: number) => (offset === 0 ? LONG_HEADER_BYTES : SHORT_HEADER_BYTES);

function isPage(segment: Buffer, offset: number, magic: number, address: number): boolean {
  if (offset + SHORT_HEADER_BYTES > segment.length) return false;
  return segment.readUInt16LE(offset) === magic && Number(segment.readBigUInt64LE(offset + 8)) === address;
}

/** A segment may open with the rest of a record of the one before (xlp_rem_len). */
async function skipContinuation(cursor: Cursor, magic: number): Promise<void> {
  if (!isPage(cursor.segment, 0, magic, cursor.address())) return;
  let left = cursor.segment.readUInt32LE(16);
  while (left > 0 && (await cursor.enter())) {
    const part = Math.min(left, PAGE_BYTES - (cursor.offset % PAGE_BYTES));
    cursor.offset += part;
    left -= part;
  }
  cursor.offset = align(cursor.offset);
}

const align = (offset: number) => Math.ceil(offset / 8) * 8;

interface WalRecord {
  startLsn: bigint;
  end: number;
  commitTime: bigint | undefined;
}

/** Undefined: what follows is not a whole record that continues the WAL. */
async function nextRecord(cursor: Cursor, previous: bigint | undefined, verify: boolean): Promise<WalRecord | undefined> {
  cursor.offset = align(cursor.offset);
  if (!(await cursor.enter())) return undefined;
  const startLsn = BigInt(cursor.address());
  const length = cursor.segment.readUInt32LE(cursor.offset);
  if (length < RECORD_HEADER_BYTES || length > RECORD_LIMIT_BYTES) return undefined;
  const record = await gather(cursor, length, verify);
  if (record === undefined || (previous !== undefined && record.readBigUInt64LE(8) !== previous)) return undefined;
  if (verify && !hasRightCrc(record)) return undefined;
  const info = record[16]!;
  const manager = record[17]!;
  if (manager === RM_XLOG && (info & 0xf0) === XLOG_SWITCH) cursor.offset = cursor.size;
  const commitTime = manager === RM_TRANSACTION ? commitTimeOf(record, info) : undefined;
  return { startLsn, end: align(cursor.address()), commitTime };
}

/** Enough of a record to know a commit by: header, block-less data headers, time. */
const KEPT_BYTES = 64;

/**
 * Moves behind the record and returns its bytes: all of them with `whole`, else at least the first KEPT_BYTES.
 * Undefined when it breaks off.
 */
async function gather(cursor: Cursor, length: number, whole: boolean): Promise<Buffer | undefined> {
  const room = PAGE_BYTES - (cursor.offset % PAGE_BYTES);
  if (length <= room) {
    const record = cursor.segment.subarray(cursor.offset, cursor.offset + length);
    cursor.offset += length;
    return record;
  }
  const kept: Buffer[] = [];
  let keptBytes = 0;
  for (let left = length; left > 0; ) {
    if (!(await cursor.enter())) return undefined;
    const part = Math.min(left, PAGE_BYTES - (cursor.offset % PAGE_BYTES));
    if (whole || keptBytes < KEPT_BYTES) {
      kept.push(cursor.segment.subarray(cursor.offset, cursor.offset + part));
      keptBytes += part;
    }
    cursor.offset += part;
    left -= part;
  }
  return Buffer.concat(kept);
}

function hasRightCrc(record: Buffer): boolean {
  const body = crc32c(record.subarray(RECORD_HEADER_BYTES));
  return crc32c(record.subarray(0, 20), body) === record.readUInt32LE(20);
}

/** Transaction records refer to no blocks; an origin or a top-level xid may stand before the data. */
function commitTimeOf(record: Buffer, info: number): bigint | undefined {
  const operation = info & XACT_OPERATION_MASK;
  if (operation !== XACT_COMMIT && operation !== XACT_COMMIT_PREPARED) return undefined;
  let offset = RECORD_HEADER_BYTES;
  for (;;) {
    const id = record[offset];
    if (id === 0xfd) offset += 3;
    else if (id === 0xfc) offset += 5;
    else if (id === 0xff) return record.readBigInt64LE(offset + 2);
    else if (id === 0xfe) return record.readBigInt64LE(offset + 5);
    else return undefined;
  }
}
