/** Replication connections: logical replication works with real subscribers, nothing physical gets through. */
import { execFile, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { plainMajors, startPlainPostgres } from '../../test/support/plain-postgres.ts';
import type { PlainPostgres } from '../../test/support/plain-postgres.ts';
import { startTestProxy } from '../../test/support/proxy.ts';
import type { TestProxy } from '../../test/support/proxy.ts';
import { waitFor } from '../../test/support/wait.ts';

const run = promisify(execFile);
const majors = plainMajors();
const tools = [18, 17, 16, 15, 14]
  .map((major) => `/usr/lib/postgresql/${major}/bin`)
  .find((bin) => existsSync(path.join(bin, 'pg_recvlogical')));
const until = (what: string, ask: () => Promise<boolean>) => waitFor(what, ask, { timeoutMs: 30_000, intervalMs: 50 });

const PHYSICAL = [
  'BASE_BACKUP',
  "BASE_BACKUP (LABEL 'x', WAL true)",
  "BASE_BACKUP LABEL 'x' FAST",
  'START_REPLICATION 0/0',
  'START_REPLICATION PHYSICAL 0/0',
  'START_REPLICATION SLOT s PHYSICAL 0/0 TIMELINE 1',
  'CREATE_REPLICATION_SLOT s PHYSICAL',
  'CREATE_REPLICATION_SLOT s LOGICAL "/tmp/library"',
  'TIMELINE_HISTORY 1',
  'UPLOAD_MANIFEST',
];
/** Whatever these hide, Postgres must read them as SQL, or not at all. */
const DISGUISED = [
  '/* sql */ BASE_BACKUP',
  '-- sql\nBASE_BACKUP',
  'SELECT 1; BASE_BACKUP',
  ';BASE_BACKUP',
  '"BASE_BACKUP"',
  '(BASE_BACKUP)',
  '\u00a0BASE_BACKUP',
  'SHOW wal_level; BASE_BACKUP',
  'BASE',
];

for (const major of majors) {
  describe(`Postgres ${major}`, () => {
    let postgres: PlainPostgres;
    let proxy: TestProxy;
    beforeAll(async () => {
      postgres = await startPlainPostgres(major);
      await postgres.query(`create role me login replication password 'right'`);
      await postgres.query('create database mine owner me');
      const rows = await postgres.query<{ rolpassword: string }>(
        `select rolpassword from pg_authid where rolname = 'me'`,
      );
      proxy = await startTestProxy({ wake: postgres.socketPath });
      proxy.verifiers.set('me', rows[0]!.rolpassword);
    });
    afterAll(async () => {
      await proxy?.close();
      await postgres?.stop();
    });

    const conninfo = () =>
      `host=ep-test.localhost hostaddr=127.0.0.1 port=${proxy.proxy.port} user=me password=right dbname=mine sslmode=require`;
    const walsender = async () => {
      const client = new pg.Client({
        host: '127.0.0.1',
        port: proxy.proxy.port,
        user: 'me',
        password: 'right',
        database: 'mine',
        ssl: false,
        options: 'endpoint=ep-test',
        replication: 'database',
      } as pg.ClientConfig);
      client.on('error', () => undefined);
      await client.connect();
      return client;
    };

    test('physical commands are refused and end the connection', async () => {
      for (const command of PHYSICAL) {
        const client = await walsender();
        await expect(client.query(command), command).rejects.toMatchObject({ code: '42501' });
        await expect(client.query('select 1')).rejects.toThrow();
      }
    });

    test('in disguise they are SQL to Postgres, and wrong SQL', async () => {
      for (const command of DISGUISED) {
        const client = await walsender();
        await expect(client.query(command), command).rejects.toMatchObject({ code: expect.stringMatching(/^42/) });
        await client.end();
      }
    });

    test('the extended protocol is refused by Postgres itself', async () => {
      const client = await walsender();
      await expect(client.query({ text: 'BASE_BACKUP', name: 'x' })).rejects.toMatchObject({ code: '08P01' });
      await client.end();
    });

    test('IDENTIFY_SYSTEM, SHOW, SQL and slots work', async () => {
      const client = await walsender();
      expect((await client.query('IDENTIFY_SYSTEM')).rows[0]).toMatchObject({ dbname: 'mine' });
      expect((await client.query('SHOW wal_level')).rows).toEqual([{ wal_level: 'logical' }]);
      expect((await client.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
      const slot = await client.query('CREATE_REPLICATION_SLOT a TEMPORARY LOGICAL pgoutput');
      expect(slot.rows[0]).toMatchObject({ slot_name: 'a', output_plugin: 'pgoutput' });
      await client.query('DROP_REPLICATION_SLOT a');
      await client.end();
    });

    test.skipIf(!tools)('pg_recvlogical follows changes, also of a busy table (needs the system tools)', async () => {
      await postgres.query('create table if not exists heard (i int); alter table heard owner to me', 'mine');
      const recvlogical = path.join(tools!, 'pg_recvlogical');
      const base = ['-d', conninfo(), '-S', 'listener'];
      await run(recvlogical, [...base, '--create-slot', '-P', 'test_decoding']);
      const child = spawn(recvlogical, [...base, '--start', '-f', '-', '--no-loop']);
      let output = '';
      child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
      await postgres.query('insert into heard select generate_series(1, 20000)', 'mine');
      await until('all changes', async () => output.includes('i[integer]:20000'));
      child.kill('SIGINT');
      await new Promise((resolve) => child.once('close', resolve));
      await run(recvlogical, [...base, '--drop-slot']);
      expect(output.match(/INSERT/g)).toHaveLength(20_000);
    });

    test.skipIf(!tools)('pg_basebackup and pg_receivewal get nothing (needs the system tools)', async () => {
      const directory = await mkdtemp(path.join(os.tmpdir(), 'ballast-backup-'));
      for (const tool of ['pg_basebackup', 'pg_receivewal']) {
        const attempt = run(path.join(tools!, tool), [
          '-d',
          conninfo().replace(/ dbname=\S+/, ''),
          '-D',
          directory,
          '--no-password',
          ...(tool === 'pg_receivewal' ? ['--no-loop'] : []),
        ]);
        await expect(attempt, tool).rejects.toThrow('physical replication is not available');
      }
      expect(await readdir(directory)).toEqual([]);
      await rm(directory, { recursive: true });
    });

    test('a subscription of another Postgres copies and follows', async () => {
      const subscriber = await startPlainPostgres(majors.at(-1)!);
      try {
        await postgres.query('create table shared (i int primary key, t text); alter table shared owner to me', 'mine');
        await postgres.query(`insert into shared select i, 'copied' from generate_series(1, 1000) i`, 'mine');
        await postgres.query('create publication news for table shared', 'mine');
        await subscriber.query('create table shared (i int primary key, t text)');
        await subscriber.query(`create subscription reader connection '${conninfo()}' publication news`);
        const count = async () =>
          (await subscriber.query<{ n: number }>('select count(*)::int as n from shared'))[0]!.n;
        await until('the copy', async () => (await count()) === 1000);
        await postgres.query(`insert into shared values (1001, 'followed ö'); delete from shared where i = 1`, 'mine');
        await until('the changes', async () => {
          const rows = await subscriber.query(`select 1 from shared where i = 1001 and t = 'followed ö'`);
          return rows.length === 1 && (await count()) === 1000;
        });
        await subscriber.query('drop subscription reader');
        expect(await postgres.query('select 1 from pg_replication_slots')).toEqual([]);
      } finally {
        await subscriber.stop();
      }
    });
  });
}
