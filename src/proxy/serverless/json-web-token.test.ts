import { createServer } from 'node:http';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { SignJWT } from 'jose';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { makeKey, signToken, startIssuer, unsignedToken } from '../../../test/support/json-web-keys.ts';
import type { Issuer, SigningKey } from '../../../test/support/json-web-keys.ts';
import { waitFor } from '../../../test/support/wait.ts';
import { silentLogger } from '../../lib/log.ts';
import { checkToken } from './json-web-token.ts';
import { createKeySets } from './key-sets.ts';

let keys: SigningKey[];
const closing: (() => unknown)[] = [];
beforeAll(async () => {
  keys = await Promise.all([makeKey('es'), makeKey('rs', 'RS256'), makeKey('ed', 'EdDSA'), makeKey('es512', 'ES512')]);
});
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

async function issuer(published = keys): Promise<Issuer> {
  const started = await startIssuer(published.map(({ jwk }) => jwk));
  closing.push(() => started.close());
  return started;
}

/** Key sets with a clock of their own. */
function keySets() {
  let nowMs = 0;
  const sets = createKeySets({ limits: { jwksRefreshMs: 30_000 }, logger: silentLogger(), nowMs: () => nowMs });
  return { sets, passMs: (ms: number) => void (nowMs += ms) };
}

const check = (
  token: string,
  url: string,
  options: { audience?: string; sets?: ReturnType<typeof keySets>['sets'] } = {},
) =>
  checkToken({
    token,
    role: 'authenticated',
    rules: [{ jwksUrl: url, audience: options.audience ?? null, roleNames: ['authenticated'] }],
    keySets: options.sets ?? keySets().sets,
    nowMs: Date.now(),
  });

describe('a token', () => {
  test.each([0, 1, 2])('of key %i is good, and its claims stay as they were written', async (index) => {
    const { url } = await issuer();
    const token = await signToken(keys[index]!, { sub: 'ä', aud: ['x', 'y'] });
    expect(JSON.parse(await check(token, url, { audience: 'y' }))).toMatchObject({ sub: 'ä', aud: ['x', 'y'] });
    const payload = Buffer.from('{"sub":"a","n":12345678901234567890.10}');
    const [header] = token.split('.');
    expect(header).toBeTypeOf('string');
    const { CompactSign } = await import('jose');
    const exact = await new CompactSign(payload)
      .setProtectedHeader({ alg: keys[index]!.algorithm, kid: keys[index]!.id })
      .sign(keys[index]!.privateKey);
    expect(await check(exact, url)).toBe(payload.toString());
  });

  const nowSeconds = () => Math.floor(Date.now() / 1000);
  test.each<[string, () => Promise<string> | string, RegExp]>([
    ['that is none', () => 'token', /not a valid JWT encoding/],
    ['of dots', () => '..', /not a valid JWT encoding/],
    ['without a signature', () => unsignedToken('es', { sub: 'a' }), /^signature algorithm not supported$/],
    ['of an algorithm of no key', () => signToken(keys[3]!, {}), /^signature algorithm not supported$/],
    ['without a key id', () => signToken(keys[0]!, {}, { kid: undefined }), /^missing key id$/],
    ['of a key that is not published', async () => signToken(await makeKey('other'), {}), /^jwk not found$/],
    ['of a key of that name', async () => signToken(await makeKey('es'), {}), /^invalid JWT signature$/],
    [
      'that names another kind of key',
      () => signToken(keys[0]!, {}, { kid: 'rs' }),
      /^signature algorithm not supported$/,
    ],
    ['for others', () => signToken(keys[0]!, { aud: 'x' }), /^invalid JWT token audience$/],
    [
      'that is over',
      () => signToken(keys[0]!, { aud: 'me', exp: nowSeconds() - 31 }),
      /^JWT token has expired \(exp=\d+\)$/,
    ],
    [
      'of tomorrow',
      () => signToken(keys[0]!, { aud: 'me', nbf: nowSeconds() + 90 }),
      /not yet ready to use \(nbf=\d+\)$/,
    ],
  ])('%s is refused', async (_title, token, message) => {
    const { url } = await issuer();
    await expect(check(await token(), url, { audience: 'me' })).rejects.toThrow(message);
  });

  test('signed with the public key as a secret is refused', async () => {
    const { url } = await issuer();
    const secret = Buffer.from(JSON.stringify(keys[1]!.jwk));
    const token = await new SignJWT({ sub: 'a' }).setProtectedHeader({ alg: 'HS256', kid: 'rs' }).sign(secret);
    await expect(check(token, url)).rejects.toThrow('signature algorithm not supported');
  });

  test('that was changed is refused', async () => {
    const { url } = await issuer();
    const [header, , signature] = (await signToken(keys[0]!, { sub: 'a' })).split('.');
    const forged = `${header}.${Buffer.from('{"sub":"b"}').toString('base64url')}.${signature}`;
    await expect(check(forged, url)).rejects.toThrow('invalid JWT signature');
  });

  test('for a role of no rule is refused, without a question', async () => {
    const asked = await issuer();
    const rules = [{ jwksUrl: asked.url, audience: null, roleNames: ['anonymous'] }];
    const token = await signToken(keys[0]!, {});
    const refused = checkToken({ token, role: 'authenticated', rules, keySets: keySets().sets, nowMs: Date.now() });
    await expect(refused).rejects.toThrow('JWKs settings for this role were not configured');
    expect(asked.asked()).toBe(0);
  });
});

