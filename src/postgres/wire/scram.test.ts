/** SCRAM without Postgres: every password finds its verifier and no other, whatever is sent. */
import fc from 'fast-check';
import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { createPasswordChecker } from './password-checker.ts';
import { saslprep } from './saslprep.ts';
import {
  SCRAM_SHA_256,
  SCRAM_SHA_256_PLUS,
  ScramError,
  buildVerifier,
  checkPassword,
  createScramClient,
  createScramServer,
  formatVerifier,
  mockVerifier,
  parseVerifier,
} from './scram.ts';
import type { ScramMechanism, ScramVerifier } from './scram.ts';

const QUICK = { iterations: 2 };
const HASH = createHash('sha256').update('a certificate').digest();

const hmac = (key: Buffer, text: string) => createHmac('sha256', key).update(text).digest();

/** A client that knows the password, written from RFC 5802 and independent of the code under test. */
function passwordClient(password: string, header: string, binding: Buffer) {
  const nonce = randomBytes(12).toString('hex');
  const bare = `n=,r=${nonce}`;
  return {
    first: `${header}${bare}`,
    final(serverFirst: string, change: { nonce?: string; binding?: string } = {}) {
      const [, serverNonce, salt, iterations] = /^r=(.*),s=(.*),i=(\d+)$/.exec(serverFirst)!;
      const salted = pbkdf2Sync(password, Buffer.from(salt!, 'base64'), Number(iterations), 32, 'sha256');
      const channel = change.binding ?? Buffer.concat([Buffer.from(header), binding]).toString('base64');
      const withoutProof = `c=${channel},r=${change.nonce ?? serverNonce}`;
      const clientKey = hmac(salted, 'Client Key');
      const stored = createHash('sha256').update(clientKey).digest();
      const signature = hmac(stored, `${bare},${serverFirst},${withoutProof}`);
      const proof = Buffer.from(clientKey.map((byte, i) => byte ^ signature[i]!));
      return `${withoutProof},p=${proof.toString('base64')}`;
    },
  };
}

async function verifierOf(password: string): Promise<ScramVerifier> {
  return parseVerifier(await buildVerifier(password, QUICK))!;
}

interface Offer {
  mechanism?: ScramMechanism;
  endPointHash?: Buffer;
}

const serverFor = (verifier: ScramVerifier, { mechanism = SCRAM_SHA_256, endPointHash }: Offer = {}) =>
  createScramServer({ mechanism, verifier, endPointHash });

describe('verifiers', () => {
  test('survive formatting and parsing', async () => {
    const text = await buildVerifier('pencil', { salt: Buffer.from('0123456789abcdef') });
    expect(text).toMatch(/^SCRAM-SHA-256\$4096:MDEyMzQ1Njc4OWFiY2RlZg==\$.{44}:.{44}$/);
    expect(formatVerifier(parseVerifier(text)!)).toBe(text);
  });

  test.each([
    '',
    'md5a6b2f0d9c0a1e0b7d7c8e9f0a1b2c3d4',
    'SCRAM-SHA-256$4096:MDEy$AAAA:BBBB',
    `SCRAM-SHA-256$0:MDEy$${'A'.repeat(43)}=:${'A'.repeat(43)}=`,
    `SCRAM-SHA-256$999999999:MDEy$${'A'.repeat(43)}=:${'A'.repeat(43)}=`,
  ])('%s is none', (text) => {
    expect(parseVerifier(text)).toBeUndefined();
  });

  test('a mock is the same for the same role, differs between roles and looks like a real one', async () => {
    const secret = randomBytes(32);
    const mock = mockVerifier(secret, 'ep-a role');
    expect(mock).toEqual(mockVerifier(secret, 'ep-a role'));
    expect(mock.salt).not.toEqual(mockVerifier(secret, 'ep-a other').salt);
    const real = parseVerifier(await buildVerifier('x'))!;
    expect(formatVerifier(mock).length).toBe(formatVerifier(real).length);
    expect(mock.iterations).toBe(real.iterations);
  });
});

