/**
 * Two thousand pooled clients on one compute of the smallest size: nobody is refused, everybody gets the answers to
 * their own questions, and all of them live through the sleep of their compute. Prints what an idle one costs.
 */
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { scalar } from '../support/sql.ts';
import { inParallel } from '../support/wait.ts';
import { WireClient, firstColumn, say, typesOf } from '../support/wire-client.ts';

const PER_KIND = 1_000;
/** Logins at a time. */
const WIDTH = 32;
const ROUNDS = 3;

let ballast: Ballast;
let place: Place;
let clients: WireClient[] = [];

beforeAll(async () => {
  ballast = await Ballast.boot();
  const smallest = { autoscaling_limit_min_cu: 0.25, autoscaling_limit_max_cu: 0.25, suspend_timeout_seconds: 0 };
  place = await ballast.api.createProject({ name: 'crowded', default_endpoint_settings: smallest });
  await scalar(ballast.uri(place), 'create table seen (client int, round int)');
}, 150_000);

afterAll(async () => {
  for (const { socket } of clients) socket.destroy();
  clients = [];
  await ballast?.destroy();
});

async function residentKilobytes(): Promise<number> {
  const status = await readFile(`/proc/${ballast.pid}/status`, 'utf8').catch(() => '');
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? Number.NaN);
}

async function join(encrypted: boolean): Promise<void> {
  const { role: user, password, database, endpointId } = place;
  const endpoint = `${endpointId}-pooler`;
  const logIn = () => WireClient.logIn({ port: ballast.pgPort, endpoint, user, password, database, encrypted });
  const before = await residentKilobytes();
  clients.push(
    ...(await inParallel(
      WIDTH,
      Array.from({ length: PER_KIND }, () => logIn),
    )),
  );
  const each = (await residentKilobytes()) - before;
  const kind = encrypted ? 'with TLS' : 'without TLS';
  console.log(`an idle pooled client ${kind} costs ${(each / PER_KIND).toFixed(1)} kB, of ${PER_KIND}`);
}

/** A transaction of two messages, which nobody else may come between, and a prepared statement. */
async function work(client: WireClient, id: number, round: number): Promise<void> {
  const begun = await client.ask([say.query(`begin; insert into seen values (${id}, ${round}) returning client`)]);
  expect(firstColumn(begun)).toEqual([String(id)]);
  const counted = await client.ask([say.query(`select count(*) from seen where client = ${id}; commit`)]);
  expect(firstColumn(counted)).toEqual([String(round + 1)]);
  const parse = round === 0 ? [say.parse('own', `select $1 || ' of ${id % 10}'`)] : [];
  const asked = await client.ask([...parse, say.bind('own', [String(id)]), say.execute(), say.sync()]);
  expect(firstColumn(asked)).toEqual([`${id} of ${id % 10}`]);
}

test('all of them come in', async () => {
  await join(false);
  await join(true);
  expect(clients.filter(({ ended }) => ended)).toEqual([]);
});

test('all of them work at once', async () => {
  await Promise.all(
    clients.map(async (client, id) => {
      for (let round = 0; round < ROUNDS; round += 1) await work(client, id, round);
    }),
  );
  expect(Number(await scalar(ballast.uri(place), 'select count(*) from seen'))).toBe(2 * PER_KIND * ROUNDS);
});

test('all of them live through the sleep of the compute, and wake it', async () => {
  await ballast.api.suspend(place);
  expect(await ballast.api.endpointState(place)).toBe('idle');
  expect(clients.filter(({ ended }) => ended)).toEqual([]);
  const answers = await Promise.all(
    clients.map((client, id) => client.ask([say.bind('own', [String(id)]), say.execute(), say.sync()])),
  );
  expect(answers.map((answer) => firstColumn(answer)[0])).toEqual(clients.map((_, id) => `${id} of ${id % 10}`));
  // Whatever was said meanwhile was said to those who had asked.
  expect(clients.map((client) => typesOf(client.unread())).join('')).toBe('');
  expect(await ballast.api.endpointState(place)).toBe('active');
});
