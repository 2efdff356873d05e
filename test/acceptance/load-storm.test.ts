/**
 * A wake storm: five hundred clients come to fifty sleeping endpoints at once. All are served, and each compute starts
 * once.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Operation } from '@neon/sdk/raw';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { startRawClients } from '../support/raw-clients.ts';
import type { RawClients } from '../support/raw-clients.ts';
import { createSleeping, hasCheapBranches } from '../support/sleeping.ts';

const ENDPOINTS = 50;
const CLIENTS_EACH = 10;

let ballast: Ballast;
let clients: RawClients;
let places: Place[];

beforeAll(async () => {
  if (!hasCheapBranches) return;
  ballast = await Ballast.boot();
  clients = startRawClients();
  places = await createSleeping(ballast, ENDPOINTS);
}, 240_000);
afterAll(async () => {
  await clients?.stop();
  await ballast?.destroy();
});

/** How often each endpoint's compute was started so far. */
async function starts(): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  let cursor: string | undefined;
  for (;;) {
    const page = await ballast.api.call<{ operations: Operation[]; pagination?: { cursor?: string } }>(
      'GET',
      `/projects/${places[0]!.projectId}/operations?limit=1000${cursor === undefined ? '' : `&cursor=${cursor}`}`,
    );
    for (const { action, endpoint_id: id } of page.operations) {
      if (action === 'start_compute') counts.set(id!, (counts.get(id!) ?? 0) + 1);
    }
    cursor = page.pagination?.cursor;
    if (page.operations.length < 1000 || cursor === undefined) return counts;
  }
}

test.skipIf(!hasCheapBranches)(
  'five hundred clients at fifty sleeping endpoints are all served, and each compute starts once (needs BALLAST_TEST_XFS_DIR)',
  async () => {
    const before = await starts();
    // Half of them over the pooled hosts.
    const logins = Array.from({ length: ENDPOINTS * CLIENTS_EACH }, (_, id) => {
      const { endpointId, role: user, password, database } = places[id % ENDPOINTS]!;
      const isPooled = Math.floor(id / ENDPOINTS) % 2 === 1;
      return {
        id,
        port: ballast.pgPort,
        endpoint: isPooled ? `${endpointId}-pooler` : endpointId,
        user,
        password,
        database,
      };
    });
    const startedMs = performance.now();
    const welcome = await clients.logIn(logins, logins.length);
    expect(welcome.flatMap(({ error }) => error ?? [])).toEqual([]);
    const answers = await clients.ask(
      logins.map(({ id }) => ({ id, sql: `select ${id} + 1` })),
      logins.length,
    );
    console.log(`storm: ${logins.length} clients served after ${Math.round(performance.now() - startedMs)} ms`);
    expect(answers).toEqual(logins.map(({ id }) => ({ value: String(id + 1) })));
    const after = await starts();
    const started = places.map(({ endpointId }) => (after.get(endpointId) ?? 0) - (before.get(endpointId) ?? 0));
    expect(started).toEqual(places.map(() => 1));
    await clients.hangUp();
  },
  150_000,
);
