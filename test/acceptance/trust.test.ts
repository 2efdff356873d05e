/**
 * `ballast trust` on the store of a real Debian, in a mount namespace with a copy of it: what reads that store takes the
 * proxy's certificates after it, and does not before it and after `--undo`.
 */
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast, REPOSITORY } from '../support/ballast.ts';
import { hasPsql } from '../support/clients.ts';
import { canHaveOwnMachine, ownMachine, type OwnMachine } from '../support/own-machine.ts';

const BUNDLE = '/etc/ssl/certs/ca-certificates.crt';

describe.skipIf(!canHaveOwnMachine || !hasPsql)('trust (skipped without root, unshare, psql and Debian)', () => {
  let ballast: Ballast;
  let place: Place;
  let machine: OwnMachine;
  let host: string;

  beforeAll(async () => {
    ballast = await Ballast.boot();
    place = await ballast.api.createProject({ name: 'trusting' });
    host = `${place.endpointId}.localhost`;
    machine = await ownMachine([`127.0.0.1 ${host} api.localhost`]);
  }, 150_000);

  afterAll(async () => {
    await machine?.destroy();
    await ballast?.destroy();
  });

  const command = (...args: string[]) =>
    machine.run(process.execPath, [path.join(REPOSITORY, 'bin/ballast.mjs'), ...args, '--data-dir', ballast.dataDir]);
  const trust = (...args: string[]) => command('trust', ...args);
  const doctor = async () => (await command('doctor')).stdout;

  /** Exit codes of programs that verify the certificate for the host by the system's store. */
  const verdicts = async () => {
    const https = `https://${host}:${ballast.pgPort}/sql`;
    const get = `require('https').get('${https}', (answer) => answer.resume()).on('error', () => process.exit(1))`;
    const at = ['-connect', `127.0.0.1:${ballast.pgPort}`, '-servername', host, '-verify_hostname', host];
    const store = ['-starttls', 'postgres', '-verify_return_error', '-CAfile', BUNDLE, '-brief'];
    const uri = `postgresql://${place.role}:${place.password}@${host}:${ballast.pgPort}/${place.database}`;
    const ran = {
      curl: await machine.run('curl', ['-sS', '--noproxy', '*', https]),
      node: await machine.run(process.execPath, ['--use-openssl-ca', '-e', get]),
      openssl: await machine.run('sh', ['-c', 'openssl s_client "$@" </dev/null', 'sh', ...at, ...store]),
      libpq: await machine.run('psql', ['-Atc', 'select 1', `${uri}?sslmode=verify-full&sslrootcert=${BUNDLE}`]),
    };
    return Object.fromEntries(
      Object.entries(ran).map(([name, { code, stderr }]) => [name, code === 0 ? 'taken' : `refused: ${stderr}`]),
    );
  };
  const nobody = {
    curl: expect.stringMatching(/^refused.*certificate/s),
    node: expect.stringMatching(/^refused/),
    openssl: expect.stringMatching(/^refused/),
    libpq: expect.stringMatching(/^refused.*certificate/s),
  };
  const everybody = { curl: 'taken', node: 'taken', openssl: 'taken', libpq: 'taken' };

  test('programs take the certificate after it, not before, and no longer after --undo', async () => {
    expect(await verdicts()).toEqual(nobody);
    expect(await doctor()).toMatch(/^ok +trust +this machine does not trust .*\n +more: .*trust --data-dir/m);
    const dry = await trust('--dry-run');
    expect(dry).toMatchObject({ code: 0, stdout: expect.stringContaining('update-ca-certificates') });
    expect((await verdicts())['curl']).toMatch(/^refused/);

    expect(await trust()).toMatchObject({ code: 0, stdout: expect.stringContaining('Now trusted by') });
    expect(await verdicts()).toEqual(everybody);
    expect(await doctor()).toMatch(/^ok +trust +this machine trusts "Ballast local authority/m);
    expect(await doctor()).toMatch(/^ok +certificate +good for \*\.localhost until 20/m);
    expect(await trust()).toMatchObject({ code: 0, stdout: expect.stringContaining('trusts it already') });

    expect(await trust('--undo')).toMatchObject({ code: 0, stdout: expect.stringContaining('Taken out of') });
    expect(await verdicts()).toEqual(nobody);
    const left = 'find /etc/ssl/certs /usr/local/share/ca-certificates -xtype l -o -iname "*ballast*"';
    expect(await machine.run('sh', ['-c', left])).toMatchObject({ code: 0, stdout: '' });
    expect(await trust('--undo')).toMatchObject({ code: 0, stdout: expect.stringContaining('Nothing to do') });
  });
});
