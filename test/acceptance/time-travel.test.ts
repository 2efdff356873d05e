/**
 * A ledger of numbered commits, whose wall-clock times are kept outside of the database, is written all the while that
 * fifty branches are made at random times and LSNs of its past: each holds exactly the commits that it should.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { childPlace, type Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { judgeLedger, LedgerWriter } from '../support/ledger.ts';
import { query, scalar } from '../support/sql.ts';
import { waitFor } from '../support/wait.ts';

const BRANCHES = 50;
const HISTORY_MS = 8_000;
/** The writer leaves 4 ms between two commits: a time this much after one is before the next. */
const AFTER_US = 1_000;
const AT_ONCE = 2;

let ballast: Ballast;
let writer: LedgerWriter | undefined;

beforeAll(async () => {
  ballast = await Ballast.boot();
}, 300_000);

afterAll(async () => {
  await writer?.stop();
  await ballast?.destroy();
});

interface Position {
  lsn: string;
  /** The last commits that were acknowledged before it was asked for, and after. */
  atLeast: number;
  atMost: number;
}

const isoOf = (us: number) =>
  `${new Date(Math.floor(us / 1000)).toISOString().slice(0, 20)}${String(us % 1_000_000).padStart(6, '0')}Z`;

/** Notes where the WAL stands, again and again, until the answer is to stop. */
async function notePositions(place: Place, stopped: () => boolean): Promise<Position[]> {
  const positions: Position[] = [];
  while (!stopped()) {
    const atLeast = writer!.last;
    const lsn = String(await scalar(place.uri, 'select pg_current_wal_flush_lsn()::text'));
    positions.push({ lsn, atLeast, atMost: writer!.last + 1 });
    await pause(50);
  }
  return positions;
}

async function branchAt(parent: Place, point: Record<string, string>): Promise<Place> {
  const created = await ballast.api.callAndSettle('POST', `/projects/${parent.projectId}/branches`, {
    branch: { parent_id: parent.branchId, ...point },
    endpoints: [{ type: 'read_write' }],
  });
  return childPlace(parent, created);
}

async function remove(place: Place): Promise<void> {
  await ballast.api.callAndSettle('DELETE', `/projects/${place.projectId}/branches/${place.branchId}?hard_delete=true`);
}

test(`${BRANCHES} branches at random points of a running ledger's past`, async () => {
  const parent = await ballast.api.createProject({ name: 'ledger' });
  writer = await LedgerWriter.start(parent.uri);
  let enough = false;
  const noting = notePositions(parent, () => enough);
  await pause(HISTORY_MS);
  await waitFor('some history', async () => writer!.commits.length > 200);
  enough = true;
  const positions = await noting;
  const pick = <T>(list: readonly T[]): T => list[Math.floor(Math.random() * list.length)]!;

  const byTime = async () => {
    const commit = pick(writer!.commits.slice(0, -50));
    const place = await branchAt(parent, { parent_timestamp: isoOf(commit.atUs + AFTER_US) });
    expect(await judgeLedger(place.uri, commit.n, commit.n)).toBe(commit.n);
    return place;
  };
  const byLsn = async () => {
    const { lsn, atLeast, atMost } = pick(positions);
    const place = await branchAt(parent, { parent_lsn: lsn });
    await judgeLedger(place.uri, atLeast, atMost);
    return place;
  };
  let made = 0;
  const work = async () => {
    while (made < BRANCHES) {
      made += 1;
      await remove(await (made % 2 === 0 ? byTime() : byLsn()));
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  // The parent was never held up for long, and lost nothing.
  expect(writer.lost).toBeUndefined();
  const last = writer.last;
  await writer.stop();
  writer = undefined;

  // Asleep, its past is as near.
  await ballast.api.suspend(parent);
  const asleep = await branchAt(parent, { parent_lsn: positions[0]!.lsn });
  await judgeLedger(asleep.uri, positions[0]!.atLeast, positions[0]!.atMost);
  expect(await ballast.api.endpointState(parent)).toBe('idle');
  expect(Number(await scalar(parent.uri, 'select max(n)::int from ledger'))).toBeGreaterThanOrEqual(last);
}, 600_000);

test('points that are nowhere are refused clearly', async () => {
  const parent = await ballast.api.createProject({ name: 'refusals' });
  await query(parent.uri, 'create table t (n int)');
  const ask = async (point: Record<string, unknown>) => {
    const { status, body } = await ballast.api.request('POST', `/projects/${parent.projectId}/branches`, {
      branch: { parent_id: parent.branchId, ...point },
    });
    return { status, message: (body as { message?: string }).message ?? '' };
  };
  const cases: [Record<string, unknown>, number, RegExp][] = [
    [{ parent_timestamp: '2020-01-01T00:00:00Z' }, 422, /before/],
    [{ parent_timestamp: '2999-01-01T00:00:00Z' }, 422, /future/],
    [{ parent_lsn: 'FFFFFF/0' }, 422, /future/],
    [{ parent_lsn: '0/0' }, 422, /before/],
    [{ parent_timestamp: 'yesterday' }, 400, /parent_timestamp/],
    [{ parent_lsn: 'abc' }, 400, /parent_lsn/],
    [{ parent_lsn: '0/1964258', parent_timestamp: '2026-01-01T00:00:00Z' }, 400, /parent_lsn/],
  ];
  for (const [point, status, message] of cases) {
    const answer = await ask(point);
    expect(answer, JSON.stringify(point)).toMatchObject({ status, message: expect.stringMatching(message) });
  }
});
