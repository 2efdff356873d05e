/**
 * JWTs instead of passwords, as browsers use the unmodified @neondatabase/serverless driver (`authToken`): keys of a
 * server of the test, a table with row-level security, and what a JWT must not do.
 */
import { neon, neonConfig } from '@neondatabase/serverless';
import type { JWTPayload } from 'jose';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { makeKey, signToken, startIssuer, unsignedToken } from '../support/json-web-keys.ts';
import type { Issuer, SigningKey } from '../support/json-web-keys.ts';
import { query } from '../support/sql.ts';
import { waitFor } from '../support/wait.ts';

let ballast: Ballast;
let place: Place;
let key: SigningKey;
let issuer: Issuer;
let stranger: { key: SigningKey; issuer: Issuer };
let jwksPath: string;

const SETUP = `create extension pg_session_jwt;
  create table notes (who text not null default auth.user_id(), body text);
  alter table notes enable row level security;
  create policy own on notes to authenticated using ((select auth.user_id()) = who)
    with check ((select auth.user_id()) = who);
  grant select, insert, delete on notes to authenticated;
  insert into notes values ('alice', 'of alice'), ('bob', 'of bob')`;

beforeAll(async () => {
  ballast = await Ballast.boot();
  place = await ballast.api.createProject({ name: 'jwt' });
  key = await makeKey('key of the test', 'RS256');
  issuer = await startIssuer([key.jwk]);
  const othersKey = await makeKey('key of others');
  stranger = { key: othersKey, issuer: await startIssuer([othersKey.jwk]) };
  jwksPath = `/projects/${place.projectId}/jwks`;
  await ballast.api.callAndSettle('POST', jwksPath, {
    jwks_url: issuer.url,
    provider_name: 'test',
    jwt_audience: 'notes',
  });
  const others = await ballast.api.createProject({ name: 'others' });
  await ballast.api.callAndSettle('POST', `/projects/${others.projectId}/jwks`, {
    jwks_url: stranger.issuer.url,
    provider_name: 'test',
  });
  const fetchEndpoint = /fetchEndpoint = \(\) => '(.*)'/.exec(ballast.command(['env']).stdout)?.[1];
  neonConfig.fetchEndpoint = () => fetchEndpoint!;
  for (const statement of SETUP.split(';\n')) await query(place.uri, statement);
}, 150_000);

afterAll(async () => {
  await ballast?.destroy();
  await issuer?.close();
  await stranger?.issuer.close();
});

const uriOf = (role: string, endpointId = place.endpointId) =>
  `postgresql://${role}@${endpointId}.localhost/${place.database}`;
const sqlWith = (authToken: string, role = 'authenticated') => neon(uriOf(role), { authToken });
const tokenOf = (sub: string, claims: JWTPayload = {}) => signToken(key, { sub, aud: 'notes', ...claims });
const sqlOf = async (sub: string) => sqlWith(await tokenOf(sub));

