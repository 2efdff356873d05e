import { describe, expect, test } from 'vitest';
import type { ClientProcess, ComputeActivity } from '../compute/types.ts';
import { describeKeeper, describeMs, judge, suspendTimeoutMs } from './keep-awake.ts';
import type { Judged } from './keep-awake.ts';

const session = (change: Partial<ClientProcess> = {}): ClientProcess => ({
  kind: 'session',
  pid: 10,
  keepsAwake: false,
  role: 'alice',
  database: 'shop',
  state: 'idle',
  sinceMs: 4_000,
  ...change,
});
const busySession = session({ keepsAwake: true, state: 'active', query: 'select pg_sleep' });

function judged(change: Partial<Judged> = {}, seen: Partial<ComputeActivity> = {}) {
  const processes = seen.processes ?? [];
  const busyCount = processes.filter(({ keepsAwake }) => keepsAwake).length;
  return judge({
    activity: {
      endpointId: 'ep-one',
      busy: busyCount > 0,
      idleMs: busyCount > 0 ? 0 : 10_000,
      quietMs: 10_000,
      fingerprint: '',
      busyCount,
      idleCount: processes.length - busyCount,
      processes,
      processesAgeMs: 0,
      ...seen,
    },
    timeoutMs: 30_000,
    defaultTimeoutMs: 300_000,
    operation: undefined,
    clients: [],
    ...change,
  });
}

describe('nothing keeps it awake', () => {
  test('and the rest of its time is what is left of the time-out', () => {
    expect(judged()).toMatchObject({ keepers: [], suspendInMs: 20_000, overdue: false });
    expect(judged({}, { idleMs: 30_000, quietMs: 30_000 })).toMatchObject({ suspendInMs: 0, overdue: true });
    expect(judged({}, { idleMs: 99_000, quietMs: 99_000 })).toMatchObject({ suspendInMs: 0 });
  });

  test('idle sessions are told, and keep nothing awake', () => {
    const { keepers, idleSessions, idleSessionCount, suspendInMs } = judged(
      {},
      { processes: [session()], idleCount: 7 },
    );
    expect({ keepers, idleSessionCount, suspendInMs }).toEqual({
      keepers: [],
      idleSessionCount: 7,
      suspendInMs: 20_000,
    });
    expect(idleSessions).toHaveLength(1);
  });
});

describe('it stays awake', () => {
  test.each<[string, ClientProcess]>([
    ['a query', busySession],
    ['an open transaction', session({ keepsAwake: true, state: 'idle in transaction' })],
    ['a walsender', { kind: 'walsender', pid: 11, keepsAwake: true, sinceMs: 1, slot: 'sub' }],
    ['a subscription', { kind: 'subscription', pid: 12, keepsAwake: true, sinceMs: 1 }],
    ['autovacuum', { kind: 'autovacuum', pid: 13, keepsAwake: true, sinceMs: 1, query: 'autovacuum: VACUUM a' }],
  ])('by %s, however long that lasts', (_what, process) => {
    const verdict = judged({}, { processes: [process, session()], quietMs: 9_999_999 });
    expect(verdict).toMatchObject({ keepers: [process], suspendInMs: undefined, overdue: true, idleSessionCount: 1 });
  });

  test('by a time-out of -1, and by an operation', () => {
    const long = { idleMs: 400_000, quietMs: 400_000 };
    const never = judged({ timeoutMs: suspendTimeoutMs(-1, 300) }, long);
    expect(never).toMatchObject({ keepers: [{ kind: 'never' }], suspendInMs: undefined, overdue: true });
    const operation = judged({ operation: { action: 'apply_config' } }, long);
    expect(operation.suspendInMs).toBeUndefined();
    expect(operation.keepers.map(describeKeeper)).toEqual(['an operation is under way on its branch: apply_config']);
  });

  test('by more than are shown', () => {
    expect(judged({}, { processes: [busySession], busyCount: 25 })).toMatchObject({ moreKeepers: 24 });
  });
});

test('a process is told with the client that it serves', () => {
  const client = (id: string, pid: number | undefined) => ({
    id,
    kind: 'pooled',
    address: '10.0.0.9',
    role: 'alice',
    applicationName: 'cart',
    backend: () => pid,
  });
  const { keepers } = judged(
    { clients: [client('aaa', undefined), client('bbb', 10), client('ccc', 99)] },
    { processes: [busySession], processesAgeMs: 500 },
  );
  expect(keepers).toEqual([
    {
      ...busySession,
      sinceMs: 4_500,
      connection: { id: 'bbb', kind: 'pooled', address: '10.0.0.9', applicationName: 'cart' },
    },
  ]);
  expect(describeKeeper(keepers[0]!)).toBe(
    'a session that is active, query "select pg_sleep ...", for 5 s (role alice, database shop, application cart, ' +
      'pooled connection bbb from 10.0.0.9, process 10)',
  );
});

test("a tenant's names make no lines of their own", () => {
  expect(describeKeeper(session({ role: 'a\nb' }))).toContain('role a?b,');
});

test.each([
  [0, 300, 300_000],
  [60, 300, 60_000],
  [-1, 300, Number.POSITIVE_INFINITY],
])('a suspend_timeout_seconds of %d with a default of %d', (seconds, byDefault, ms) => {
  expect(suspendTimeoutMs(seconds, byDefault)).toBe(ms);
});

test.each([
  [900, '1 s'],
  [119_000, '119 s'],
  [600_000, '10 min'],
  [7_260_000, '2 h 1 min'],
])('%d ms are %s', (ms, text) => {
  expect(describeMs(ms)).toBe(text);
});
