import { expect, test } from 'vitest';
import { archiveCommand } from './archive.ts';
import { isCloned } from './clone-rules.ts';
import { timelineLayout } from './layout.ts';
import { watermarks } from './pool.ts';
import { fileOf } from './subscriptions.ts';

const GIB = 1024 ** 3;

test.each(['../etc', 'a/b', '', '.', 'Upper', 'trash', 'template', 'a'.repeat(80)])(
  'refuses %j as a project',
  (projectId) => {
    expect(() => timelineLayout('/pool', { projectId, timelineId: 'br-1' })).toThrow('no such branch');
  },
);

test('refuses a branch that leaves its project', () => {
  expect(() => timelineLayout('/pool', { projectId: 'p-1', timelineId: '..' })).toThrow('no such branch');
});

test('what is cloned at rest, from a hot base, and as it is', () => {
  const atRest = { asItIs: false, backupLabel: false };
  const hot = { asItIs: false, backupLabel: true };
  const asItIs = { asItIs: true, backupLabel: true };
  const cloned = (name: string) => [atRest, hot, asItIs].map((rules) => isCloned(name, rules));
  expect(cloned('global')).toEqual([true, true, true]);
  expect(cloned('pg_wal')).toEqual([false, false, true]);
  expect(cloned('backup_label')).toEqual([false, true, true]);
  expect(cloned('recovery.signal')).toEqual([false, false, true]);
  for (const name of ['pg_replslot', 'postmaster.pid', 'standby.signal', 'pg_logical']) {
    expect(cloned(name)).toEqual([false, false, false]);
  }
});

test('the archive command survives quotes and percent signs in the path', () => {
  const command = archiveCommand(`/it's/100%/wal`, 'linux');
  expect(command).toContain(`'/it'\\''s/100%%/wal'/%f`);
  expect(command).toContain('cp --reflink=auto %p ');
  expect(archiveCommand('/wal', 'darwin')).not.toContain('--reflink');
});

test('watermarks are shares of small pools and caps on large ones', () => {
  expect(watermarks(20 * GIB)).toEqual({
    highBytes: 2 * GIB,
    fullBytes: 0.03 * 20 * GIB,
    reserveBytes: 409 * 1024 ** 2,
  });
  expect(watermarks(4096 * GIB)).toEqual({ highBytes: 8 * GIB, fullBytes: 2 * GIB, reserveBytes: 512 * 1024 ** 2 });
});

test('finds a catalog in a file map, and says when it cannot', () => {
  const map = Buffer.alloc(64);
  map.writeUInt32LE(0x592717, 0);
  map.writeInt32LE(2, 4);
  map.writeUInt32LE(1262, 8);
  map.writeUInt32LE(1262, 12);
  map.writeUInt32LE(6100, 16);
  map.writeUInt32LE(16999, 20);
  expect(fileOf(map, 6100)).toBe(16999);
  expect(fileOf(map, 1)).toBeUndefined();
  expect(fileOf(Buffer.alloc(64), 6100)).toBeUndefined();
});