describe('a JWT', () => {
  test('lets its user see and change what is theirs', async () => {
    const [alice, bob] = [await sqlOf('alice'), await sqlOf('bob')];
    expect(await alice`select body from notes`).toEqual([{ body: 'of alice' }]);
    expect(await bob`select body from notes`).toEqual([{ body: 'of bob' }]);
    await alice`insert into notes (body) values ('another')`;
    expect(await alice`select who, body from notes order by body`).toEqual([
      { who: 'alice', body: 'another' },
      { who: 'alice', body: 'of alice' },
    ]);
    await expect(bob`insert into notes values ('alice', 'forged')`).rejects.toMatchObject({ code: '42501' });
    expect(await bob`delete from notes where body = 'another'`).toEqual([]);
    const [, said, rows] = await alice.transaction(
      [
        alice`delete from notes where body = 'another'`,
        alice`select auth.session() as s`,
        alice`select body from notes`,
      ],
      { isolationLevel: 'Serializable' },
    );
    expect(said![0]).toMatchObject({ s: { sub: 'alice', aud: 'notes' } });
    expect(rows).toEqual([{ body: 'of alice' }]);
  });

  test('holds for its own request, though sessions are shared', async () => {
    const names = Array.from({ length: 60 }, (_, n) => (n % 3 === 0 ? 'alice' : n % 3 === 1 ? 'bob' : 'nobody'));
    const seen = await Promise.all(
      names.map(async (name) => await (await sqlOf(name))`select auth.user_id() as id, body from notes`),
    );
    const bodies = { alice: [{ id: 'alice', body: 'of alice' }], bob: [{ id: 'bob', body: 'of bob' }], nobody: [] };
    for (const [index, name] of names.entries()) expect(seen[index], name).toEqual(bodies[name as keyof typeof bodies]);
  });

  test('cannot be made anybody else by SQL', async () => {
    const bob = await sqlOf('bob');
    const tried = await Promise.allSettled([
      bob.transaction([bob`reset all`, bob`set request.jwt.claims = '{"sub":"alice"}'`, bob`select * from notes`]),
      bob.transaction([bob`set local pg_session_jwt.jwt = 'x.{"sub":"alice"}'`, bob`select * from notes`]),
      bob.transaction([
        bob`select set_config('pg_session_jwt.jwt', replace(current_setting('pg_session_jwt.jwt'), 'bob', 'alice'), true)`,
        bob`select * from notes`,
      ]),
      bob`create or replace function auth.user_id() returns text language sql as $$ select 'alice' $$`,
      bob`set session authorization ${place.role}`,
    ]);
    for (const outcome of tried) {
      if (outcome.status === 'fulfilled') expect(JSON.stringify(outcome.value)).not.toContain('of alice');
    }
    expect(tried.filter(({ status }) => status === 'rejected')).toHaveLength(4);
    expect(await (await sqlOf('alice'))`select body from notes`).toEqual([{ body: 'of alice' }]);
  });

  test('wakes a compute that sleeps', async () => {
    await ballast.api.suspend(place);
    expect(await (await sqlOf('bob'))`select body from notes`).toEqual([{ body: 'of bob' }]);
  });
});

describe('is refused', () => {
  const nowSeconds = () => Math.floor(Date.now() / 1000);
  test.each<[string, () => Promise<string> | string, RegExp]>([
    ['for another audience', () => tokenOf('alice', { aud: 'others' }), /invalid JWT token audience/],
    ['when it has expired', () => tokenOf('alice', { exp: nowSeconds() - 60 }), /JWT token has expired \(exp=\d+\)/],
    ['before its time', () => tokenOf('alice', { nbf: nowSeconds() + 600 }), /not yet ready to use \(nbf=\d+\)/],
    ['with the key of another project', () => signToken(stranger.key, { sub: 'alice', aud: 'notes' }), /jwk not found/],
    ['without a signature', () => unsignedToken(key.id, { sub: 'alice', aud: 'notes' }), /algorithm not supported/],
    ['when it is none', () => 'token', /not a valid JWT encoding/],
  ])('%s', async (_title, token, message) => {
    await expect(sqlWith(await token())`select 1`).rejects.toThrow(message);
  });

  test('as any other role', async () => {
    for (const role of [place.role, 'cloud_admin', 'neon_superuser', 'nobody']) {
      const refused = sqlWith(await tokenOf('alice'), role)`select 1`;
      await expect(refused, role).rejects.toThrow('JWKs settings for this role were not configured');
    }
  });

  test('and no password opens its role', async () => {
    await expect(neon(uriOf('authenticated:x'))`select 1`).rejects.toThrow('password authentication failed');
  });
});

test('what SQL makes of the password of such a role counts at once', async () => {
  await query(place.uri, `create role staff login password 'first password 1'`);
  const rolesPath = `/projects/${place.projectId}/branches/${place.branchId}/roles`;
  await waitFor('the role', async () =>
    (await ballast.api.call('GET', rolesPath)).roles.some(({ name }: { name: string }) => name === 'staff'),
  );
  const { jwks } = await ballast.api.call('POST', jwksPath, {
    jwks_url: issuer.url,
    provider_name: 'staff',
    role_names: ['staff'],
    branch_id: place.branchId,
  });
  const as = (password: string) => neon(uriOf(`staff:${encodeURIComponent(password)}`))`select current_user as me`;
  expect(await sqlWith(await tokenOf('s'), 'staff')`select session_user as me`).toEqual([{ me: 'staff' }]);
  expect(await as('first password 1')).toEqual([{ me: 'staff' }]);
  await query(place.uri, `do $$ begin execute 'alter role staff password ''second password 2'''; end $$`);
  await expect(as('first password 1')).rejects.toThrow('password authentication failed');
  expect(await as('second password 2')).toEqual([{ me: 'staff' }]);
  await ballast.api.call('DELETE', `${jwksPath}/${jwks.id}`);
  await expect(sqlWith(await tokenOf('s'), 'staff')`select 1`).rejects.toThrow('JWKs settings for this role');
});
