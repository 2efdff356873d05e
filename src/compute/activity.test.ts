import { expect, test } from 'vitest';
import { ActivityTracker } from './activity.ts';
import { firstWords } from './first-words.ts';

function tracked() {
  let nowMs = 1000;
  const tracker = new ActivityTracker(() => nowMs);
  return { tracker, pass: (ms: number) => (nowMs += ms) };
}

const facts = { fingerprint: 'f', processes: [], busyCount: 0, idleCount: 0 };
const quiet = (quietMs?: number) => ({ ...facts, quietMs });

test('nothing is known before the first poll', () => {
  const { tracker } = tracked();
  expect(tracker.needsPoll()).toBe(true);
  expect(tracker.current()).toBeUndefined();
});

test('without connections it is asked once more after the last one left, then never', () => {
  const { tracker, pass } = tracked();
  tracker.noteConnections(1);
  tracker.pollBegins();
  tracker.pollEnded(quiet(0));
  expect(tracker.needsPoll()).toBe(true);
  tracker.noteConnections(0);
  tracker.pollBegins();
  tracker.pollEnded(quiet());
  expect(tracker.needsPoll()).toBe(false);
  pass(70_000);
  expect(tracker.current()).toMatchObject({ busy: false, idleMs: 70_000, quietMs: 70_000, fingerprint: 'f' });
});

test('busy without connections is asked again: a subscription or a vacuum may end', () => {
  const { tracker, pass } = tracked();
  tracker.pollBegins();
  tracker.pollEnded({ ...facts, busyCount: 1, quietMs: undefined });
  pass(5000);
  expect(tracker.needsPoll()).toBe(true);
  expect(tracker.current()).toMatchObject({ busy: true, idleMs: 0 });
});

test('idle time runs from the last statement of the sessions that are open, and from the last coming or going', () => {
  const { tracker, pass } = tracked();
  tracker.noteConnections(2);
  pass(60_000);
  tracker.pollBegins();
  tracker.pollEnded(quiet(10_000));
  expect(tracker.current()!.idleMs).toBe(10_000);
  tracker.noteConnections(1);
  expect(tracker.current()!.idleMs).toBe(0);
});

test('what happens during a poll is seen by the next', () => {
  const { tracker } = tracked();
  tracker.pollBegins();
  tracker.noteConnections(1);
  tracker.noteConnections(0);
  tracker.pollEnded(quiet());
  expect(tracker.needsPoll()).toBe(true);
});

test('what only goes on keeps a compute busy, and is no sign that somebody did something', () => {
  const { tracker, pass } = tracked();
  tracker.noteConnections(1);
  pass(90_000);
  tracker.pollBegins();
  tracker.pollEnded({ ...facts, busyCount: 1, quietMs: 80_000 });
  expect(tracker.current()).toMatchObject({ busy: true, idleMs: 0, quietMs: 80_000 });
});

test.each([
  ['select * from cards where number = 4111', 'select'],
  [`alter role bob password 'secret'`, 'alter role bob'],
  [`select'secret'`, ''],
  [`select e'secret'`, 'select'],
  ['select pg_sleep(5)', 'select pg_sleep'],
  ['-- secret\n/* secret */ insert into public.items values (1)', 'insert into public.items'],
  ['/* secret */', ''],
  ['update "secret" set a = 1', 'update'],
  ['select $$secret$$', 'select'],
  ['/* not closed: secret', ''],
  ['BEGIN', 'BEGIN'],
  ['set app.token to secret', 'set app.token to'],
])('of %j the log gets %j', (sql, words) => {
  expect(firstWords(sql)).toBe(words);
});
