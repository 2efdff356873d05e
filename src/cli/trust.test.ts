/**
 * `ballast trust` on machines of every kind: their stores below a temporary root, their commands as fakes that do what
 * the real ones do to the files. The real store of Debian is in test/acceptance/trust.test.ts.
 */
import 'reflect-metadata';
import { webcrypto } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import * as x509 from '@peculiar/x509';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { Home } from '../home.ts';
import { run } from '../lib/child-process.ts';
import { nameConstraintsExtension } from '../lib/name-constraints.ts';
import { readAuthority } from './trust-stores.ts';
import type { Machine } from './trust-stores.ts';
import { trust } from './trust.ts';

let directory: string;
let machine: Machine;
let printed: string;
const at = (...names: string[]) => path.join(directory, ...names);
const homeAt = (name: string) => ({ dataDir: at(name), tls: at(name, 'tls') }) as Home;
const DO = { undo: false, dryRun: false };
const LOCAL = nameConstraintsExtension({ dns: ['localhost'], ip: ['127.0.0.0/8', '::1/128'] });
const UNDO = { undo: true, dryRun: false };

beforeEach(async () => {
  directory = await mkdtemp(path.join(os.tmpdir(), 'ballast-trust-'));
  machine = {
    root: at('root'),
    platform: 'linux',
    env: { PATH: `${at('bin')}:/usr/bin:/bin`, HOME: at('home'), LOG: at('log') },
    uid: 0,
  };
  printed = '';
  const keep = (chunk: string | Uint8Array) => Boolean((printed += chunk.toString()));
  vi.spyOn(process.stdout, 'write').mockImplementation(keep);
  vi.spyOn(process.stderr, 'write').mockImplementation(keep);
  for (const name of ['bin', 'home', 'root/etc']) await mkdir(at(name), { recursive: true });
  await makeAuthority('data');
});
afterEach(async () => {
  vi.restoreAllMocks();
  await rm(directory, { recursive: true, force: true });
});

async function makeAuthority(name: string, limits = [LOCAL]): Promise<string> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned(
    { name: 'CN=Ballast test', signingAlgorithm: algorithm, keys, extensions: limits },
    webcrypto,
  );
  const pem = `${certificate.toString('pem')}\n`;
  await mkdir(at(name, 'tls'), { recursive: true });
  await writeFile(at(name, 'tls/ca.pem'), pem);
  return pem;
}

/** A program that logs how it was called, then does this. */
async function fake(name: string, script: string): Promise<void> {
  const file = at('bin', name);
  await writeFile(file, `#!/bin/sh\necho "${name} $*" >> "$LOG"\n${script}\n`);
  await chmod(file, 0o755);
}

const log = async () =>
  (await readFile(at('log'), 'utf8').catch(() => ''))
    .split('\n')
    .map((line) => line.trim())
    .slice(0, -1);

