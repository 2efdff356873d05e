/**
 * Who has not proved that he may enter wakes nothing: a hundred failed logins of every kind and a port scan leave a
 * sleeping compute asleep, without an operation and without a process.
 */
import net from 'node:net';
import tls from 'node:tls';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { failureOf, query, scalar, uriWith } from '../support/sql.ts';
import { inParallel } from '../support/wait.ts';

let ballast: Ballast;
let place: Place;

beforeAll(async () => {
  ballast = await Ballast.boot();
  place = await ballast.api.createProject({ name: 'asleep' });
  await ballast.api.suspend(place);
}, 150_000);

afterAll(async () => {
  await ballast?.destroy();
});

async function expectAsleep(operationsBefore: number): Promise<void> {
  expect(await ballast.api.endpointState(place)).toBe('idle');
  const { operations } = await ballast.api.call('GET', `/projects/${place.projectId}/operations?limit=1000`);
  expect(operations).toHaveLength(operationsBefore);
  expect((await ballast.postgresProcesses()).filter((fact) => fact.cwd.includes(place.branchId))).toEqual([]);
}

const operationCount = async () =>
  (await ballast.api.call('GET', `/projects/${place.projectId}/operations?limit=1000`)).operations.length as number;

test('a hundred failed logins', async () => {
  const before = await operationCount();
  const attempts = Array.from({ length: 100 }, (_, n) => async () => {
    const uris = [
      uriWith(place, { password: `wrong-${n}` }),
      uriWith(place, { role: `nobody_${n}` }),
      uriWith(place, { role: 'cloud_admin' }),
      place.uri.replaceAll(place.endpointId, 'ep-none-none-00000000'),
    ];
    return failureOf(() => query(uris[n % uris.length]!, 'select 1'));
  });
  const failures = await inParallel(10, attempts);
  expect(failures.filter((failure) => failure === undefined)).toEqual([]);
  // An unknown endpoint has a text of its own; an unknown role must not be told from a wrong password.
  const byRole = failures.filter((_, n) => n % 4 < 3).map((failure) => failure?.message.replace(/'.*'/, "'…'"));
  expect(new Set(byRole)).toEqual(new Set(["password authentication failed for user '…'"]));
  await expectAsleep(before);
});

/** Sends the bytes, then hangs up at the first answer or after a moment. */
function poke(bytes: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    const socket = net.connect(ballast.pgPort, '127.0.0.1', () => {
      if (bytes.length === 0) socket.end();
      else socket.write(bytes);
    });
    const finish = () => {
      socket.destroy();
      resolve();
    };
    socket.setTimeout(300, finish);
    socket.once('data', finish).once('error', finish).once('close', finish);
  });
}

function startup(parameters: Record<string, string>): Buffer {
  const body = Buffer.from(`${Object.entries(parameters).flat().join('\0')}\0\0`);
  const head = Buffer.alloc(8);
  head.writeInt32BE(body.length + 8, 0);
  head.writeInt32BE(196_608, 4);
  return Buffer.concat([head, body]);
}

test('a port scan', async () => {
  expect.hasAssertions();
  const before = await operationCount();
  const endless = Buffer.alloc(64, 0xff);
  const known = startup({ user: place.role, database: place.database, options: `endpoint=${place.endpointId}` });
  const probes = [
    Buffer.alloc(0),
    Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'),
    endless,
    Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]),
    Buffer.from([0, 0, 0, 0]),
    known.subarray(0, 12),
    known,
    startup({ user: '' }),
    Buffer.from('\x16\x03\x01\x02\x00\x01'),
  ];
  await inParallel(
    10,
    probes.flatMap((probe) => Array.from({ length: 6 }, () => () => poke(probe))),
  );
  await new Promise<void>((resolve) => {
    const socket = tls.connect(
      {
        port: ballast.pgPort,
        host: '127.0.0.1',
        servername: `${place.endpointId}.localhost`,
        ALPNProtocols: ['postgresql'],
        rejectUnauthorized: false,
      },
      () => {
        socket.end();
      },
    );
    socket.once('error', () => resolve()).once('close', () => resolve());
  });
  await expectAsleep(before);
});

test('the right password still wakes it', async () => {
  expect(await scalar(place.uri, 'select 1')).toBe(1);
  expect(await ballast.api.endpointState(place)).toBe('active');
});
