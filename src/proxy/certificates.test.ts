/** The local authority and its leaf: made once, kept, renewed in time, and never in the way of the user's own files. */
import { spawnSync } from 'node:child_process';
import { X509Certificate, createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, stat, unlink, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import tls from 'node:tls';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { permittedNames } from '../lib/name-constraints.ts';
import { endPointHash, loadCertificates } from './certificates.ts';

const DAY_MS = 86_400_000;
let directory: string;
const load = (options: { domain?: string; now?: Date; tlsCert?: string; tlsKey?: string } = {}) =>
  loadCertificates({
    home: { tls: path.join(directory, 'tls') },
    config: { domain: options.domain ?? 'db.example.com', tlsCert: options.tlsCert, tlsKey: options.tlsKey },
    ...(options.now && { now: options.now }),
  });

beforeEach(async () => {
  directory = await mkdtemp(path.join(os.tmpdir(), 'ballast-tls-'));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

describe('the local certificate', () => {
  test('covers the domain, is signed by the local authority and has private keys', async () => {
    const { cert, caFile } = await load();
    const leaf = new X509Certificate(cert);
    const authority = new X509Certificate(await readFile(caFile!));
    expect(leaf.verify(authority.publicKey)).toBe(true);
    expect(leaf.checkIssued(authority)).toBe(true);
    expect(authority.ca).toBe(true);
    expect(leaf.ca).toBe(false);
    for (const host of ['ep-cool-river-1.db.example.com', 'db.example.com', 'localhost']) {
      expect(leaf.checkHost(host), host).toBeDefined();
    }
    expect(leaf.checkHost('a.b.db.example.com')).toBeUndefined();
    expect(leaf.checkIP('127.0.0.1')).toBeDefined();
    expect(leaf.checkIP('::1')).toBeDefined();
    expect(Date.parse(leaf.validTo) - Date.parse(leaf.validFrom)).toBeLessThanOrEqual(397 * DAY_MS);
    for (const file of ['ca-key.pem', 'server-key.pem']) {
      expect((await stat(path.join(directory, 'tls', file))).mode & 0o777).toBe(0o600);
    }
  });

  test('is kept from start to start, on localhost too', async () => {
    for (const domain of ['db.example.com', 'localhost']) {
      expect((await load({ domain })).cert).toBe((await load({ domain })).cert);
    }
  });

  test('is made anew by the same authority before it ends, and when its key is lost', async () => {
    const first = await load();
    const authority = await readFile(first.caFile!, 'utf8');
    const renewAt = first.renewAt!.getTime();
    expect((await load({ now: new Date(renewAt - DAY_MS) })).cert).toBe(first.cert);
    const renewed = await load({ now: new Date(renewAt + DAY_MS) });
    expect(renewed.cert).not.toBe(first.cert);
    await unlink(path.join(directory, 'tls', 'server-key.pem'));
    expect((await load()).cert).not.toBe(renewed.cert);
    expect(await readFile(first.caFile!, 'utf8')).toBe(authority);
  });

  test('of another domain comes from another authority, and says so', async () => {
    const first = await load();
    expect(first.authorityReplaced).toBe(false);
    expect((await load()).authorityReplaced).toBe(false);
    const authority = await readFile(first.caFile!, 'utf8');
    const moved = await load({ domain: 'other.example.com' });
    expect(moved.authorityReplaced).toBe(true);
    expect(new X509Certificate(moved.cert).checkHost('ep-a.other.example.com')).toBeDefined();
    expect(await readFile(first.caFile!, 'utf8')).not.toBe(authority);
  });

  test('is trusted by a TLS client that knows the authority', async () => {
    const { cert, key, caFile } = await load();
    const server = tls.createServer({ cert, key }, (socket) => socket.end('hello'));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    const ca = await readFile(caFile!);
    const authorized = await new Promise((resolve, reject) => {
      const client = tls.connect({ port, host: '127.0.0.1', servername: 'ep-a.db.example.com', ca }, () => {
        resolve(client.authorized);
        client.destroy();
      });
      client.on('error', reject);
    });
    server.close();
    expect(authorized).toBe(true);
  });
});

describe.skipIf(spawnSync('openssl', ['version']).status !== 0)('to OpenSSL (skipped without openssl)', () => {
  const at = (file: string) => path.join(directory, file);
  const openssl = (...args: string[]) => {
    const { status, stderr } = spawnSync('openssl', args, { encoding: 'utf8' });
    return { status, stderr };
  };

  test('an authority that could vouch for any name is replaced', async () => {
    const { caFile } = await load();
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-keyout', at('tls/ca-key.pem')];
    const made = openssl('req', '-x509', '-nodes', ...key, '-days', '3000', '-subj', '/CN=any', '-out', caFile!);
    expect(made).toMatchObject({ status: 0 });
    expect(permittedNames(await readFile(caFile!, 'utf8'))).toBeUndefined();
    expect((await load()).authorityReplaced).toBe(true);
    expect(permittedNames(await readFile(caFile!, 'utf8'))).toEqual({
      dns: ['db.example.com', 'localhost'],
      ip: ['127.0.0.0/8', '::1/128'],
    });
  });

  test('the leaf is in order', async () => {
    const { caFile } = await load({ domain: 'localhost' });
    const verified = openssl(
      'verify',
      '-purpose',
      'sslserver',
      '-x509_strict',
      '-CAfile',
      caFile!,
      at('tls/server.pem'),
    );
    expect(verified).toMatchObject({ status: 0 });
  });

  test.each([
    ['DNS:ep-a.db.example.com', true],
    ['DNS:ep-a.localhost', true],
    ['IP:127.0.0.9', true],
    ['DNS:example.com', false],
    ['DNS:db.example.com.evil.test', false],
    ['IP:10.0.0.1', false],
  ])('the authority is good for %s: %s', async (name, taken) => {
    const { caFile } = await load();
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-keyout', at('key')];
    expect(openssl('req', '-new', '-nodes', ...key, '-subj', '/O=x', '-out', at('csr'))).toMatchObject({ status: 0 });
    await writeFile(at('names'), `subjectAltName=${name}`);
    const signer = ['-CA', caFile!, '-CAkey', at('tls/ca-key.pem'), '-CAserial', at('serial'), '-CAcreateserial'];
    const signed = openssl('x509', '-req', '-in', at('csr'), ...signer, '-extfile', at('names'), '-out', at('leaf'));
    expect(signed).toMatchObject({ status: 0 });
    const verified = openssl('verify', '-purpose', 'sslserver', '-CAfile', caFile!, at('leaf'));
    expect(verified.status === 0, verified.stderr).toBe(taken);
    if (!taken) expect(verified.stderr).toContain('permitted subtree violation');
  });
});

describe("the user's certificate", () => {
  test('is used as it is, without a local authority', async () => {
    const local = await load();
    const files = { tlsCert: path.join(directory, 'mine.pem'), tlsKey: path.join(directory, 'mine-key.pem') };
    await writeFile(files.tlsCert, local.cert);
    await writeFile(files.tlsKey, local.key);
    const loaded = await load(files);
    expect(loaded).toMatchObject({ cert: local.cert, key: local.key, caFile: undefined, renewAt: undefined });
  });

  test.each([
    ['is missing', undefined],
    ['is no certificate', 'nonsense'],
  ])('that %s is an error that names the flags', async (_title, content) => {
    const tlsCert = path.join(directory, 'mine.pem');
    if (content !== undefined) await writeFile(tlsCert, content);
    await expect(load({ tlsCert, tlsKey: tlsCert })).rejects.toThrow('--tls-cert and --tls-key cannot be used');
  });

  test('with the key of another is refused', async () => {
    const local = await load();
    const tlsCert = path.join(directory, 'mine.pem');
    await writeFile(tlsCert, local.cert);
    const tlsKey = path.join(directory, 'tls', 'ca-key.pem');
    await expect(load({ tlsCert, tlsKey })).rejects.toThrow('the key is not the one of the certificate');
  });
});

test('channel binding hashes the leaf with the hash of its signature', async () => {
  const { cert, endPointHash: hash } = await load();
  expect(hash).toEqual(createHash('sha256').update(new X509Certificate(cert).raw).digest());
  expect(endPointHash(SHA384_CERTIFICATE)).toEqual(
    createHash('sha384').update(new X509Certificate(SHA384_CERTIFICATE).raw).digest(),
  );
  expect(endPointHash(SHA1_CERTIFICATE)).toEqual(
    createHash('sha256').update(new X509Certificate(SHA1_CERTIFICATE).raw).digest(),
  );
  expect(endPointHash(ED25519_CERTIFICATE)).toBeUndefined();
});

const SHA384_CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIBqzCCATKgAwIBAgIUOAfxgGkSKYq45JoI2pxInCh2TYYwCgYIKoZIzj0EAwMw
DDEKMAgGA1UEAwwBYTAgFw0yNjExMjMxNjQxNTBaGA8yMDU0MDQwOTE2NDE1MFow
DDEKMAgGA1UEAwwBYTB2MBAGByqGSM49AgEGBSuBBAAiA2IABAr6rytICaFCbsH5
ql2orp05S7zV/rY7Eg4he7fQWl1vOdAKa87m57cn1z8KsZHFWc5OyGFSzTcJ2lMU
XRjtw8lf4cPn1dNXOu1OUy1cUzBT7NVORyRv2aPHzzktk6wDGaNTMFEwHQYDVR0O
BBYEFLpYIDd6EbNj8pXt8iz5VoQhXwEXMB8GA1UdIwQYMBaAFLpYIDd6EbNj8pXt
8iz5VoQhXwEXMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwMDZwAwZAIvAiTM
A/yxHtyaP4fA0oxsK/p+Dar77a/kV7JS+u/Z6PQjxPCzhH6CZNw+uFq30RECMQDt
KJ/3AzGSXscd/L5AWE0O9xWp0iqDWqw1N5FgUQnaFxtf3EurRIQ1pS+VxlGrltI=
-----END CERTIFICATE-----`;

const SHA1_CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIB9jCCAV+gAwIBAgIUFRKfo12MfRldyZiOZrf18SpJE0owDQYJKoZIhvcNAQEF
BQAwDDEKMAgGA1UEAwwBYTAgFw0yNjExMjMxNjQxNTBaGA8yMDU0MDQwOTE2NDE1
MFowDDEKMAgGA1UEAwwBYTCBnzANBgkqhkiG9w0BAQEFAAOBjQAwgYkCgYEAqpx8
di9SWzeUFwQjIjbJYyT4R6XX9X9b+X7Pm0hghXnqWUwejdrIynyGgrNnXILPLpdX
Rjr8cSYoXu/xejouWGDKAjnsiLHgB+0ubaTDdEi4NUFaNi0FJ0CQ7Usjv1azK3sW
3fNI4aPWuo3zyIb/EhzxieC0C/lB/AuIFi6YC3ECAwEAAaNTMFEwHQYDVR0OBBYE
FNFIm5aPo1OLHEAkDCrPFAhF9rw0MB8GA1UdIwQYMBaAFNFIm5aPo1OLHEAkDCrP
FAhF9rw0MA8GA1UdEwEB/wQFMAMBAf8wDQYJKoZIhvcNAQEFBQADgYEAYKqQhlRG
TP7OeYl4l+Xj1uuQY5wVzU30B368uYn7o2e6OUtHjL5grZsv8iMWeiRD+AYQhLma
WLIxxKFG2/VE1TS35Ozi352ut1k5RthybEZhfbGbdp54hMSoObBkQy7a7PAQDTdj
LesnyGS4lti6WXVrZXk9lP/lYUXnfAWPUwg=
-----END CERTIFICATE-----`;

const ED25519_CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIBLjCB4aADAgECAhR5jo0COvcGgeODgNEU3GF3rfuLmjAFBgMrZXAwDDEKMAgG
A1UEAwwBYTAgFw0yNjExMjMxNjQxNTBaGA8yMDU0MDQwOTE2NDE1MFowDDEKMAgG
A1UEAwwBYTAqMAUGAytlcAMhAEOav/L3KJPol3sUIhB/lw1EwoSpeCoAlZwC+nL4
d0Mzo1MwUTAdBgNVHQ4EFgQUkrUkA2RwcSkmE5nA9QGF0L0qrcUwHwYDVR0jBBgw
FoAUkrUkA2RwcSkmE5nA9QGF0L0qrcUwDwYDVR0TAQH/BAUwAwEB/zAFBgMrZXAD
QQCGsGsSUwCaigdcKJUwCAc3PUvyWSQzTvVGZXGIF1Wb6F0aVwlNazVdVWc5KqXw
9TxoeamRhpKgk+mqbYqqFUkJ
-----END CERTIFICATE-----`;