describe.each([
  [
    'Fedora',
    'etc/pki/ca-trust/source/anchors',
    'etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem',
    'update-ca-trust',
    'extract',
    '.pem',
  ],
  [
    'Debian',
    'usr/local/share/ca-certificates',
    'etc/ssl/certs/ca-certificates.crt',
    'update-ca-certificates',
    '',
    '.crt',
  ],
  [
    'Arch',
    'etc/ca-certificates/trust-source/anchors',
    'etc/ssl/certs/ca-certificates.crt',
    'trust',
    'extract-compat',
    '.crt',
  ],
  ['openSUSE', 'etc/pki/trust/anchors', 'var/lib/ca-certificates/ca-bundle.pem', 'update-ca-certificates', '', '.pem'],
])('on %s', (name, anchors, bundle, command, argument, suffix) => {
  const update = `${command} ${argument}`.trim();
  const anchorFiles = async () => (await readdir(at('root', anchors))).toSorted();
  const bundled = () => readFile(at('root', bundle), 'utf8');

  beforeEach(async () => {
    await mkdir(at('root', anchors), { recursive: true });
    await mkdir(path.dirname(at('root', bundle)), { recursive: true });
    await writeFile(at('root', anchors, `theirs${suffix}`), 'theirs\n');
    await writeFile(at('root', bundle), 'theirs\n');
    await fake(command, `cat ${at('root', anchors)}/*${suffix} > ${at('root', bundle)}`);
  });

  test('it is put in and taken out, and nothing else is touched', async () => {
    expect(await trust(homeAt('data'), DO, machine)).toBe(0);
    const files = await anchorFiles();
    expect(files).toEqual([expect.stringMatching(/^ballast-[0-9a-f]{8}-[0-9a-f]{8}\./), `theirs${suffix}`]);
    expect(files[0]!.endsWith(suffix)).toBe(true);
    expect(await bundled()).toBe(`${await readFile(at('data/tls/ca.pem'), 'utf8')}theirs\n`);
    expect(await log()).toEqual([update]);
    expect(printed).toContain('Now trusted by');
    expect(printed).toContain('It can vouch for localhost and the names below');

    expect(await trust(homeAt('data'), UNDO, machine)).toBe(0);
    expect(await anchorFiles()).toEqual([`theirs${suffix}`]);
    expect(await bundled()).toBe('theirs\n');
    expect(await log()).toEqual([update, name === 'Debian' ? `${update} --fresh` : update]);
  });

  test('done or undone twice, the second time changes nothing', async () => {
    expect(await trust(homeAt('data'), UNDO, machine)).toBe(0);
    expect(await log()).toEqual([]);
    await trust(homeAt('data'), DO, machine);
    expect(await trust(homeAt('data'), DO, machine)).toBe(0);
    expect(await log()).toHaveLength(1);
    expect(printed).toContain('trusts it already');
  });

  test('two data directories do not meet; a replaced authority and one of a lost directory go', async () => {
    const other = await makeAuthority('other');
    for (const data of ['data', 'other']) await trust(homeAt(data), DO, machine);
    expect(await anchorFiles()).toHaveLength(3);
    await rm(at('data/tls'), { recursive: true });
    const second = await makeAuthority('data');
    await trust(homeAt('data'), DO, machine);
    expect(await anchorFiles()).toHaveLength(3);
    expect(await bundled()).toContain(second);
    await rm(at('data/tls'), { recursive: true });
    expect(await trust(homeAt('data'), UNDO, machine)).toBe(0);
    expect(await bundled()).toBe(`${other}theirs\n`);
  });

  test('a dry run prints the commands, which do the same when a shell runs them, and runs none', async () => {
    expect(await trust(homeAt('data'), { undo: false, dryRun: true }, machine)).toBe(0);
    expect(await anchorFiles()).toEqual([`theirs${suffix}`]);
    expect(await log()).toEqual([]);
    const commands = printed.split('\n').filter((line) => line.startsWith('  '));
    await shell(commands.join('\n'));
    expect(await bundled()).toContain(await readFile(at('data/tls/ca.pem'), 'utf8'));
    printed = '';
    expect(await trust(homeAt('data'), { undo: true, dryRun: true }, machine)).toBe(0);
    await shell(
      printed
        .split('\n')
        .filter((line) => line.startsWith('  '))
        .join('\n'),
    );
    expect(await bundled()).toBe('theirs\n');
  });

  test('without root it says the commands and changes nothing', async () => {
    expect(await trust(homeAt('data'), DO, { ...machine, uid: 1000 })).toBe(1);
    expect(await anchorFiles()).toEqual([`theirs${suffix}`]);
    expect(printed).toContain(`sudo ballast trust --data-dir ${at('data')}`);
    expect(printed).toMatch(new RegExp(`sudo install -m 0644 .*/ca.pem .*\\${suffix}\n +sudo ${command}`));
  });

  test('a command that fails, or that did nothing, is no success', async () => {
    await fake(command, 'echo disk full >&2; exit 3');
    expect(await trust(homeAt('data'), DO, machine)).toBe(1);
    expect(printed).toContain('disk full');
    expect(printed).not.toContain('can vouch for');
    await fake(command, 'true');
    expect(await trust(homeAt('data'), DO, machine)).toBe(1);
    expect(printed).toContain('it is not in there');
  });
});

async function shell(script: string): Promise<void> {
  await run('sh', ['-e', '-c', script], { env: machine.env });
}

