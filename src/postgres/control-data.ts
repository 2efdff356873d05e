/**
 * global/pg_control: what a data directory says about itself, and a new system identifier for a cloned one.
 *
 * The file is one little-endian C structure, the same from 14 to 17; 18 adds one byte near its end. It closes with a
 * CRC-32C of everything before, which proves that the layout assumed here is the one that was read.
 */
import { open, readFile, readdir } from 'node:fs/promises';
import path from 'node:path';
import { crc32c } from '../lib/crc32c.ts';

export type ClusterState =
  | 'starting up'
  | 'shut down'
  | 'shut down in recovery'
  | 'shutting down'
  | 'in crash recovery'
  | 'in archive recovery'
  | 'in production';

export interface ControlData {
  systemIdentifier: bigint;
  controlVersion: number;
  catalogVersion: number;
  state: ClusterState;
  /** Where the latest checkpoint record starts. */
  checkpointLsn: bigint;
  /** Where replay after that checkpoint starts. */
  redoLsn: bigint;
  timelineId: number;
  walSegmentSizeBytes: number;
  checksums: boolean;
  /** What the server had when it wrote the file; whoever replays its WAL and answers queries must not have less. */
  sizes: ServerSizes;
}

export interface ServerSizes {
  maxConnections: number;
  maxWorkerProcesses: number;
  maxWalSenders: number;
  maxPreparedTransactions: number;
  maxLocksPerTransaction: number;
}

const STATES: readonly ClusterState[] = [
  'starting up',
  'shut down',
  'shut down in recovery',
  'shutting down',
  'in crash recovery',
  'in archive recovery',
  'in production',
];

const OFFSET = {
  systemIdentifier: 0,
  controlVersion: 8,
  catalogVersion: 12,
  state: 16,
  checkpoint: 32,
  redo: 40,
  timelineId: 48,
  maxConnections: 180,
  maxWorkerProcesses: 184,
  maxWalSenders: 188,
  maxPreparedTransactions: 192,
  maxLocksPerTransaction: 196,
  walSegmentSize: 228,
  checksumVersion: 252,
} as const;

/** Offset of the CRC by pg_control_version: 14 to 16, 17, 18. */
const CRC_OFFSET: Record<number, number> = { 1300: 288, 1700: 288, 1800: 292 };

/** First page of a segment: the long header's system identifier. */
const SEGMENT_SYSTEM_IDENTIFIER_OFFSET = 24;
const SEGMENT_NAME = /^[0-9A-F]{24}$/;

const controlFile = (dataDirectory: string) => path.join(dataDirectory, 'global', 'pg_control');

/** Throws when the file is not there, is of an unknown version or its checksum is wrong (a torn copy, too). */
export async function readControlData(dataDirectory: string): Promise<ControlData> {
  return parseControlData(await readFile(controlFile(dataDirectory)));
}

export function parseControlData(file: Buffer): ControlData {
  const controlVersion = file.length < 300 ? 0 : file.readUInt32LE(OFFSET.controlVersion);
  const crcOffset = CRC_OFFSET[controlVersion];
  if (crcOffset === undefined) throw new Error(`unknown pg_control version ${controlVersion}`);
  if (crc32c(file.subarray(0, crcOffset)) !== file.readUInt32LE(crcOffset)) {
    throw new Error('pg_control has a wrong checksum');
  }
  const state = STATES[file.readUInt32LE(OFFSET.state)];
  if (state === undefined) throw new Error('pg_control has an unknown state');
  return {
    systemIdentifier: file.readBigUInt64LE(OFFSET.systemIdentifier),
    controlVersion,
    catalogVersion: file.readUInt32LE(OFFSET.catalogVersion),
    state,
    checkpointLsn: file.readBigUInt64LE(OFFSET.checkpoint),
    redoLsn: file.readBigUInt64LE(OFFSET.redo),
    timelineId: file.readUInt32LE(OFFSET.timelineId),
    walSegmentSizeBytes: file.readUInt32LE(OFFSET.walSegmentSize),
    checksums: file.readUInt32LE(OFFSET.checksumVersion) > 0,
    sizes: {
      maxConnections: file.readInt32LE(OFFSET.maxConnections),
      maxWorkerProcesses: file.readInt32LE(OFFSET.maxWorkerProcesses),
      maxWalSenders: file.readInt32LE(OFFSET.maxWalSenders),
      maxPreparedTransactions: file.readInt32LE(OFFSET.maxPreparedTransactions),
      maxLocksPerTransaction: file.readInt32LE(OFFSET.maxLocksPerTransaction),
    },
  };
}

/** The same control file under another system identifier. */
export function withSystemIdentifier(file: Buffer, systemIdentifier: bigint): Buffer {
  const crcOffset = CRC_OFFSET[parseControlData(file).controlVersion]!;
  const restamped = Buffer.from(file);
  restamped.writeBigUInt64LE(systemIdentifier, OFFSET.systemIdentifier);
  restamped.writeUInt32LE(crc32c(restamped.subarray(0, crcOffset)), crcOffset);
  return restamped;
}

/**
 * Gives a data directory at rest another system identifier: in pg_control and in the first page of every WAL segment.
 * Returns the files it wrote, so that the caller can make them durable.
 */
export async function restampSystemIdentifier(dataDirectory: string, systemIdentifier: bigint): Promise<string[]> {
  const control = controlFile(dataDirectory);
  await overwrite(control, 0, withSystemIdentifier(await readFile(control), systemIdentifier));
  const walDirectory = path.join(dataDirectory, 'pg_wal');
  const segments = (await readdir(walDirectory)).filter((name) => SEGMENT_NAME.test(name));
  const stamp = Buffer.alloc(8);
  stamp.writeBigUInt64LE(systemIdentifier);
  const files = segments.map((name) => path.join(walDirectory, name));
  for (const file of files) await overwrite(file, SEGMENT_SYSTEM_IDENTIFIER_OFFSET, stamp);
  return [control, ...files];
}

async function overwrite(file: string, offset: number, bytes: Buffer): Promise<void> {
  const handle = await open(file, 'r+');
  try {
    await handle.write(bytes, 0, bytes.length, offset);
  } finally {
    await handle.close();
  }
}

/** Seconds since 1970 above 32 random bits: unique without coordination, and in time order like Postgres' own. */
export function newSystemIdentifier(nowMs: number, random32: number): bigint {
  return (BigInt(Math.floor(nowMs / 1000)) << 32n) | BigInt(random32 >>> 0);
}
