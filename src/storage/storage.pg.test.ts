/**
 * Timelines on every kind of pool at hand: created, branched at rest and under writes, to any depth, deleted.
 */
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { MAJOR, PROJECT, makeEngine, ref } from '../../test/support/engine.ts';
import type { Engine } from '../../test/support/engine.ts';
import { makePool, missingFor } from '../../test/support/pool.ts';
import type { PoolKind, TestPool } from '../../test/support/pool.ts';
import { parseLsn } from '../lib/lsn.ts';

const KINDS: readonly PoolKind[] = ['plain', 'xfs', 'btrfs'];
const MODE = { plain: undefined, xfs: 'reflink', btrfs: 'snapshot' } as const;

describe.each(KINDS.map((kind) => ({ kind, missing: missingFor(kind) })))(
  'on $kind ($missing)',
  ({ kind, missing }) => {
    let pool: TestPool;
    let engine: Engine;

    beforeAll(async () => {
      if (missing !== '') return;
      pool = await makePool(kind);
      engine = await makeEngine({ pool: pool.directory });
      await engine.root('main');
    });
    afterAll(async () => {
      await engine?.close();
      await pool?.remove();
    });
    const testHere = test.skipIf(missing !== '');

    testHere('knows what the pool can do', async () => {
      const status = await engine.storage.poolStatus();
      if (MODE[kind]) expect(status).toMatchObject({ cloneMode: MODE[kind], watermark: 'ok' });
      else expect(['copy', 'reflink', 'snapshot']).toContain(status.cloneMode);
    });

    testHere('a root has a system identifier of its own and starts', async () => {
      const main = await engine.root('main');
      expect(main).toMatchObject({ recovery: 'none', parentTimelineId: null, pgVersion: MAJOR });
      await engine.start('main');
      expect(await engine.sql('main', 'select system_identifier from pg_control_system()')).toEqual([
        [main.systemIdentifier],
      ]);
      await engine.sql(
        'main',
        'create table public.notes (id int primary key, at timestamptz default clock_timestamp())',
      );
      await engine.sql('main', 'insert into public.notes select generate_series(1, 1000)');
      await engine.stop('main');
    });

    testHere('a child of a suspended parent has its rows, another timeline id, and goes its own way', async () => {
      const child = await engine.child('rest', 'main');
      expect(child).toMatchObject({ recovery: 'promote', parentTimelineId: 'main', suspectSubscriptions: false });
      expect(child.branchTimestamp).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
      await Promise.all([engine.start('rest'), engine.start('main')]);
      expect(await engine.storage.readTimeline(ref('rest'))).toMatchObject({ recovery: 'none' });
      expect(await engine.sql('rest', 'select count(*), max(id) from public.notes')).toEqual([['1000', '1000']]);
      expect(await engine.sql('rest', 'select timeline_id from pg_control_checkpoint()')).toEqual([['2']]);
      await engine.sql('rest', 'insert into public.notes values (5001)');
      await engine.sql('main', 'insert into public.notes values (1001)');
      expect(await engine.sql('rest', 'select max(id) from public.notes')).toEqual([['5001']]);
      expect(await engine.sql('main', 'select max(id) from public.notes')).toEqual([['1001']]);
      await engine.stop('rest');
    });

    testHere('a child of a running parent holds what committed without waiting for the disk', async () => {
      const writer = await engine.client('main');
      await writer.query('create table public.soon (n int)');
      await writer.query('set synchronous_commit = off');
      await writer.query('insert into public.soon values (1)');
      await engine.child('soon', 'main');
      await writer.end();
      await engine.start('soon');
      expect(await engine.sql('soon', 'select n from public.soon')).toEqual([['1']]);
      await engine.stop('soon');
    });

    testHere('children of a parent under writes hold exactly what was committed before their point', async () => {
      const writer = await engine.client('main');
      await writer.query('create table if not exists public.ledger (n bigint, lsn pg_lsn)');
      let stop = false;
      let last = 0;
      const writing = (async () => {
        while (!stop) {
          await writer.query('insert into public.ledger values ($1, pg_current_wal_insert_lsn())', [last + 1]);
          last += 1;
        }
      })();
      const seen: { timelineId: string; atLeast: number; lsn: string }[] = [];
      for (const timelineId of ['hot-1', 'hot-2', 'hot-3']) {
        const atLeast = last;
        const record = await engine.child(timelineId, 'main');
        expect(record.recovery).toBe('replay');
        seen.push({ timelineId, atLeast, lsn: record.branchLsn! });
      }
      stop = true;
      await writing;
      await writer.end();
      for (const { timelineId, atLeast, lsn } of seen) {
        await engine.start(timelineId);
        const [[count, max, beyond]] = (await engine.sql(
          timelineId,
          `select count(*), max(n), count(*) filter (where lsn > '${lsn}') from public.ledger`,
        )) as [[string, string, string]];
        expect(Number(max)).toBe(Number(count));
        expect(Number(max)).toBeGreaterThanOrEqual(atLeast);
        expect(beyond).toBe('0');
        const parentHas = await engine.sql('main', `select count(*) from public.ledger where lsn < '${lsn}'`);
        // The row whose insert began before the point may have committed after it.
        expect(Number(parentHas[0]![0]) - Number(count)).toBeLessThanOrEqual(1);
        await engine.stop(timelineId);
      }
      expect(parseLsn(seen[0]!.lsn)).toBeLessThan(parseLsn(seen[2]!.lsn));
    });

    testHere('a child of a child that has never been started', async () => {
      await engine.child('unstarted', 'main');
      const grandchild = await engine.child('grandchild', 'unstarted');
      expect(grandchild.recovery).toBe('replay');
      await engine.start('grandchild');
      expect(await engine.sql('grandchild', 'select count(*) from public.notes')).toEqual([['1001']]);
      await engine.stop('grandchild');
    });

    testHere('a child of a parent that was killed', async () => {
      await engine.child('victim', 'main');
      await engine.start('victim');
      await engine.sql('victim', 'insert into public.notes select generate_series(20001, 20500)');
      await engine.stop('victim', 'kill');
      const record = await engine.child('heir', 'victim');
      expect(record.recovery).toBe('replay');
      await engine.start('heir');
      expect(await engine.sql('heir', 'select count(*) from public.notes where id > 20000')).toEqual([['500']]);
      await engine.stop('heir');
    });

    testHere('slots stay with the parent, subscriptions are announced', async () => {
      await engine.stop('main');
      await engine.start('main', { wal_level: 'logical' });
      await engine.sql('main', `select pg_create_logical_replication_slot('cdc', 'pgoutput')`);
      await engine.sql(
        'main',
        `create subscription follow connection 'host=/nowhere' publication p with (connect = false)`,
      );
      expect(await engine.child('live-heir', 'main')).toMatchObject({ recovery: 'replay', suspectSubscriptions: true });
      await engine.start('live-heir', { max_logical_replication_workers: '0' });
      expect(await engine.sql('live-heir', 'select count(*) from pg_replication_slots')).toEqual([['0']]);
      await engine.stop('live-heir');
      await engine.stop('main');
      expect(await engine.child('rest-heir', 'main')).toMatchObject({
        recovery: 'promote',
        suspectSubscriptions: true,
      });
      await engine.start('rest-heir', { max_logical_replication_workers: '0' });
      expect(await engine.sql('rest-heir', 'select count(*) from pg_replication_slots')).toEqual([['0']]);
      await engine.stop('rest-heir');
    });

    testHere('ten deep, each level with its own row', async () => {
      let parent = 'main';
      for (let depth = 1; depth <= 10; depth += 1) {
        const timelineId = `deep-${depth}`;
        await engine.child(timelineId, parent);
        await engine.start(timelineId, { max_logical_replication_workers: '0' });
        await engine.sql(timelineId, `insert into public.notes values (${90_000 + depth})`);
        await engine.stop(timelineId);
        parent = timelineId;
      }
      await engine.start('deep-10', { max_logical_replication_workers: '0' });
      expect(await engine.sql('deep-10', 'select count(*) from public.notes where id > 90000')).toEqual([['10']]);
      await engine.stop('deep-10');
      expect(await readdir(path.join(engine.storage.dataDirectory(ref('deep-10')), 'pg_wal'))).toHaveProperty('length');
    });

    testHere('deletion is complete, may be repeated, and leaves children alone', async () => {
      await engine.storage.deleteTimeline(ref('deep-1'));
      await engine.storage.deleteTimeline(ref('deep-1'));
      expect(await engine.storage.readTimeline(ref('deep-1'))).toBeUndefined();
      expect(await readdir(path.join(pool.directory, PROJECT))).not.toContain('deep-1');
      expect(await readdir(path.join(pool.directory, 'trash'))).toEqual([]);
      await engine.start('deep-2', { max_logical_replication_workers: '0' });
      await engine.stop('deep-2');
      await expect(engine.child('late', 'deep-1')).rejects.toMatchObject({ kind: 'not_found' });
    });
  },
);
