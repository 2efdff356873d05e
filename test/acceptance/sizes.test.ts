/**
 * Changes of an endpoint's limits while clients are connected: which of them a client notices.
 */
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { scrape } from '../support/metrics.ts';
import { scalar } from '../support/sql.ts';

let ballast: Ballast;
let place: Place;

beforeAll(async () => {
  ballast = await Ballast.boot();
  place = await ballast.api.createProject({
    name: 'sizes',
    default_endpoint_settings: { autoscaling_limit_min_cu: 0.5, autoscaling_limit_max_cu: 2 },
  });
}, 150_000);

afterAll(async () => {
  await ballast?.destroy();
});

const change = (endpoint: object) => ballast.api.callAndSettle('PATCH', ballast.api.endpointPath(place), { endpoint });

async function units(): Promise<number> {
  const now = await scrape(ballast.apiPort, ballast.api.apiKey);
  return now.value('ballast_compute_units', { endpoint: place.endpointId });
}

test('another minimum reaches the compute without anybody noticing; another maximum restarts it', async () => {
  const client = new pg.Client({ connectionString: ballast.uri(place) });
  let ended = false;
  client.on('error', () => (ended = true));
  client.on('end', () => (ended = true));
  await client.connect();
  const ask = async () =>
    (await client.query(`select pg_backend_pid() as pid, current_setting('max_connections') as most`)).rows;
  const before = await ask();
  expect(before).toMatchObject([{ most: '839' }]);

  await change({ autoscaling_limit_min_cu: 1 });
  expect(await ask()).toEqual(before);
  expect(await units()).toBeGreaterThanOrEqual(1);
  expect(await units()).toBeLessThanOrEqual(2);
  expect(ended).toBe(false);

  await change({ autoscaling_limit_max_cu: 4 });
  await expect(ask()).rejects.toThrow();
  expect(await scalar(ballast.uri(place), 'show max_connections')).toBe('1678');
});
