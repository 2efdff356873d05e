/**
 * Everything on one port, the one of HTTPS: there the unmodified serverless driver finds its own addresses
 * (https://api.<domain>/sql, wss://<host>/v2) and needs no neonConfig at all; Postgres clients use the same port.
 *
 * Ballast listens on a loopback address of its own, so nobody else's port 443 is in the way.
 */
import { randomInt } from 'node:crypto';
import { connect } from 'node:net';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createApi, type Place } from '../support/api.ts';
import { Ballast, REPOSITORY } from '../support/ballast.ts';
import { hasPsql } from '../support/clients.ts';
import { canHaveOwnMachine, ownMachine, type OwnMachine } from '../support/own-machine.ts';

const PORT = 443;

const able = canHaveOwnMachine && hasPsql;

describe.skipIf(!able).each(['localhost', 'db.test'])(
  'one port of %s (needs root, unshare, psql and Debian)',
  (domain) => {
    const address = `127.${randomInt(64, 250)}.${randomInt(250)}.${randomInt(1, 250)}`;
    let ballast: Ballast;
    let machine: OwnMachine;
    let uri: string;
    let place: Place;

    beforeAll(async () => {
      ballast = await Ballast.boot({ flags: ['--listen', address, '--pg-port', String(PORT), '--domain', domain] });
      const api = createApi(`http://${address}:${ballast.apiPort}/api/v2`, ballast.api.apiKey);
      place = await api.createProject({ name: 'one port' });
      const host = `${place.endpointId}.${domain}`;
      machine = await ownMachine([
        `${address} ${host} ${place.endpointId}-pooler.${domain} api.${domain} apiauth.${domain}`,
      ]);
      uri = `postgresql://${place.role}:${place.password}@${host}:${PORT}/${place.database}`;
    }, 150_000);

    afterAll(async () => {
      await machine?.destroy();
      await ballast?.destroy();
    });

    const caFile = () => path.join(ballast.dataDir, 'tls/ca.pem');
    const node = (program: string, env: Record<string, string> = {}) => {
      const imports = `import { neon, neonConfig, Pool } from '@neondatabase/serverless';`;
      // There its imports are found.
      const script = `cd '${REPOSITORY}' && exec "$@"`;
      const args = ['-c', script, 'sh', process.execPath, '--input-type=module', '-e', `${imports}\n${program}`];
      return machine.run('sh', args, { URI: uri, NODE_EXTRA_CA_CERTS: caFile(), ...env });
    };

    test('the serverless driver needs nothing: queries by HTTP, sessions by WebSocket', async () => {
      const program = `
      const sql = neon(process.env.URI);
      const [{ one }] = await sql\`select 1 as one\`;
      const [, [{ two }]] = await sql.transaction([sql\`select 1\`, sql\`select 2 as two\`]);
      // What Node has of itself from 22 on.
      neonConfig.webSocketConstructor = (await import('ws')).WebSocket;
      const pool = new Pool({ connectionString: process.env.URI });
      const { rows } = await pool.query('select 3 as three');
      await pool.end();
      console.log(JSON.stringify([one, two, rows]));`;
      for (const each of [uri, uri.replace(`:${PORT}`, ''), uri.replace(`.${domain}`, `-pooler.${domain}`)]) {
        expect(await node(program, { URI: each })).toEqual({ code: 0, stderr: '', stdout: '[1,2,[{"three":3}]]\n' });
      }
    });

    test('`ballast env` says so', () => {
      expect(ballast.command(['env']).stdout).toContain('# @neondatabase/serverless needs no neonConfig');
      expect(ballast.command(['env', '--driver', 'serverless']).stdout).not.toContain('https://');
    });

    test('without the authority it refuses the certificate', async () => {
      const ran = await node('await neon(process.env.URI)`select 1`', { NODE_EXTRA_CA_CERTS: '' });
      expect(ran.code).not.toBe(0);
      expect(ran.stderr).toMatch(/certificate/);
    });

    test('the host of a request does not matter, the connection string does', async () => {
      const program = `
      const ask = async (url, headers, body = { query: 'select 4 as four', params: [] }) => {
        const answer = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) });
        const { rows, message } = await answer.json();
        return [answer.status, rows ?? message];
      };
      const headers = { 'Neon-Connection-String': process.env.URI };
      console.log(JSON.stringify([
        await ask('https://api.${domain}/sql', headers),
        await ask('https://apiauth.${domain}/sql', headers),
        await ask('https://${address}/sql', headers).catch((error) => error.cause.code),
        await ask('https://api.${domain}/sql', {}),
        [(await fetch('https://api.${domain}/')).status, await (await fetch('https://api.${domain}/')).json()],
      ]));`;
      const four = [200, [{ four: 4 }]];
      const ran = await node(program);
      expect(ran).toMatchObject({ code: 0, stderr: '' });
      expect(JSON.parse(ran.stdout)).toEqual([
        four,
        four,
        // An address that is in no certificate.
        'ERR_TLS_CERT_ALTNAME_INVALID',
        [400, 'invalid header: neon-connection-string'],
        [400, 'query is not supported'],
      ]);
    });

    test('a request without a host is answered, too; without TLS on loopback names only', async () => {
      const body = JSON.stringify({ query: 'select 5 as five' });
      const head = `POST /sql HTTP/1.0\r\nneon-connection-string: ${uri}\r\ncontent-length: ${body.length}\r\n\r\n`;
      const answer = await new Promise<string>((resolve, reject) => {
        const socket = connect({ host: address, port: PORT }, () => socket.write(head + body));
        let text = '';
        socket.on('data', (chunk) => (text += chunk.toString()));
        socket.on('close', () => resolve(text));
        socket.on('error', reject);
      });
      expect(answer).toContain(domain === 'localhost' ? '"rows":[{"five":5}]' : 'connection is insecure');
    });

    test('pg takes the URI of the CLI, whose `sslmode=require` verifies', async () => {
      const program = `
      const { default: pg } = await import('pg');
      const client = new pg.Client({ connectionString: process.env.URI + '?sslmode=require&channel_binding=require' });
      await client.connect();
      console.log((await client.query('select 7 as seven')).rows[0].seven);
      await client.end();`;
      expect(await node(program)).toMatchObject({ code: 0, stdout: '7\n' });
      expect(await node(program, { NODE_EXTRA_CA_CERTS: '' })).toMatchObject({ code: 1 });
    });

    test('psql goes through the same port, with the URI of the API and with a verified certificate', async () => {
      // The API's own names `localhost` where `*.localhost` does not resolve, and that is another address here.
      const plain = place.uri.replace(/@[^/]*/, `@${new URL(uri).host}`);
      for (const each of [plain, `${uri}?sslmode=verify-full&sslrootcert=${caFile()}`]) {
        const ran = await machine.run('psql', ['-XAtc', 'select 6', each]);
        expect(ran).toEqual({ code: 0, stderr: '', stdout: '6\n' });
      }
    });
  },
);
