/**
 * Ten thousand clients that idle: logged in through the pooled hosts of two hundred endpoints that then go to sleep,
 * and beside them direct ones, which keep theirs awake. Nobody is turned away or cut off, and a query wakes its compute.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { openFileLimit, residentBytes, startRawClients } from '../support/raw-clients.ts';
import type { RawClients, RawLogin } from '../support/raw-clients.ts';
import { createSleeping, hasCheapBranches } from '../support/sleeping.ts';
import { waitFor } from '../support/wait.ts';

const ENDPOINTS = 200;
const CLIENTS = 10_000;
/** What a compute of the smallest size takes, with room for its own. */
const DIRECT_CLIENTS = 80;
const PROCESSES = 2;
const FILES_NEEDED = CLIENTS + 2_000;
const LOGINS_AT_ONCE = 100;

const canRun = hasCheapBranches && (await openFileLimit()) >= FILES_NEEDED;

let ballast: Ballast;
let groups: RawClients[];
let places: Place[];
let made = 0;
/** The first client of a pool waits for its compute: nobody knows before what Postgres reports of itself. */
const firsts: RawLogin[] = [];

function loginAt({ endpointId, role: user, password, database }: Place, pooled: boolean): RawLogin {
  const endpoint = pooled ? `${endpointId}-pooler` : endpointId;
  return { id: made++, port: ballast.pgPort, endpoint, user, password, database };
}

const refusals = (outcomes: { error?: string }[]) => outcomes.flatMap(({ error }) => error ?? []);
const groupOf = (id: number) => groups[id % PROCESSES]!;

/** At each group's process, all at once. */
async function logIn(logins: readonly RawLogin[]): Promise<string[]> {
  const parts = groups.map((group, i) =>
    group.logIn(
      logins.filter(({ id }) => id % PROCESSES === i),
      LOGINS_AT_ONCE / PROCESSES,
    ),
  );
  return refusals((await Promise.all(parts)).flat());
}

const connected = async () => (await Promise.all(groups.map((group) => group.count()))).reduce((a, b) => a + b);

beforeAll(async () => {
  if (!canRun) return;
  ballast = await Ballast.boot();
  groups = Array.from({ length: PROCESSES }, startRawClients);
  places = await createSleeping(ballast, ENDPOINTS, async (batch) => {
    const logins = batch.map((place) => loginAt(place, true));
    firsts.push(...logins);
    expect(await logIn(logins)).toEqual([]);
  });
}, 400_000);
afterAll(async () => {
  await Promise.all((groups ?? []).map((group) => group.stop()));
  await ballast?.destroy();
});

test.skipIf(!canRun)(
  `ten thousand idle clients at two hundred sleeping endpoints (needs BALLAST_TEST_XFS_DIR and ${FILES_NEEDED} open files)`,
  async () => {
    const states = async () => {
      const path = `/projects/${places[0]!.projectId}/endpoints`;
      const { endpoints } = await ballast.api.call<{ endpoints: { current_state: string }[] }>('GET', path);
      return endpoints.map(({ current_state: state }) => state);
    };
    const asleep = async () => (await states()).filter((state) => state === 'idle').length;
    expect(await asleep()).toBe(ENDPOINTS);
    const before = await residentBytes(ballast.pid);

    const pooled = Array.from({ length: CLIENTS - DIRECT_CLIENTS - firsts.length }, (_, i) =>
      loginAt(places[i % ENDPOINTS]!, true),
    );
    const startedMs = performance.now();
    expect(await logIn(pooled)).toEqual([]);
    const perLoginMs = (performance.now() - startedMs) / pooled.length;
    const perClient = ((await residentBytes(ballast.pid)) - before) / pooled.length;
    console.log(
      `idle: ${(perClient / 1024).toFixed(1)} KiB of memory per pooled client, ${perLoginMs.toFixed(2)} ms per login`,
    );
    // Whoever logs in through the pooled host of a known role and database wakes nothing.
    expect(await asleep()).toBe(ENDPOINTS);

    const direct = Array.from({ length: DIRECT_CLIENTS }, () => loginAt(places[0]!, false));
    expect(await logIn(direct)).toEqual([]);
    expect(await connected()).toBe(CLIENTS);
    expect(await asleep()).toBe(ENDPOINTS - 1);

    const sample = [...firsts.slice(10, 20), ...pooled.slice(5, 15), ...direct.slice(0, 5)];
    const answers = await Promise.all(sample.map(({ id }) => groupOf(id).ask([{ id, sql: `select ${id}` }], 1)));
    expect(answers.flat()).toEqual(sample.map(({ id }) => ({ value: String(id) })));
    expect(await connected()).toBe(CLIENTS);

    await Promise.all(groups.map((group) => group.hangUp()));
    await waitFor('all to be gone', async () => (await connected()) === 0, { timeoutMs: 60_000 });
  },
  240_000,
);