describe('an exchange', () => {
  test('ends well with the right password and reveals a key that logs in elsewhere', async () => {
    await fc.assert(
      fc.asyncProperty(fc.string({ minLength: 1, unit: 'grapheme-ascii' }), async (password) => {
        const verifier = await verifierOf(password);
        const server = serverFor(verifier);
        const client = passwordClient(password, 'n,,', Buffer.alloc(0));
        const proof = server.final(client.final(server.first(client.first)));
        const checked = proof.check(verifier)!;
        expect(createHash('sha256').update(checked.clientKey).digest()).toEqual(verifier.storedKey);

        const compute = serverFor(verifier);
        const own = createScramClient({ clientKey: checked.clientKey, serverKey: verifier.serverKey });
        const again = compute.final(own.final(compute.first(own.first()))).check(verifier)!;
        expect(own.verify(again.serverFinal)).toBe(true);
        expect(own.verify(checked.serverFinal)).toBe(false);
      }),
      { numRuns: 50 },
    );
  });

  test('fails with any other password, and against a mock', async () => {
    await fc.assert(
      fc.asyncProperty(fc.string({ minLength: 1 }), fc.string({ minLength: 1 }), async (right, wrong) => {
        fc.pre(saslprep(right) !== wrong);
        const mock = mockVerifier(randomBytes(32), right);
        for (const verifier of [await verifierOf(right), { ...mock, iterations: 2 }]) {
          const server = serverFor(verifier);
          const client = passwordClient(wrong, 'n,,', Buffer.alloc(0));
          expect(server.final(client.final(server.first(client.first))).check(verifier)).toBeUndefined();
        }
      }),
      { numRuns: 50 },
    );
  });

  test('cannot be checked against a verifier with another salt, but against one with the same', async () => {
    const salt = randomBytes(16);
    const [old, renewed, elsewhere] = await Promise.all([
      buildVerifier('old', { ...QUICK, salt }),
      buildVerifier('new', { ...QUICK, salt }),
      buildVerifier('new', QUICK),
    ]).then((texts) => texts.map((text) => parseVerifier(text)!));
    const server = serverFor(old!);
    const client = passwordClient('new', 'n,,', Buffer.alloc(0));
    const proof = server.final(client.final(server.first(client.first)));
    expect(proof.check(old!)).toBeUndefined();
    expect(proof.check(elsewhere!)).toBeUndefined();
    expect(proof.check(renewed!)).toBeDefined();
  });

  test('binds to the certificate with -PLUS', async () => {
    const verifier = await verifierOf('x');
    const offer = { mechanism: SCRAM_SHA_256_PLUS, endPointHash: HASH } as const;
    const header = 'p=tls-server-end-point,,';
    const good = passwordClient('x', header, HASH);
    const server = serverFor(verifier, offer);
    expect(server.final(good.final(server.first(good.first))).check(verifier)).toBeDefined();

    const between = passwordClient('x', header, createHash('sha256').update('another').digest());
    const other = serverFor(verifier, offer);
    const first = other.first(between.first);
    expect(() => other.final(between.final(first))).toThrow('SCRAM channel binding check failed');
  });

  test.each<[string, string, Offer, string]>([
    ['y where binding was offered: a downgrade', 'y,,', { endPointHash: HASH }, 'negotiation error'],
    ['p without -PLUS', 'p=tls-server-end-point,,', { endPointHash: HASH }, 'without selecting'],
    ['p without TLS', 'p=tls-server-end-point,,', {}, 'without selecting'],
    ['-PLUS with n', 'n,,', { mechanism: SCRAM_SHA_256_PLUS, endPointHash: HASH }, 'without channel binding'],
    ['-PLUS with y', 'y,,', { mechanism: SCRAM_SHA_256_PLUS, endPointHash: HASH }, 'without channel binding'],
    ['another binding', 'p=tls-unique,,', { mechanism: SCRAM_SHA_256_PLUS, endPointHash: HASH }, 'unsupported'],
    ['an authorization identity', 'n,a=admin,', {}, 'authorization identity'],
    ['a mandatory extension', 'n,,m=x,', {}, 'malformed'],
  ])('refuses %s', async (_title, header, offer, message) => {
    const server = serverFor(await verifierOf('x'), offer);
    expect(() => server.first(`${header}n=,r=abcdef`)).toThrow(message);
  });

  test('accepts y where binding was not offered, and its c= must say y too', async () => {
    const verifier = await verifierOf('x');
    const client = passwordClient('x', 'y,,', Buffer.alloc(0));
    const server = serverFor(verifier);
    const first = server.first(client.first);
    expect(() => server.final(client.final(first, { binding: 'biws' }))).toThrow('channel binding check');
    expect(server.final(client.final(first)).check(verifier)).toBeDefined();
  });

  test('refuses a nonce that is not the one it gave, and a final message out of turn', async () => {
    const server = serverFor(await verifierOf('x'));
    const client = passwordClient('x', 'n,,', Buffer.alloc(0));
    expect(() => server.final('c=biws,r=,p=AAAA')).toThrow(ScramError);
    const first = server.first(client.first);
    expect(() => server.final(client.final(first, { nonce: 'stale' }))).toThrow('nonce');
  });

  test('takes any text without throwing anything but ScramError', async () => {
    const verifier = await verifierOf('x');
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (first, final) => {
        for (const [one, two] of [
          [first, final],
          ['n,,n=,r=abc', final],
        ]) {
          try {
            const server = serverFor(verifier);
            server.first(one!);
            expect(server.final(two!).check(verifier)).toBeUndefined();
          } catch (error) {
            expect(error).toBeInstanceOf(ScramError);
          }
        }
      }),
    );
  });
});

describe('cleartext passwords', () => {
  test('fit their verifier only, from memory too', async () => {
    const checker = createPasswordChecker(2);
    const verifier = await verifierOf('right');
    const key = await checkPassword('right', verifier);
    expect(key).toBeDefined();
    expect(await checkPassword('wrong', verifier)).toBeUndefined();
    for (let round = 0; round < 2; round += 1) {
      expect(await checker.check('right', verifier)).toEqual(key);
      expect(await checker.check('wrong', verifier)).toBeUndefined();
      expect(await checker.check('right', await verifierOf('other'))).toBeUndefined();
    }
  });
});

describe('SASLprep', () => {
  test.each([
    ['pencil', 'pencil'],
    ['\u0007bell', '\u0007bell'],
    ['I\u00adX', 'IX'],
    ['\u00aa', 'a'],
    ['\u2168', 'IX'],
    ['a\u00a0b\u3000c', 'a b c'],
    // Prohibited, unassigned in Unicode 3.2, mixed directions, nothing left: as they are.
    ['\u00e9\u0007', '\u00e9\u0007'],
    ['\u00aa\u{1f600}', '\u00aa\u{1f600}'],
    ['\u0627\u0031', '\u0627\u0031'],
    ['\u00ad', '\u00ad'],
  ])('%j becomes %j', (input, output) => {
    expect(saslprep(input)).toBe(output);
  });

  test('leaves ASCII alone', () => {
    fc.assert(fc.property(fc.string({ unit: 'binary-ascii' }), (text) => saslprep(text) === text));
  });
});
