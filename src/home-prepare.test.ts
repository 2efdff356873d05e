import {
  chmod,
  chown,
  lstat,
  mkdir,
  mkdtemp,
  readFile,
  readlink,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Config } from './config.ts';
import { readConfig } from './config.ts';
import { closedAncestor, locateHome, prepareHome } from './home-prepare.ts';

const isRoot = process.getuid!() === 0;
const ORDINARY_UID = 54321;

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp('/tmp/ballast-home-test-');
  await chmod(directory, 0o755);
});

afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

function configOf(dataDir: string, more: Record<string, string> = {}): Config {
  return readConfig({ dataDir, ...more }, {});
}

async function modeOf(place: string): Promise<string> {
  return ((await stat(place)).mode & 0o777).toString(8);
}

/** Runs as another user: file operations go by the effective user id of the whole process. */
async function asOrdinaryUser(work: (options: { uid: number }) => Promise<void>): Promise<void> {
  if (!isRoot) return work({ uid: process.getuid!() });
  await chown(directory, ORDINARY_UID, ORDINARY_UID);
  process.setegid!(ORDINARY_UID);
  process.seteuid!(ORDINARY_UID);
  try {
    await work({ uid: ORDINARY_UID });
  } finally {
    process.seteuid!(0);
    process.setegid!(0);
  }
}

describe('as an ordinary user', () => {
  test('everything is closed to others and stays below the data directory', () =>
    asOrdinaryUser(async (options) => {
      const home = await prepareHome(configOf(path.join(directory, 'new/data')), options);
      for (const place of [
        home.dataDir,
        home.pool,
        home.run,
        home.catalog,
        home.postgres,
        home.log,
        home.tls,
        home.secrets,
      ]) {
        expect(await modeOf(place), place).toBe('700');
        expect(place.startsWith(directory)).toBe(true);
      }
      expect(await modeOf(path.join(home.secrets, 'cloud-admin'))).toBe('600');
      expect(await modeOf(path.join(home.secrets, 'seal-key'))).toBe('600');
    }));

  test('a second time changes nothing', () =>
    asOrdinaryUser(async (options) => {
      const config = configOf(path.join(directory, 'data'));
      const first = await prepareHome(config, options);
      const secret = await readFile(path.join(first.secrets, 'cloud-admin'), 'utf8');
      expect(secret).toMatch(/^[\w-]{43}$/);
      expect(await prepareHome(config, options)).toEqual(first);
      expect(await readFile(path.join(first.secrets, 'cloud-admin'), 'utf8')).toBe(secret);
      expect(await locateHome(config, options)).toEqual(first);
    }));

  test('sockets get a short directory when their paths would be too long', () =>
    asOrdinaryUser(async (options) => {
      const config = configOf(path.join(directory, 'x'.repeat(60)));
      const home = await prepareHome(config, options);
      expect(home.sockets).not.toBe(home.run);
      expect(`${home.sockets}/${'e'.repeat(40)}/.s.PGSQL.5432`.length).toBeLessThanOrEqual(107);
      expect(await modeOf(home.sockets)).toBe('700');
      await rm(home.sockets, { recursive: true });
    }));

  test('a link in place of the short directory is refused', () =>
    asOrdinaryUser(async (options) => {
      const config = configOf(path.join(directory, 'x'.repeat(60)));
      const { sockets } = await locateHome(config, options);
      await symlink(directory, sockets);
      await expect(prepareHome(config, options)).rejects.toThrow(`${sockets} is not a directory`);
      await rm(sockets);
    }));

  test.skipIf(!isRoot)('a data directory of somebody else is refused (needs root to make one)', async () => {
    const dataDir = path.join(directory, 'data');
    await mkdir(dataDir);
    await asOrdinaryUser(async (options) => {
      await expect(prepareHome(configOf(dataDir), options)).rejects.toThrow('belongs to user id 0');
    });
  });
});

