import { expect, test } from 'vitest';
import { crc32c } from '../lib/crc32c.ts';
import { newSystemIdentifier, parseControlData, withSystemIdentifier } from './control-data.ts';

function controlFile(version: number): Buffer {
  const file = Buffer.alloc(8192);
  file.writeBigUInt64LE(7_300_000_000_000_000_001n, 0);
  file.writeUInt32LE(version, 8);
  file.writeUInt32LE(202406281, 12);
  file.writeUInt32LE(1, 16);
  file.writeBigUInt64LE(0x2000028n, 32);
  file.writeBigUInt64LE(0x2000010n, 40);
  file.writeUInt32LE(3, 48);
  for (const [index, value] of [104, 8, 40, 0, 64].entries()) file.writeInt32LE(value, 180 + 4 * index);
  file.writeUInt32LE(4 * 1024 * 1024, 228);
  file.writeUInt32LE(1, 252);
  const end = version === 1800 ? 292 : 288;
  file.writeUInt32LE(crc32c(file.subarray(0, end)), end);
  return file;
}

test('CRC-32C has its published check value and continues', () => {
  expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283);
  expect(crc32c(Buffer.from('6789'), crc32c(Buffer.from('12345')))).toBe(0xe3069283);
});

test.each([1300, 1700, 1800])('reads version %i', (version) => {
  expect(parseControlData(controlFile(version))).toEqual({
    systemIdentifier: 7_300_000_000_000_000_001n,
    controlVersion: version,
    catalogVersion: 202406281,
    state: 'shut down',
    checkpointLsn: 0x2000028n,
    redoLsn: 0x2000010n,
    timelineId: 3,
    walSegmentSizeBytes: 4 * 1024 * 1024,
    checksums: true,
    sizes: {
      maxConnections: 104,
      maxWorkerProcesses: 8,
      maxWalSenders: 40,
      maxPreparedTransactions: 0,
      maxLocksPerTransaction: 64,
    },
  });
});

test.each([1300, 1700, 1800])('a new system identifier keeps the rest and the checksum of version %i', (version) => {
  const before = parseControlData(controlFile(version));
  expect(parseControlData(withSystemIdentifier(controlFile(version), 42n))).toEqual({
    ...before,
    systemIdentifier: 42n,
  });
});

test('refuses torn, unknown and short files', () => {
  const torn = controlFile(1700);
  torn[100] = 1;
  expect(() => parseControlData(torn)).toThrow('checksum');
  expect(() => parseControlData(controlFile(1200))).toThrow('1200');
  expect(() => parseControlData(Buffer.alloc(20))).toThrow('unknown');
});

test('system identifiers are positive, ordered by time, and differ within a second', () => {
  const nowMs = Date.UTC(2026, 0, 1);
  expect(newSystemIdentifier(nowMs, 1)).not.toBe(newSystemIdentifier(nowMs, 2));
  expect(newSystemIdentifier(nowMs + 1000, 0)).toBeGreaterThan(newSystemIdentifier(nowMs, 0xffffffff));
  expect(newSystemIdentifier(Date.UTC(2037, 0, 1), 0xffffffff)).toBeLessThan(2n ** 63n);
});
