/**
 * The past of timelines: every point of their history can be branched from, exactly; what is too old goes.
 */
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeEngine, ref } from '../../test/support/engine.ts';
import type { Engine } from '../../test/support/engine.ts';
import { makePool, missingFor } from '../../test/support/pool.ts';
import type { PoolKind, TestPool } from '../../test/support/pool.ts';
import type { HistoryWindow } from '../lib/point.ts';

const KINDS: readonly PoolKind[] = ['plain', 'xfs', 'btrfs'];
const MIB = 1024 * 1024;

/** A commit of the ledger: its number, where its record ends, and when it was acknowledged. */
interface Entry {
  number: number;
  lsn: string;
  time: string;
}

describe.each(KINDS.map((kind) => ({ kind, missing: missingFor(kind) })))(
  'on $kind ($missing)',
  ({ kind, missing }) => {
    let pool: TestPool;
    let engine: Engine;
    let nowMs = Date.now();
    let children = 0;
    /** What was written to which timeline, in order; a child begins with what its parent had. */
    const ledgers = new Map<string, Entry[]>();

    beforeAll(async () => {
      if (missing !== '') return;
      pool = await makePool(kind);
      engine = await makeEngine({ pool: pool.directory, storage: { now: () => new Date(nowMs) } });
      await engine.root('main');
      await engine.start('main');
      await engine.sql('main', 'create table public.ledger (number int primary key, filler text)');
      ledgers.set('main', []);
    });
    afterAll(async () => {
      await engine?.close();
      await pool?.remove();
    });
    const testHere = test.skipIf(missing !== '');

    const window = (): HistoryWindow => ({ startMs: 0, nowMs: Date.now() + 1 });

    async function write(timelineId: string, count: number, fillerBytes = 10): Promise<void> {
      const ledger = ledgers.get(timelineId)!;
      const client = await engine.client(timelineId);
      for (let n = 0; n < count; n += 1) {
        const number = (ledger.at(-1)?.number ?? 0) + 1;
        await client.query(
          `insert into public.ledger select $1, string_agg(md5(random()::text), '')
          from generate_series(1, $2)`,
          [number, Math.ceil(fillerBytes / 32)],
        );
        const { rows } = await client.query<{ lsn: string; time: string }>(
          `select pg_current_wal_flush_lsn()::text as lsn,
             to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as time`,
        );
        ledger.push({ number, ...rows[0]! });
        await client.query('select pg_sleep(0.002)');
      }
      await client.end();
    }

    /** The numbers that a child of the timeline at that point has, and the child, which is gone afterwards. */
    async function numbersAt(timelineId: string, lsn: string): Promise<number[]> {
      const id = `probe-${(children += 1)}`;
      await engine.child(id, timelineId, lsn);
      await engine.start(id);
      const rows = await engine.sql(id, 'select number from public.ledger order by number');
      await engine.stop(id);
      await engine.storage.deleteTimeline(ref(id));
      return rows.map(([number]) => Number(number));
    }
    const upTo = (entry: Entry, timelineId: string) =>
      ledgers
        .get(timelineId)!
        .filter(({ number }) => number <= entry.number)
        .map(({ number }) => number);
    const at = (timelineId: string, time: string) =>
      engine.storage.resolvePoint(ref(timelineId), { kind: 'time', time }, window());

    /** Postgres' clock cannot be moved on as storage's is: from then on only LSNs say when. */
    async function expectExactByLsn(timelineId: string, entry: Entry): Promise<void> {
      expect(await numbersAt(timelineId, entry.lsn)).toEqual(upTo(entry, timelineId));
    }

    async function expectExact(timelineId: string, entry: Entry): Promise<void> {
      const byTime = await at(timelineId, entry.time);
      expect(byTime.time! <= entry.time).toBe(true);
      const byLsn = await engine.storage.resolvePoint(ref(timelineId), { kind: 'lsn', lsn: entry.lsn }, window());
      expect(byLsn.time).toBe(byTime.time);
      for (const { lsn } of [byTime, byLsn]) {
        expect(await numbersAt(timelineId, lsn)).toEqual(upTo(entry, timelineId));
      }
    }

    testHere('a running root, at times and LSNs', async () => {
      await write('main', 20);
      const ledger = ledgers.get('main')!;
      for (const index of [0, 9, 19]) await expectExact('main', ledger[index]!);
      await write('main', 3, 5 * MIB);
      await expectExact('main', ledger[20]!);
      await expectExact('main', ledger[5]!);
    });

    testHere('a child, from its branch point on, and its own children; asleep, awake and after a crash', async () => {
      await engine.stop('main');
      await engine.child('rest', 'main');
      ledgers.set('rest', [...ledgers.get('main')!]);
      await engine.start('main');
      await engine.child('live', 'main');
      ledgers.set('live', [...ledgers.get('main')!]);
      await write('main', 2);
      for (const id of ['rest', 'live']) {
        await engine.start(id);
        await write(id, 5);
        const ledger = ledgers.get(id)!;
        await expectExact(id, ledger.at(-3)!);
        await engine.stop(id);
        await expectExact(id, ledger.at(-4)!);
        await engine.start(id);
        await write(id, 2);
        await engine.stop(id, 'kill');
        await expectExact(id, ledger.at(-1)!);
        await engine.start(id);
      }
      const parents = ledgers.get('live')!;
      await engine.child('grandchild', 'live', parents.at(-5)!.lsn);
      ledgers.set('grandchild', parents.slice(0, -4));
      await engine.start('grandchild');
      await write('grandchild', 4);
      await expectExact('grandchild', ledgers.get('grandchild')!.at(-2)!);
      await expectExact('grandchild', ledgers.get('grandchild')!.at(-4)!);
    });

    testHere(
      'its first state is the branch point; before that is another branch, later than now is nowhere',
      async () => {
        const { branchLsn } = (await engine.storage.readTimeline(ref('live')))!;
        expect(await numbersAt('live', branchLsn!)).toEqual(
          ledgers
            .get('main')!
            .slice(0, -2)
            .map(({ number }) => number),
        );
        const early = ledgers.get('main')![0]!;
        const refused = (query: Parameters<Engine['storage']['resolvePoint']>[1], history = window()) =>
          engine.storage.resolvePoint(ref('live'), query, history).then(
            () => 'resolved',
            (error: Error) => error.message,
          );
        expect(await refused({ kind: 'lsn', lsn: early.lsn })).toContain('before the history of the branch');
        expect(await refused({ kind: 'lsn', lsn: 'F/0' })).toContain('in the future');
        expect(await refused({ kind: 'time', time: '2020-01-01T00:00:00.000000Z' })).toContain(
          'before the branch was created',
        );
        expect(await refused({ kind: 'time', time: '2999-01-01T00:00:00.000000Z' })).toContain('in the future');
        const narrow = { startMs: Date.now(), nowMs: Date.now() };
        const last = ledgers.get('live')!.at(-3)!;
        expect(await refused({ kind: 'time', time: last.time }, narrow)).toContain('before the history window');
        expect(await refused({ kind: 'lsn', lsn: last.lsn }, narrow)).toContain('before the history window');
      },
    );

    testHere('a standby stands at its point and refuses writes', async () => {
      const entry = ledgers.get('live')!.at(-4)!;
      const { lsn } = await at('live', entry.time);
      const spec = { ...ref('standby'), parentTimelineId: 'live', owner: engine.owner };
      for (const point of [{ kind: 'lsn', lsn } as const, { kind: 'head' } as const]) {
        const record = await engine.storage.createStandbyTimeline({ ...spec, point });
        await engine.start('standby', {
          hot_standby: 'on',
          archive_mode: 'off',
          recovery_target_timeline: String(record.recoveryTimelineId ?? 'current'),
        });
        const replayed = `select pg_last_wal_replay_lsn() >= '${record.branchLsn}'`;
        while ((await engine.sql('standby', replayed))[0]![0] !== 't');
        const rows = await engine.sql('standby', 'select number from public.ledger order by number');
        const expected = point.kind === 'lsn' ? upTo(entry, 'live') : ledgers.get('live')!.map(({ number }) => number);
        expect(rows.map(([number]) => Number(number))).toEqual(expected);
        await expect(engine.sql('standby', 'insert into public.ledger values (0)')).rejects.toThrow('read-only');
        await engine.stop('standby');
      }
      await engine.storage.deleteTimeline(ref('standby'));
    });

    testHere('what is older than the window goes, what is younger stays, children keep their beginnings', async () => {
      const walOf = async (id: string) =>
        (await readdir(engine.storage.walDirectory(ref(id)))).filter((n) => n.length === 24).toSorted();
      const basesOf = async (id: string) =>
        readdir(path.join(path.dirname(engine.storage.walDirectory(ref(id))), 'bases'));
      await engine.child('kept', 'main');
      ledgers.set('kept', [...ledgers.get('main')!]);
      await engine.start('kept');
      await write('kept', 2);
      const [keptEntry] = ledgers.get('kept')!.slice(-2);
      const old = ledgers.get('main')!.at(-1)!;
      await write('main', 2, 12 * MIB);
      nowMs += 10 * 24 * 3_600_000;
      // On pools that copy, a base is worth it once in a window.
      await engine.storage.keepHistory(ref('main'), { windowMs: 24 * 3_600_000 });
      const boundary = nowMs + 1;
      expect(await basesOf('main')).not.toEqual([]);
      await write('main', 2, 12 * MIB);
      const before = await walOf('main');
      nowMs += 2 * 24 * 3_600_000;
      await engine.storage.trimHistory(ref('main'), { startMs: boundary, pinned: [old.lsn] });
      await expectExactByLsn('main', old);
      await engine.storage.trimHistory(ref('main'), { startMs: boundary, pinned: [] });
      if ((await engine.storage.poolStatus()).cloneMode === 'copy') {
        // There the child holds on to its parent's history instead of having a copy of its own.
        // Postgres may be archiving the newest still.
        expect(await walOf('main')).toEqual(expect.arrayContaining(before));
        await engine.stop('kept');
        for (const id of ['rest', 'live', 'kept', 'grandchild']) {
          await engine.stop(id);
          await engine.storage.deleteTimeline(ref(id));
        }
        await engine.storage.trimHistory(ref('main'), { startMs: boundary, pinned: [] });
      } else {
        await expectExactByLsn('kept', keptEntry!);
      }
      expect(await walOf('main')).not.toContain(before[0]);
      await expect(engine.child('too-old', 'main', old.lsn)).rejects.toThrow('outside of the history');
      await expectExactByLsn('main', ledgers.get('main')!.at(-2)!);
      await expectExactByLsn('main', ledgers.get('main')!.at(-1)!);
    });

    testHere('a timeline whose origin was deleted still has all of its history', async () => {
      if ((await engine.storage.poolStatus()).cloneMode === 'copy') {
        await engine.child('live', 'main');
        ledgers.set('live', [...ledgers.get('main')!]);
        await engine.start('live');
        await write('live', 3);
      }
      await engine.stop('main');
      await engine.storage.deleteTimeline(ref('main'));
      await expectExactByLsn('live', ledgers.get('live')!.at(-2)!);
    });
  },
);
