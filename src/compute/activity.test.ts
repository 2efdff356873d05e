import { expect, test } from 'vitest';
import { ActivityTracker } from './activity.ts';

function tracked() {
  let nowMs = 1000;
  const tracker = new ActivityTracker(() => nowMs);
  return { tracker, pass: (ms: number) => (nowMs += ms) };
}

const quiet = (quietMs?: number) => ({ busy: false, quietMs, fingerprint: 'f' });

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
  expect(tracker.current()).toEqual({ busy: false, idleMs: 70_000, fingerprint: 'f' });
});

test('busy without connections is asked again: a subscription or a vacuum may end', () => {
  const { tracker, pass } = tracked();
  tracker.pollBegins();
  tracker.pollEnded({ busy: true, quietMs: undefined, fingerprint: 'f' });
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
