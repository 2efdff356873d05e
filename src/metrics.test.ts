import { expect, test } from 'vitest';
import { parseMetrics } from '../test/support/metrics.ts';
import { createMetrics } from './metrics.ts';
import { createConnections } from './proxy/connections.ts';
import { Refusal, refusalReason, refusals } from './proxy/refusal.ts';

/** Those of the past are no endpoints. */
const sizes = new Map([
  ['ep-three', 0.5],
  ['past-one', 1],
]);

function measured(options: { existing?: () => Promise<string[]>; nowMs?: () => number } = {}) {
  const connections = createConnections();
  const metrics = createMetrics({
    connections,
    runningComputes: () => 3,
    computeSizes: () => sizes,
    existing: options.existing ?? (async () => ['ep-one', 'ep-two']),
    ...(options.nowMs && { nowMs: options.nowMs }),
  });
  const client = (endpointId: string, kind: 'direct' | 'pooled' = 'direct') =>
    connections.open(endpointId, { id: 'c', kind, address: '127.0.0.1', role: 'alice' });
  const read = async () => parseMetrics(await metrics.read());
  return { metrics, connections, client, read };
}

test('connections and traffic, by endpoint', async () => {
  const { client, read } = measured();
  const [one, other] = [client('ep-one'), client('ep-one', 'pooled')];
  one.traffic.bytesIn += 10;
  other.traffic.bytesIn += 5;
  other.traffic.queries += 2;
  client('ep-two').traffic.bytesOut += 7;
  const first = await read();
  expect(first.value('ballast_connections', { endpoint: 'ep-one' })).toBe(2);
  expect(first.value('ballast_connections', { endpoint: 'ep-one', kind: 'pooled' })).toBe(1);
  expect(first.value('ballast_received_bytes_total', { endpoint: 'ep-one' })).toBe(15);
  expect(first.value('ballast_sent_bytes_total', { endpoint: 'ep-two' })).toBe(7);
  expect(first.value('ballast_queries_total')).toBe(2);
  expect(first.value('ballast_computes_running')).toBe(3);
  expect(first.value('ballast_compute_units')).toBe(0.5);
  expect(first.value('ballast_compute_units', { endpoint: 'ep-three' })).toBe(0.5);
  other.close();
  other.close();
  const second = await read();
  expect(second.value('ballast_connections', { endpoint: 'ep-one' })).toBe(1);
  expect(second.value('ballast_connections_entered_total')).toBe(3);
  expect(second.value('ballast_received_bytes_total', { endpoint: 'ep-one' })).toBe(15);
});

test('the series of endpoints that are gone go, but not while they have clients', async () => {
  const { client, connections, read } = measured({ existing: async () => ['ep-two'] });
  const connection = client('ep-one');
  client('ep-two').close();
  await read();
  expect([...connections.traffic().keys()]).toEqual(['ep-one', 'ep-two']);
  connection.close();
  const scraped = await read();
  expect(scraped.samples.some(({ labels }) => labels['endpoint'] === 'ep-one')).toBe(false);
  expect([...connections.traffic().keys()]).toEqual(['ep-two']);
});

test('an hour without a client is the end of a series, also of a branch in the past; a lost catalog is not', async () => {
  let aheadMs = 0;
  const { client, connections, read } = measured({
    existing: () => Promise.reject(new Error('the catalog is away')),
    nowMs: () => performance.now() + aheadMs,
  });
  for (const name of ['ep-one', 'br-one']) client(name).close();
  await read();
  expect(connections.traffic().size).toBe(2);
  aheadMs = 3_600_000;
  await read();
  expect(connections.traffic().size).toBe(0);
});

test('what the proxy and the runner tell', async () => {
  const { metrics, read } = measured();
  metrics.proxyObserver.refused('tooManyConnections');
  metrics.proxyObserver.loggedIn(4, false);
  metrics.proxyObserver.loggedIn(6, true);
  metrics.proxyObserver.poolWaited(20);
  const end = { action: 'start_compute', status: 'finished', durationMs: 120 } as const;
  metrics.operationEnded({ ...end, phases: { queue: 3, postgres: 100 } });
  metrics.operationEnded({ ...end, phases: {} });
  const scraped = await read();
  expect(scraped.value('ballast_connections_refused_total', { reason: 'too_many_connections' })).toBe(1);
  expect(scraped.value('ballast_compute_login_seconds_count')).toBe(2);
  expect(scraped.value('ballast_wake_phase_seconds_sum', { phase: 'login' })).toBeCloseTo(0.006);
  expect(scraped.value('ballast_wake_phase_seconds_sum', { phase: 'postgres' })).toBeCloseTo(0.1);
  expect(scraped.value('ballast_pool_wait_seconds_bucket', { le: '0.025' })).toBe(1);
  expect(scraped.value('ballast_operations_total', { action: 'start_compute', result: 'finished' })).toBe(2);
});

test('every refusal has a reason of its own, and what nobody expected has one word', () => {
  expect(refusalReason(refusals.password('alice'))).toBe('password');
  expect(refusalReason(refusals.unsupportedStartupParameter('x'))).toBe('unsupportedStartupParameter');
  expect(refusalReason(new Refusal('something new'))).toBe('other');
  expect(refusalReason(new Error('a detail'))).toBe('internal');
});
