/**
 * Against plain files that look like /proc and a cgroup tree. What the kernel makes of it is in limits.cgroup.test.ts.
 */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { NO_LIMITS, findCgroup, findCgroups, openCgroups, type Machine } from './cgroups.ts';

let directory: string;
let tree: string;

beforeEach(async () => {
  directory = await mkdtemp(path.join(os.tmpdir(), 'ballast-cgroups-'));
  tree = path.join(directory, 'cgroup');
});

afterEach(() => rm(directory, { recursive: true, force: true }));

interface Machinery extends Partial<Machine> {
  /** Of this process. */
  own: string;
  /** Of what is mounted. */
  root?: string;
  groups: Record<string, { controllers: string; hasType?: boolean; pids?: string }>;
  delegated?: string;
}

async function machine({ own, root = '/', groups, delegated, ...overrides }: Machinery): Promise<Machine> {
  const proc = path.join(directory, 'proc');
  await mkdir(path.join(proc, 'self'), { recursive: true });
  await writeFile(
    path.join(proc, 'self/mountinfo'),
    `22 1 0:20 / /proc rw - proc proc rw\n30 23 0:26 ${root} ${tree} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n`,
  );
  await writeFile(path.join(proc, 'self/cgroup'), `1:cpu:/elsewhere\n0::${own}\n`);
  for (const [name, { controllers, hasType = true, pids = '' }] of Object.entries(groups)) {
    const group = path.join(tree, name);
    await mkdir(group, { recursive: true });
    const files = { controllers, procs: pids, subtree_control: '', ...(hasType && { type: 'domain' }) };
    for (const [file, text] of Object.entries(files)) await writeFile(path.join(group, `cgroup.${file}`), text);
  }
  return {
    platform: 'linux',
    uid: 1000,
    proc,
    hasSystemd: true,
    isDelegated: async (unit) => unit === delegated,
    ...overrides,
  };
}

const TOP = { controllers: 'cpuset cpu io memory pids\n', hasType: false };
const USER = '/user.slice/user-1000.slice/user@1000.service';
const SCOPE = `${USER}/app.slice/run-r1.scope`;

describe('where computes can have groups', () => {
  test('as root: at the top of the machine, where nothing has to move', async () => {
    const found = await findCgroups(await machine({ uid: 0, own: '/user.slice/s.scope', groups: { '/': TOP } }));
    expect(found).toEqual({ available: true, parent: tree, mustMoveOut: false });
  });

  test('as root in a container: at its top, from which its processes must move', async () => {
    const groups = { '/': { ...TOP, hasType: true } };
    const inside = await machine({ uid: 0, own: '/', groups, hasSystemd: false });
    expect(await findCgroups(inside)).toEqual({ available: true, parent: tree, mustMoveOut: true });
    const mounted = await machine({ uid: 0, own: '/docker/abc', root: '/docker/abc', groups, hasSystemd: false });
    expect(await findCgroups(mounted)).toEqual({ available: true, parent: tree, mustMoveOut: true });
  });

  test('as root in a service with Delegate=yes: in the service', async () => {
    const groups = { '/': TOP, '/system.slice/ballast.service': { controllers: 'cpu memory pids' } };
    const own = '/system.slice/ballast.service';
    const found = await findCgroups(await machine({ uid: 0, own, groups, delegated: 'ballast.service' }));
    expect(found).toEqual({ available: true, parent: path.join(tree, own), mustMoveOut: true });
  });

  test('as a user in a delegated scope, also when it was started from one that has moved', async () => {
    const groups = { '/': TOP, [SCOPE]: { controllers: 'cpu memory pids' } };
    const expected = { available: true, parent: path.join(tree, SCOPE), mustMoveOut: true };
    expect(await findCgroups(await machine({ own: SCOPE, groups, delegated: 'run-r1.scope' }))).toEqual(expected);
    const own = `${SCOPE}/ballast-self`;
    expect(await findCgroups(await machine({ own, groups, delegated: 'run-r1.scope' }))).toEqual(expected);
  });

  test("not in a user's terminal, whose group is the user's but not ours; the mend is one command", async () => {
    const groups = { '/': TOP, [SCOPE]: { controllers: 'cpu memory pids' } };
    expect(await findCgroups(await machine({ own: SCOPE, groups }))).toEqual({
      available: false,
      reason: 'no control group is delegated to Ballast',
      fix: expect.stringContaining('systemd-run --user --scope -p Delegate=yes npm start') as string,
    });
  });

  test('not where controllers do not reach', async () => {
    const groups = { '/': TOP, [SCOPE]: { controllers: 'memory pids' } };
    const found = await findCgroups(await machine({ own: SCOPE, groups, delegated: 'run-r1.scope' }));
    expect(found).toMatchObject({ available: false, fix: expect.stringContaining('Delegate=cpu memory') as string });
  });

  test('not with cgroup v1 beside an empty v2, without cgroups, and elsewhere than on Linux', async () => {
    const hybrid = await machine({ uid: 0, own: '/', groups: { '/': { controllers: 'hugetlb', hasType: false } } });
    expect(await findCgroups(hybrid)).toMatchObject({
      available: false,
      fix: expect.stringContaining('systemd.unified_cgroup_hierarchy=1') as string,
    });
    expect(await findCgroups({ ...hybrid, proc: '/nonexistent' })).toMatchObject({ available: false });
    expect(await findCgroups({ ...hybrid, platform: 'darwin' })).not.toHaveProperty('fix');
  });

  test('not where the tree is read-only', async () => {
    const found = await machine({ uid: 0, own: '/', groups: { '/': TOP } });
    await rm(path.join(tree, 'cgroup.procs'));
    expect(await findCgroups(found)).toMatchObject({
      available: false,
      reason: expect.stringContaining(tree) as string,
    });
  });
});