describe('published keys', () => {
  test('are asked for once, and for an unknown key only every so often', async () => {
    const asked = await issuer([keys[0]!]);
    const { sets, passMs } = keySets();
    const [good, next] = [await signToken(keys[0]!, {}), await signToken(keys[1]!, {})];
    await Promise.all([1, 2, 3].map(() => check(good, asked.url, { sets })));
    expect(asked.asked()).toBe(1);
    for (let i = 0; i < 5; i += 1) await expect(check(next, asked.url, { sets })).rejects.toThrow('jwk not found');
    expect(asked.asked()).toBe(1);
    asked.keys.push(keys[1]!.jwk);
    passMs(30_000);
    await check(next, asked.url, { sets });
    expect(asked.asked()).toBe(2);
  });

  test('are asked for again beside their use, outlive a short absence, and no long one', async () => {
    const asked = await issuer([keys[0]!]);
    const { sets, passMs } = keySets();
    const token = await signToken(keys[0]!, {});
    await check(token, asked.url, { sets });
    passMs(301_000);
    await check(token, asked.url, { sets });
    await waitFor('the question', async () => asked.asked() === 2, { timeoutMs: 60_000 });
    await asked.close();
    passMs(1_000_000);
    await check(token, asked.url, { sets });
    passMs(3_600_000);
    await expect(check(token, asked.url, { sets })).rejects.toThrow('jwk not found');
  });

  test.each<[string, Parameters<typeof createServer>[1] & object]>([
    [
      'a redirect to a file',
      (_request, response) => void response.writeHead(302, { location: 'file:///etc/passwd' }).end(),
    ],
    ['a redirect without end', (_request, response) => void response.writeHead(302, { location: '/' }).end()],
    ['an error', (_request, response) => void response.writeHead(500).end('{"keys":[]}')],
    ['what is no JSON', (_request, response) => void response.end('keys')],
    ['too much', (_request, response) => void response.end(Buffer.alloc(2 * 1024 * 1024, ' '))],
  ])('are not taken from %s', async (_title, listener) => {
    const server: Server = createServer(listener);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    closing.push(
      () => server.closeAllConnections(),
      () => new Promise((resolve) => server.close(resolve)),
    );
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
    await expect(check(await signToken(keys[0]!, {}), url)).rejects.toThrow('jwk not found');
  });
});
