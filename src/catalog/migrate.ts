/**
 * Brings the catalog's schema up to date: `migrations/NNNN_name.sql`, each in one transaction, in order, never back.
 *
 * `ballast.migrations` holds what has run with a checksum, so that an edited file or a catalog of a newer Ballast is an
 * error and not a surprise. An advisory lock lets several processes start at once. The files lie beside this one, in
 * src/ and (copied by the build) in dist/.
 */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { AppError } from '../lib/errors.ts';
import type { CatalogDatabase } from './database.ts';
import type { Queryable } from './types.ts';

export interface Migration {
  number: number;
  name: string;
  sql: string;
  checksum: string;
}

const DIRECTORY = fileURLToPath(new URL('./migrations/', import.meta.url));
const ADVISORY_LOCK = 5_216_003_117;
const OLDEST_SERVER = 140_000;

/** Returns the names of the migrations that ran now. */
export async function migrate(catalog: CatalogDatabase, migrations?: readonly Migration[]): Promise<string[]> {
  const wanted = migrations ?? (await readMigrations());
  await assertServer(catalog);
  await catalog.transaction(async (tx) => {
    await tx.query('select pg_advisory_xact_lock($1)', [ADVISORY_LOCK]);
    await tx.query('create schema if not exists ballast');
    await tx.query(
      `create table if not exists ballast.migrations (
         number integer primary key, name text not null, checksum text not null,
         applied_at timestamptz not null default now())`,
    );
  });
  const ran: string[] = [];
  for (const migration of wanted) {
    if (await catalog.transaction((tx) => apply(tx, migration))) ran.push(migration.name);
  }
  await assertNotNewer(catalog, wanted);
  return ran;
}

async function apply(tx: Queryable, migration: Migration): Promise<boolean> {
  await tx.query('select pg_advisory_xact_lock($1)', [ADVISORY_LOCK]);
  const [done] = await tx.query<{ checksum: string }>('select checksum from ballast.migrations where number = $1', [
    migration.number,
  ]);
  if (done && done.checksum !== migration.checksum) {
    throw new AppError(
      'internal',
      `catalog migration ${migration.name} was changed after it ran; a migration is never edited, add a new one`,
    );
  }
  if (done) return false;
  await tx.query(migration.sql);
  await tx.query('insert into ballast.migrations (number, name, checksum) values ($1, $2, $3)', [
    migration.number,
    migration.name,
    migration.checksum,
  ]);
  return true;
}

async function assertServer(catalog: CatalogDatabase): Promise<void> {
  const [row] = await catalog.query<{ number: string; readOnly: boolean }>(
    `select current_setting('server_version_num') as number, pg_is_in_recovery() as read_only`,
  );
  if (Number(row!.number) < OLDEST_SERVER) throw new AppError('invalid', 'the catalog needs PostgreSQL 14 or newer');
  if (row!.readOnly) throw new AppError('invalid', 'the catalog database is a read-only standby');
}

async function assertNotNewer(catalog: CatalogDatabase, known: readonly Migration[]): Promise<void> {
  const [row] = await catalog.query<{ newest: number }>('select max(number) as newest from ballast.migrations');
  const newest = known.at(-1)?.number ?? 0;
  if (row!.newest > newest) {
    throw new AppError(
      'invalid',
      `the catalog was made by a newer Ballast (schema ${row!.newest}, this one knows ${newest})`,
    );
  }
}

/** The migrations that ship with this Ballast, in order. */
export async function readMigrations(directory: string = DIRECTORY): Promise<Migration[]> {
  const files = (await readdir(directory)).filter((file) => /^\d{4}_[a-z0-9_]+\.sql$/.test(file)).sort();
  const migrations = await Promise.all(
    files.map(async (file) => {
      const sql = await readFile(path.join(directory, file), 'utf8');
      return {
        number: Number(file.slice(0, 4)),
        name: file.slice(0, -4),
        sql,
        checksum: createHash('sha256').update(sql).digest('hex'),
      };
    }),
  );
  migrations.forEach((migration, index) => {
    if (migration.number !== index + 1) throw new AppError('internal', `catalog migration ${index + 1} is missing`);
  });
  if (migrations.length === 0) throw new AppError('internal', 'this build has no catalog migrations');
  return migrations;
}
