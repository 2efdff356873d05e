/**
 * Could this data directory hold a subscription? Answered from the files, without a running Postgres: the shared
 * catalog pg_subscription, found through global/pg_filenode.map, is an empty file as long as nobody ever made one.
 * Rows that are dead but not vacuumed count as "could": the first start then looks and finds nothing to drop.
 */
import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';

const PG_SUBSCRIPTION_OID = 6100;
const MAP_MAGIC = 0x592717;

export async function mayHaveSubscriptions(dataDirectory: string): Promise<boolean> {
  const globals = path.join(dataDirectory, 'global');
  const file = fileOf(await readFile(path.join(globals, 'pg_filenode.map')), PG_SUBSCRIPTION_OID);
  if (file === undefined) return true;
  const found = await stat(path.join(globals, String(file))).catch(() => undefined);
  return found === undefined || found.size > 0;
}

/** Layout: magic, count, then pairs of catalog oid and file number. */
export function fileOf(map: Buffer, catalogOid: number): number | undefined {
  if (map.length < 8 || map.readUInt32LE(0) !== MAP_MAGIC) return undefined;
  const count = map.readInt32LE(4);
  for (let index = 0; index < count && 16 + index * 8 <= map.length; index += 1) {
    if (map.readUInt32LE(8 + index * 8) === catalogOid) return map.readUInt32LE(12 + index * 8);
  }
  return undefined;
}