test('on macOS it goes into the system keychain and out again', async () => {
  machine = { ...machine, platform: 'darwin' };
  const { current } = await readAuthority(at('data'), at('data/tls'));
  const keychain = at('keychain');
  const script = `case "$1" in
    find-certificate) cat ${keychain} 2>/dev/null ;;
    add-trusted-cert) echo "SHA-1 hash: ${current!.sha1}" > ${keychain} ;;
    delete-certificate) rm ${keychain} ;;
  esac; true`;
  await fake('security', script);
  const system = '/Library/Keychains/System.keychain';
  expect(await trust(homeAt('data'), DO, machine)).toBe(0);
  expect(await log()).toContain(`security add-trusted-cert -d -r trustRoot -k ${system} ${at('data/tls/ca.pem')}`);
  expect(await trust(homeAt('data'), UNDO, machine)).toBe(0);
  expect(await log()).toContain(`security remove-trusted-cert -d ${at('data/tls/ca.pem')}`);
  expect(await log()).toContain(`security delete-certificate -Z ${current!.sha1} ${system}`);
});

describe('browsers', () => {
  const databases = () => [at('home/.pki/nssdb'), at('home/.mozilla/firefox/x1.default')];

  beforeEach(async () => {
    await mkdir(at('root/usr/local/share/ca-certificates'), { recursive: true });
    await mkdir(at('root/etc/ssl/certs'), { recursive: true });
    await mkdir(at('home/.mozilla/firefox/without a database'), { recursive: true });
    await fake(
      'update-ca-certificates',
      `cat /dev/null ${at('root/usr/local/share/ca-certificates')}/[b]* 2>/dev/null > ${at('root/etc/ssl/certs/ca-certificates.crt')}; true`,
    );
    for (const database of databases()) {
      await mkdir(database, { recursive: true });
      await writeFile(path.join(database, 'cert9.db'), '');
    }
    // Each certificate is a file of its nickname.
    await fake(
      'certutil',
      `mode=$1; shift
      while [ $# -gt 0 ]; do case $1 in -n) name=$2; shift 2 ;; -d) dir=\${2#sql:}; shift 2 ;; -t) shift 2 ;; *) exit 9 ;; esac; done
      case $mode in
        -L) for file in "$dir"/*; do echo "$(basename "$file")      C,,"; done ;;
        -A) cat > "$dir/$name" ;;
        -D) rm "$dir/$name" ;;
      esac`,
    );
  });

  test.each([
    ['of whoever runs it', {}],
    ['of the user behind sudo, as that user', { SUDO_USER: 'ann', HOME: '/nowhere' }],
  ])('%s get it and lose it', async (_title, env) => {
    await writeFile(at('root/etc/passwd'), `root:x:0:0::/root:/bin/sh\nann:x:1000:1000::${at('home')}:/bin/sh\n`);
    await fake('sudo', 'test "$1" = -u && test "$2" = ann || exit 9; shift 2; exec "$@"');
    machine = { ...machine, env: { ...machine.env, ...env } };
    const pem = await readFile(at('data/tls/ca.pem'), 'utf8');
    const label = (await readAuthority(at('data'), at('data/tls'))).current!.label;
    expect(await trust(homeAt('data'), DO, machine)).toBe(0);
    for (const database of databases()) {
      expect((await readdir(database)).toSorted()).toEqual([label, 'cert9.db'].toSorted());
      expect(await readFile(path.join(database, label), 'utf8')).toBe(pem);
    }
    const calls = (await log()).filter((line) => line.startsWith('sudo'));
    expect(calls.length > 0).toBe('SUDO_USER' in env);
    expect(await trust(homeAt('data'), UNDO, machine)).toBe(0);
    for (const database of databases()) expect(await readdir(database)).toEqual(['cert9.db']);
  });

  test('need certutil, and the text says so', async () => {
    await rm(at('bin/certutil'));
    machine.env['PATH'] = `${at('bin')}:${at('tools')}`;
    await mkdir(at('tools'));
    for (const tool of ['install', 'cat', 'sh']) await symlink(`/usr/bin/${tool}`, at('tools', tool));
    expect(await trust(homeAt('data'), DO, machine)).toBe(0);
    expect(printed).toContain('apt-get install libnss3-tools');
  });
});

test('a system that is not known is an answer, not a success', async () => {
  expect(await trust(homeAt('data'), DO, machine)).toBe(1);
  expect(printed).toContain('in no way that Ballast knows');
});

test('without an authority, and with one that could vouch for any name, it refuses', async () => {
  await expect(trust(homeAt('none'), DO, machine)).rejects.toThrow('there is no authority');
  await makeAuthority('data', []);
  await expect(trust(homeAt('data'), DO, machine)).rejects.toThrow('could vouch for any name');
  await writeFile(at('data/tls/ca.pem'), 'nonsense');
  await expect(trust(homeAt('data'), DO, machine)).rejects.toThrow('cannot be read');
});
