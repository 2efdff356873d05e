/**
 * The reader against WAL that a small writer makes: records across pages and segments, switches, torn ends.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { crc32c } from '../lib/crc32c.ts';
import { formatWalTime, isSegment, scanWal, segmentName, segmentNumberOf } from './wal.ts';
import type { WalSource } from './wal.ts';

const SEGMENT = 64 * 1024;
const PAGE = 8192;
const MAGIC_17 = 0xd116;

/** Lays records out as Postgres does; `segments` grows as needed. */
class Writer {
  readonly segments = new Map<number, Buffer>();
  position: number;
  #previous = 0;

  constructor(firstSegment: number) {
    this.position = firstSegment * SEGMENT;
  }

  #page(left: number): void {
    const number = Math.floor(this.position / SEGMENT);
    if (this.position % SEGMENT === 0 && !this.segments.has(number)) this.segments.set(number, Buffer.alloc(SEGMENT));
    if (this.position % PAGE !== 0) return;
    const segment = this.segments.get(number)!;
    const offset = this.position % SEGMENT;
    segment.writeUInt16LE(MAGIC_17, offset);
    segment.writeBigUInt64LE(BigInt(this.position), offset + 8);
    segment.writeUInt32LE(left, offset + 16);
    if (offset === 0) segment.writeUInt32LE(SEGMENT, 32);
    this.position += offset === 0 ? 40 : 24;
  }

  /** Returns where it starts and ends. */
  record(body: Buffer, options: { manager?: number; info?: number } = {}): { start: bigint; end: bigint } {
    this.position = Math.ceil(this.position / 8) * 8;
    this.#page(0);
    const start = this.position;
    const bytes = Buffer.concat([Buffer.alloc(24), body]);
    bytes.writeUInt32LE(bytes.length, 0);
    bytes.writeBigUInt64LE(BigInt(this.#previous), 8);
    bytes[16] = options.info ?? 0;
    bytes[17] = options.manager ?? 10;
    bytes.writeUInt32LE(crc32c(bytes.subarray(0, 20), crc32c(bytes.subarray(24))), 20);
    for (let written = 0; written < bytes.length;) {
      this.#page(bytes.length - written);
      const part = Math.min(bytes.length - written, PAGE - (this.position % PAGE));
      bytes.copy(
        this.segments.get(Math.floor(this.position / SEGMENT))!,
        this.position % SEGMENT,
        written,
        written + part,
      );
      this.position += part;
      written += part;
    }
    this.#previous = start;
    return { start: BigInt(start), end: BigInt(Math.ceil(this.position / 8) * 8) };
  }

  commit(sincePostgresEpochUs: bigint): { start: bigint; end: bigint } {
    const body = Buffer.alloc(10);
    body[0] = 0xff;
    body[1] = 8;
    body.writeBigInt64LE(sincePostgresEpochUs, 2);
    return this.record(body, { manager: 1 });
  }

  switch(): void {
    this.record(Buffer.alloc(0), { manager: 0, info: 0x40 });
    this.position = (Math.floor(this.position / SEGMENT) + 1) * SEGMENT;
  }

  source(): WalSource {
    return { major: 17, segmentSizeBytes: SEGMENT, readSegment: async (number) => this.segments.get(number) };
  }
}

const from = (segment: number) => BigInt(segment * SEGMENT);

describe('scanWal', () => {
  test('finds the end behind records of any length, across pages and segments', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 0, max: 3 * SEGMENT }), { minLength: 1, maxLength: 30 }),
        async (lengths) => {
          const writer = new Writer(3);
          const ends = lengths.map((length) => writer.record(Buffer.alloc(length, 7)).end);
          for (const verify of [false, true]) {
            const scan = await scanWal(writer.source(), { fromLsn: from(3), verify });
            expect(scan).toMatchObject({ endLsn: ends.at(-1), records: lengths.length, stopped: 'end' });
          }
          const middle = ends[Math.floor(ends.length / 2)]!;
          const limited = await scanWal(writer.source(), { fromLsn: from(3), limitLsn: middle });
          expect(limited.endLsn).toBe(middle);
        },
      ),
      { numRuns: 60 },
    );
  });

  test('a limit within a record leaves that record out', async () => {
    const writer = new Writer(1);
    const first = writer.record(Buffer.alloc(100));
    const second = writer.record(Buffer.alloc(20_000));
    const scan = await scanWal(writer.source(), { fromLsn: from(1), limitLsn: second.end - 1n });
    expect(scan).toMatchObject({ endLsn: first.end, records: 1, stopped: 'limit' });
  });

  test('starts in a segment that opens with the rest of a record', async () => {
    const writer = new Writer(1);
    writer.record(Buffer.alloc(SEGMENT + 500));
    const next = writer.record(Buffer.alloc(10));
    const scan = await scanWal(writer.source(), { fromLsn: from(2) });
    expect(scan).toMatchObject({ endLsn: next.end, records: 1 });
  });

  test('reports the last commit, with its time', async () => {
    const writer = new Writer(1);
    writer.commit(1n);
    const last = writer.commit(837_896_524_214_837n);
    writer.record(Buffer.alloc(5));
    const { lastCommit } = await scanWal(writer.source(), { fromLsn: from(1) });
    expect(lastCommit).toEqual({ endLsn: last.end, time: '2026-07-20T21:02:04.214837Z' });
  });

  test('goes on behind a switch', async () => {
    const writer = new Writer(1);
    writer.record(Buffer.alloc(5));
    writer.switch();
    const last = writer.record(Buffer.alloc(5));
    expect(last.start).toBe(from(2) + 40n);
    expect(await scanWal(writer.source(), { fromLsn: from(1) })).toMatchObject({ endLsn: last.end, records: 3 });
  });

  test('ends where the predecessor is another one: what a recycled file holds', async () => {
    const writer = new Writer(1);
    const first = writer.record(Buffer.alloc(5));
    const second = writer.record(Buffer.alloc(5));
    writer.segments.get(1)!.writeBigUInt64LE(7n, Number(second.start % BigInt(SEGMENT)) + 8);
    expect(await scanWal(writer.source(), { fromLsn: from(1) })).toMatchObject({ endLsn: first.end, stopped: 'end' });
  });

  test('verify ends before a record with a wrong checksum', async () => {
    const writer = new Writer(1);
    const first = writer.record(Buffer.alloc(5));
    const second = writer.record(Buffer.alloc(50));
    const at = Number(second.start % BigInt(SEGMENT)) + 40;
    writer.segments.get(1)![at] = 0x55;
    expect(await scanWal(writer.source(), { fromLsn: from(1), verify: true })).toMatchObject({ endLsn: first.end });
    expect(await scanWal(writer.source(), { fromLsn: from(1) })).toMatchObject({ endLsn: second.end });
  });

  test('refuses a start that is not there and a major that is unknown', async () => {
    const writer = new Writer(1);
    await expect(scanWal(writer.source(), { fromLsn: from(9) })).rejects.toThrow('missing');
    await expect(scanWal({ ...writer.source(), major: 13 }, { fromLsn: from(1) })).rejects.toThrow('13');
  });
});

test('segment names and numbers', () => {
  expect(segmentName(2, 1, 16 * 1024 * 1024)).toBe('000000020000000000000001');
  expect(segmentName(1, segmentNumberOf(0x1_0040_0000n, 4 * 1024 * 1024), 4 * 1024 * 1024)).toBe(
    '000000010000000100000001',
  );
});

test('a first page is believed only for its own segment and major', () => {
  const writer = new Writer(5);
  writer.record(Buffer.alloc(1));
  const page = writer.segments.get(5)!.subarray(0, 64);
  expect(isSegment(page, 17, 5, SEGMENT)).toBe(true);
  expect(isSegment(page, 17, 6, SEGMENT)).toBe(false);
  expect(isSegment(page, 16, 5, SEGMENT)).toBe(false);
  expect(isSegment(Buffer.alloc(10), 17, 5, SEGMENT)).toBe(false);
});

test('times keep their microseconds, before 2000 as well', () => {
  expect(formatWalTime(0n)).toBe('2000-01-01T00:00:00.000000Z');
  expect(formatWalTime(-1n)).toBe('1999-12-31T23:59:59.999999Z');
  expect(formatWalTime(1n)).toBe('2000-01-01T00:00:00.000001Z');
});