describe('groups of computes', () => {
  const file = (...names: string[]) => readFile(path.join(tree, ...names), 'utf8');

  test('what was in the parent moves out, controllers go down, limits are in the words of the kernel', async () => {
    await machine({ own: '/', groups: { '/': { ...TOP, pids: '11\n12\n' } } });
    const cgroups = await openCgroups({ parent: tree, mustMoveOut: true }, '/data');
    expect(await file('ballast-self/cgroup.procs')).toBe('12');
    expect(await file('cgroup.subtree_control')).toBe('+cpu +memory');
    const group = await cgroups.create('ep-a');
    const name = path.relative(tree, group.directory);
    expect(name).toMatch(/^ballast-[0-9a-f]{8}\/ep-a$/);
    expect(await file(path.dirname(name), 'cgroup.subtree_control')).toBe('+cpu +memory');

    await group.limit({ weight: 50, processors: 0.5, memoryHighBytes: 1000, memoryMaxBytes: 2000 });
    const limits = async () =>
      Promise.all(['cpu.weight', 'cpu.max', 'memory.high', 'memory.max'].map((leaf) => file(name, leaf)));
    expect(await limits()).toEqual(['50', '50000 100000', '1000', '2000']);
    await group.limit(NO_LIMITS);
    expect(await limits()).toEqual(['100', 'max 100000', 'max', 'max']);
  });

  test('use and memory are read', async () => {
    await machine({ own: '/', groups: { '/': TOP } });
    const group = await (await openCgroups({ parent: tree, mustMoveOut: false }, '/data')).create('ep-a');
    const write = (leaf: string, text: string) => writeFile(path.join(group.directory, leaf), text);
    await write('cpu.stat', 'usage_usec 1500\nuser_usec 1000\nnr_periods 4\nnr_throttled 3\n');
    await write('memory.stat', 'anon 100\nfile 5000\nshmem 20\ninactive_file 4000\nactive_file 3\n');
    await write('memory.current', '5123\n');
    expect(group.usage()).toEqual({ processorMs: 1.5, periods: 4, throttledPeriods: 3 });
    expect(group.memoryBytes()).toBe(5123);
    expect(group.workingSetBytes()).toBe(123);
  });

  test('one is found again by the process in it, by the same data directory only', async () => {
    const here = await machine({ own: '/', groups: { '/': TOP } });
    const { directory: place } = await (
      await openCgroups({ parent: tree, mustMoveOut: false }, '/data')
    ).create('ep-a');
    for (const leaf of ['cgroup.procs', 'cgroup.subtree_control']) await writeFile(path.join(place, leaf), '');
    await mkdir(path.join(here.proc, '77'));
    await writeFile(path.join(here.proc, '77/cgroup'), `0::/${path.relative(tree, place)}\n`);
    expect((await findCgroup('/data', 'ep-a', 77, here.proc))?.directory).toBe(place);
    expect(await findCgroup('/data', 'ep-b', 77, here.proc)).toBeUndefined();
    expect(await findCgroup('/other', 'ep-a', 77, here.proc)).toBeUndefined();
    expect(await findCgroup('/data', 'ep-a', 78, here.proc)).toBeUndefined();
  });

  test('groups of computes that are gone are removed', async () => {
    await machine({ own: '/', groups: { '/': TOP } });
    const cgroups = await openCgroups({ parent: tree, mustMoveOut: false }, '/data');
    const [gone, running] = [await cgroups.create('ep-gone'), await cgroups.create('ep-running')];
    await cgroups.removeStale(new Set(['ep-running']));
    await expect(readFile(path.join(gone.directory, 'x'))).rejects.toThrow('ENOENT');
    await cgroups.close();
    await mkdir(path.join(running.directory, 'still-there'));
  });
});