describe('strange states are refused', () => {
  const options = { uid: process.getuid!(), sharedDirectory: '/nonexistent/never-used' };

  test('a directory that holds other things', async () => {
    await writeFile(path.join(directory, 'thesis.txt'), '');
    await expect(prepareHome(configOf(directory), options)).rejects.toThrow('"thesis.txt"');
  });

  test('a file in place of a directory', async () => {
    const dataDir = path.join(directory, 'data');
    await writeFile(dataDir, '');
    await expect(prepareHome(configOf(dataDir), options)).rejects.toThrow('is not a directory');
  });

  test('a damaged secret', async () => {
    const home = await prepareHome(configOf(path.join(directory, 'data')), options);
    await truncate(path.join(home.secrets, 'seal-key'), 5);
    await expect(prepareHome(configOf(home.dataDir), options)).rejects.toThrow('seal-key is damaged');
  });

  test('a secret lost after it was used', async () => {
    const home = await prepareHome(configOf(path.join(directory, 'data')), options);
    await rm(path.join(home.secrets, 'cloud-admin'));
    await expect(prepareHome(configOf(home.dataDir), options)).rejects.toThrow('cloud-admin is missing');
  });

  test('all secrets lost beside a catalog', async () => {
    const home = await prepareHome(configOf(path.join(directory, 'data')), options);
    await rm(home.secrets, { recursive: true });
    await writeFile(path.join(home.catalog, 'PG_VERSION'), '17\n');
    await expect(prepareHome(configOf(home.dataDir), options)).rejects.toThrow('put it back from a backup');
  });

  test('a link whose target is gone', async () => {
    const home = await prepareHome(configOf(path.join(directory, 'data')), options);
    await rm(home.pool, { recursive: true });
    await symlink(path.join(directory, 'unmounted'), home.pool);
    await expect(prepareHome(configOf(home.dataDir), options)).rejects.toThrow('is its file system mounted?');
  });
});

describe.skipIf(!isRoot)('as root (needs root)', () => {
  const uid = 0;

  test('Postgres can pass through, and sees nothing that is private', async () => {
    const home = await prepareHome(configOf(path.join(directory, 'data')), { uid });
    for (const place of [home.dataDir, home.pool, home.run, home.postgres])
      expect(await modeOf(place), place).toBe('711');
    for (const place of [home.secrets, home.tls, home.log]) expect(await modeOf(place), place).toBe('700');
    expect((await stat(home.catalog)).uid).toBe(700_000);
    expect(await modeOf(home.catalog)).toBe('700');
  });

  test('below a closed directory the engine lives elsewhere, behind links', async () => {
    const closed = path.join(directory, 'closed');
    await mkdir(closed, { mode: 0o700 });
    const config = configOf(path.join(closed, 'data'));
    const options = { uid, sharedDirectory: path.join(directory, 'shared') };
    const home = await prepareHome(config, options);
    for (const place of [home.pool, home.catalog, home.run, home.postgres]) {
      expect(place).toMatch(new RegExp(`^${directory}/shared/[0-9a-f]{12}/`));
    }
    expect(await readlink(path.join(config.dataDir, 'pool'))).toBe(home.pool);
    expect(await closedAncestor(home.pool)).toBeUndefined();
    expect(home.secrets.startsWith(closed)).toBe(true);
    expect(await prepareHome(config, options)).toEqual(home);
    // Opening the way later must not move anything.
    await chmod(closed, 0o755);
    expect(await prepareHome(config, options)).toEqual(home);
  });

  test('a way that was closed later is refused, naming the directory and the command', async () => {
    const outer = path.join(directory, 'outer');
    await mkdir(outer, { mode: 0o755 });
    const config = configOf(path.join(outer, 'data'));
    await prepareHome(config, { uid });
    await chmod(outer, 0o700);
    await expect(prepareHome(config, { uid })).rejects.toThrow(`chmod o+x ${outer}`);
  });

  test('a pool that Postgres cannot reach is refused', async () => {
    const closed = path.join(directory, 'closed');
    await mkdir(path.join(closed, 'pool'), { recursive: true });
    await chmod(closed, 0o700);
    const config = configOf(path.join(directory, 'data'), { pool: path.join(closed, 'pool') });
    await expect(prepareHome(config, { uid })).rejects.toThrow(`chmod o+x ${closed}`);
  });

  test('an existing pool keeps its mode', async () => {
    const pool = path.join(directory, 'mounted');
    await mkdir(pool, { mode: 0o755 });
    const home = await prepareHome(configOf(path.join(directory, 'data'), { pool }), { uid });
    expect(home.pool).toBe(pool);
    expect((await lstat(pool)).mode & 0o777).toBe(0o755);
  });

  test('sockets move to a short directory', async () => {
    const options = { uid, sharedDirectory: path.join(directory, 's') };
    const home = await prepareHome(configOf(path.join(directory, 'x'.repeat(60))), options);
    expect(home.sockets.startsWith(path.join(directory, 's'))).toBe(true);
    expect(await modeOf(home.sockets)).toBe('711');
  });
});
