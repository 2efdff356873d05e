/**
 * Runs the one list of behaviours with a driver through each of its paths. What is expected is taken in the same run,
 * from the same driver on a direct connection to plain Postgres of the same build.
 */
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BEHAVIOURS } from './behaviours/all.ts';
import type { Behaviour } from './behaviours/behaviour.ts';
import { DIFFERENCES, compare, differenceOf } from './differences.ts';
import { configOf } from './drivers/pg.ts';
import { observation } from './observe.ts';
import { startEnds, type Ends, type Path, type Target } from './paths.ts';
import { isLeftOut } from '../support/left-out.ts';
import { settle, type Capability, type Driver, type Session } from './session.ts';

const BOOT_TIMEOUT_MS = 240_000;

/** The drivers of a file share one Ballast and one plain Postgres. */
export function conform(...offered: readonly Driver[]): void {
  const drivers = offered.filter(({ name }) => !isLeftOut(name));
  let ends: Ends;
  let admins: ReturnType<typeof createAdmins>;

  beforeAll(async () => {
    if (drivers.every(({ missing }) => missing !== undefined)) return;
    ends = await startEnds();
    admins = createAdmins(ends);
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    for (const driver of drivers) await driver.stop?.();
    await admins?.end();
    await ends?.stop();
  }, BOOT_TIMEOUT_MS);

  const look = async (driver: Driver, behaviour: Behaviour, target: Target) =>
    observe(driver, behaviour, target, await admins.prepare(target, behaviour.setup));

  for (const driver of drivers) {
    const missing = driver.missing === undefined ? '' : ` (skipped: ${driver.missing})`;
    describe.skipIf(driver.missing !== undefined)(`${driver.name}${missing}`, () => {
      const references = new Map<string, Promise<unknown>>();
      const reference = (behaviour: Behaviour) => {
        const known = references.get(behaviour.name) ?? look(driver, behaviour, ends.plain);
        references.set(behaviour.name, known);
        return known;
      };
      describe.each(driver.paths)('path %s', (path) => {
        for (const { title, behaviour, difference } of behavioursOf(driver, path)) {
          test(`${title}`, async () => {
            const expected = await reference(behaviour);
            compare(await look(driver, behaviour, ends.ballast[path]), expected, difference);
          });
        }
      });
    });
  }

  test('every difference on the list is one of a behaviour', () => {
    const names = new Set(BEHAVIOURS.map(({ name }) => name));
    expect(DIFFERENCES.filter(({ behaviour }) => !names.has(behaviour))).toEqual([]);
  });
}

function behavioursOf(driver: Driver, path: Path) {
  // Over HTTP each statement is a session of its own.
  const sessions = path === 'http' ? [] : (['session', 'startup'] as const);
  const can = new Set<Capability>([...driver.can(path), ...sessions]);
  return BEHAVIOURS.filter(
    ({ name, needs = [] }) =>
      driver.cannot?.[name] === undefined && (driver.only?.test(name) ?? true) && needs.every((each) => can.has(each)),
  ).map((behaviour) => {
    const difference = differenceOf(driver.name, path, behaviour.name);
    const note = difference === undefined ? '' : `: differs (${difference.reason})`;
    return { title: `${behaviour.name}${note}`, behaviour, difference };
  });
}

async function observe(driver: Driver, behaviour: Behaviour, target: Target, admin: pg.Client): Promise<unknown> {
  const sessions: Session[] = [];
  try {
    return await behaviour.run({
      target,
      admin,
      open: async (options) => {
        const session = await driver.open(target, options);
        sessions.push(session);
        return session;
      },
      seen: async (work) => {
        const settled = await settle(work);
        return 'error' in settled ? { failed: observation(settled.error) } : observation(settled.answer);
      },
    });
  } finally {
    await Promise.allSettled(sessions.map((session) => session.close()));
  }
}

/** One session per server, beside those of the driver, which sees to the tables of a behaviour. */
function createAdmins(ends: Ends) {
  const admins = new Map<Target, Promise<{ client: pg.Client; used: boolean }>>();
  const connect = async (target: Target) => {
    const client = new pg.Client(configOf(target, { applicationName: 'conform-admin' }));
    client.on('error', () => {});
    await client.connect();
    await client.query('set synchronous_commit to off; create schema conform');
    return { client, used: false };
  };
  return {
    /** The schema of the behaviours is empty but for what `setup` makes. */
    async prepare(target: Target, setup: string | undefined): Promise<pg.Client> {
      const direct = ends.direct(target);
      const connecting = admins.get(direct) ?? connect(direct);
      admins.set(direct, connecting);
      const admin = await connecting;
      if (admin.used) await admin.client.query('drop schema if exists conform cascade; create schema conform');
      admin.used = setup !== undefined;
      if (setup !== undefined) await admin.client.query(setup);
      return admin.client;
    },
    async end(): Promise<void> {
      for (const admin of admins.values()) await admin.then(({ client }) => client.end()).catch(() => {});
    },
  };
}
