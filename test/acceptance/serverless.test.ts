/**
 * The unmodified @neondatabase/serverless driver against the built product: queries and transactions over HTTP, sessions
 * over WebSocket, by what `ballast env` says. What a direct connection answers is what is expected.
 */
import { neon, neonConfig, Pool } from '@neondatabase/serverless';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { query, scalar, withClient } from '../support/sql.ts';
import { waitFor } from '../support/wait.ts';

let ballast: Ballast;
let place: Place;
/** As the driver wants it: no port, no options. */
let uri: string;

beforeAll(async () => {
  ballast = await Ballast.boot();
  place = await ballast.api.createProject({ name: 'serverless' });
  uri = `postgresql://${place.role}:${place.password}@${place.endpointId}.localhost/${place.database}`;
  const { stdout } = ballast.command(['env']);
  const fetchEndpoint = /fetchEndpoint = \(\) => '(.*)'/.exec(stdout)?.[1];
  expect(stdout).toContain(`wsProxy = (host) => \`localhost:${ballast.pgPort}/v2?address=\${host}\``);
  neonConfig.fetchEndpoint = () => fetchEndpoint!;
  neonConfig.wsProxy = (host) => `localhost:${ballast.pgPort}/v2?address=${host}`;
  neonConfig.useSecureWebSocket = false;
  neonConfig.webSocketConstructor ??= (await import('ws')).WebSocket;
  await query(place.uri, 'create table items (id int primary key, name text, tags text[], extra jsonb)');
}, 150_000);

afterAll(async () => {
  await ballast?.destroy();
});

describe('over HTTP', () => {
  test('values have the types that a direct connection gives them', async () => {
    const sql = neon(uri);
    await sql`insert into items values (1, ${'lamp'}, ${['a', 'b']}, ${JSON.stringify({ n: 1 })})`;
    const text = 'select id, name, tags, extra, 1.5::float8 as f, true as t, null as nothing from items';
    const direct = await query(place.uri, text);
    expect(await sql.query(text)).toEqual(direct);
    const full = await neon(uri, { fullResults: true, arrayMode: true }).query(text);
    expect(full).toMatchObject({ command: 'SELECT', rowCount: 1, rowAsArray: true });
    expect(full.rows).toEqual(direct.map((row) => Object.values(row)));
  });

  test('a transaction is all or nothing', async () => {
    const sql = neon(uri);
    const failing = sql.transaction([sql`insert into items (id) values (2)`, sql`insert into items (id) values (2)`]);
    await expect(failing).rejects.toMatchObject({ code: '23505', constraint: 'items_pkey', table: 'items' });
    expect(Number(await scalar(place.uri, 'select count(*)::int from items'))).toBe(1);
    const [, rows] = await sql.transaction(
      [sql`insert into items (id) values (2)`, sql`select count(*)::int from items`],
      {
        isolationLevel: 'Serializable',
      },
    );
    expect(rows).toEqual([{ count: 2 }]);
    await expect(sql.transaction([sql`delete from items`], { readOnly: true })).rejects.toMatchObject({
      code: '25006',
    });
  });

  test('a wrong password and an unknown endpoint are refused; asleep, a query wakes the compute', async () => {
    await expect(neon(uri.replace(place.password, 'wrong'))`select 1`).rejects.toThrow(
      'password authentication failed',
    );
    await expect(neon(uri.replace(place.endpointId, 'ep-no-body-12345678'))`select 1`).rejects.toThrow();
    await ballast.api.suspend(place);
    expect(await neon(uri)`select 1 as one`).toEqual([{ one: 1 }]);
  });
});

describe('over WebSocket', () => {
  test('sessions, transactions, notices of errors, large values', async () => {
    const pool = new Pool({ connectionString: uri });
    try {
      const client = await pool.connect();
      await client.query('begin');
      await client.query('insert into items (id, name) values ($1, $2)', [3, 'x'.repeat(2_000_000)]);
      const { rows } = await client.query('select length(name) as n from items where id = 3');
      expect(rows).toEqual([{ n: 2_000_000 }]);
      await client.query('rollback');
      await expect(client.query('select 1 / 0')).rejects.toMatchObject({ code: '22012' });
      client.release();
      expect((await pool.query('select count(*)::int as n from items')).rows).toEqual([{ n: 2 }]);
    } finally {
      await pool.end();
    }
  });

  test('hears what another session says', async () => {
    const pool = new Pool({ connectionString: uri });
    try {
      const client = await pool.connect();
      const heard: unknown[] = [];
      client.on('notification', (message: { payload?: string }) => heard.push(message.payload));
      await client.query('listen news');
      await withClient(place.uri, async (direct) => void (await direct.query(`notify news, 'hello'`)));
      await waitFor('the notification', async () => heard.includes('hello'));
      client.release();
    } finally {
      await pool.end();
    }
  });
});
