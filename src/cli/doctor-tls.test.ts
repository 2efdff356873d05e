import 'reflect-metadata';
import { webcrypto } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import os from 'node:os';
import net from 'node:net';
import path from 'node:path';
import tls from 'node:tls';
import * as x509 from '@peculiar/x509';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { nameConstraintsExtension } from '../lib/name-constraints.ts';
import { checkCertificate, checkTrust } from './doctor-tls.ts';
import type { DoctorContext } from './finding.ts';

const DAY_MS = 86_400_000;
let directory: string;
let server: tls.Server | undefined;

beforeEach(async () => {
  directory = await mkdtemp(path.join(os.tmpdir(), 'ballast-doctor-tls-'));
  await mkdir(path.join(directory, 'tls'));
});
afterEach(async () => {
  server?.close();
  await rm(directory, { recursive: true, force: true });
});

/** Signed by itself, which is as good as an authority once it is known. */
async function certificate(name: string, days: number, extensions: x509.Extension[] = []) {
  const signingAlgorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = await webcrypto.subtle.generateKey(signingAlgorithm, true, ['sign', 'verify']);
  const names = new x509.SubjectAlternativeNameExtension([{ type: 'dns', value: name }]);
  const notAfter = new Date(Date.now() + days * DAY_MS);
  const made = await x509.X509CertificateGenerator.createSelfSigned(
    { name: 'CN=test', notAfter, signingAlgorithm, keys, extensions: [names, ...extensions] },
    webcrypto,
  );
  const der = await webcrypto.subtle.exportKey('pkcs8', keys.privateKey);
  return { cert: made.toString('pem'), key: x509.PemConverter.encode(der, 'PRIVATE KEY') };
}

async function contextWith(shown: { cert: string; key: string }, known?: string): Promise<DoctorContext> {
  if (known !== undefined) await writeFile(path.join(directory, 'tls/ca.pem'), known);
  server = tls.createServer(shown, (socket) => socket.on('error', () => undefined));
  await new Promise<void>((resolve) => server!.listen(0, '127.0.0.1', resolve));
  const running = { pgHost: '127.0.0.1', pgPort: (server.address() as AddressInfo).port, domain: 'db.test' };
  return { home: { dataDir: directory, tls: path.join(directory, 'tls') }, running, uid: 1000 } as DoctorContext;
}

const HOST = 'ep-doctor-check-00000000.db.test';

test('a certificate for the host, of a known authority, is in order; soon before its end it is to be renewed', async () => {
  for (const [days, level] of [
    [40, 'ok'],
    [5, 'warn'],
  ] as const) {
    const shown = await certificate(HOST, days);
    expect(await checkCertificate(await contextWith(shown, shown.cert))).toMatchObject([
      { level, name: 'certificate' },
    ]);
    server!.close();
  }
});

test('behind the PROXY protocol it speaks for itself', async () => {
  const shown = await certificate(HOST, 40);
  const context = await contextWith(shown, shown.cert);
  const behind = context.running!.pgPort;
  let header = '';
  const front = net.createServer((socket) => {
    socket.once('readable', () => {
      header = (socket.read(16) as Buffer).toString('latin1');
      const onward = net.connect(behind, '127.0.0.1');
      socket.pipe(onward).pipe(socket);
      for (const each of [socket, onward]) each.on('error', () => undefined);
    });
  });
  await new Promise<void>((resolve) => front.listen(0, '127.0.0.1', resolve));
  Object.assign(context.running!, { pgPort: (front.address() as AddressInfo).port, proxyProtocol: 'v2' });
  expect(await checkCertificate(context)).toMatchObject([{ level: 'ok', name: 'certificate' }]);
  expect(header).toBe('\r\n\r\n\0\r\nQUIT\n\x20\0\0\0');
  front.close();
});

test.each([
  ['of another host', 'ep-other.db.test', true, 'ERR_TLS_CERT_ALTNAME_INVALID'],
  ['of an unknown authority', HOST, false, 'DEPTH_ZERO_SELF_SIGNED_CERT'],
])('a certificate %s is refused by clients', async (_title, name, known, error) => {
  const shown = await certificate(name, 40);
  const context = await contextWith(shown, known ? shown.cert : undefined);
  const [finding] = await checkCertificate(context);
  expect(finding).toMatchObject({ level: 'warn', text: expect.stringContaining(error) });
  expect(await checkCertificate({ ...context, running: undefined })).toEqual([]);
});

test('an authority that could vouch for any name is named; one that is limited is offered', async () => {
  const machine = { root: path.join(directory, 'root'), platform: 'linux', env: {}, uid: 1000 } as const;
  await mkdir(path.join(machine.root, 'etc/pki/trust/anchors'), { recursive: true });
  const any = await certificate(HOST, 40);
  const context = await contextWith(any);
  expect(await checkTrust(context, machine)).toEqual([]);
  await writeFile(path.join(directory, 'tls/ca.pem'), any.cert);
  expect(await checkTrust(context, machine)).toMatchObject([
    { level: 'warn', text: expect.stringContaining('any name') },
  ]);
  const limits = nameConstraintsExtension({ dns: ['db.test'], ip: ['127.0.0.0/8'] });
  await writeFile(path.join(directory, 'tls/ca.pem'), (await certificate(HOST, 40, [limits])).cert);
  expect(await checkTrust(context, machine)).toMatchObject([
    { level: 'ok', fix: `sudo ballast trust --data-dir ${directory}` },
  ]);
});
