/**
 * The stores of authorities that this machine's programs trust, and the commands that put ours in and take it out
 * again. Nothing here runs a command that changes anything: stores answer with steps.
 *
 * What is ours is known by its label, `ballast-<hash of the data directory>-<fingerprint>`: two data directories do not
 * meet, and an authority that the data directory has replaced, or lost, can still be taken out.
 */
import { X509Certificate, createHash } from 'node:crypto';
import { access, readFile, readdir, realpath } from 'node:fs/promises';
import path from 'node:path';
import { run } from '../lib/child-process.ts';

export interface Authority {
  /** `ballast-<hash of the data directory>-` */
  labels: string;
  /** Undefined when the data directory has no authority (any more). */
  current: { file: string; pem: string; label: string; sha1: string; name: string } | undefined;
}

/** A command to run as it stands here. */
export interface Step {
  command: string;
  args: string[];
  /** Becomes its standard input. */
  inputFile?: string;
}

export interface Store {
  name: string;
  needsRoot: boolean;
  /** Whether programs that use it trust the current authority. */
  trusts(): Promise<boolean>;
  /** What takes out every authority of the data directory; nothing when there is none. */
  removal(): Promise<Step[]>;
  /** What puts the current one in, and others of the data directory out. */
  addition(): Promise<Step[]>;
}

/** The machine; tests say otherwise. */
export interface Machine {
  /** Before every path of the system. */
  root: string;
  platform: NodeJS.Platform;
  env: Record<string, string>;
  uid: number;
}

interface SystemLayout {
  name: string;
  anchors: string;
  suffix: string;
  bundle: string;
  update: string[];
  /** After a removal; default: `update`. */
  updateAfterRemoval?: string[];
}

/** The first whose directory exists is this machine's. */
const LAYOUTS: readonly SystemLayout[] = [
  {
    name: 'Fedora and RHEL',
    anchors: '/etc/pki/ca-trust/source/anchors',
    suffix: '.pem',
    bundle: '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem',
    update: ['update-ca-trust', 'extract'],
  },
  {
    name: 'Debian and Ubuntu',
    anchors: '/usr/local/share/ca-certificates',
    suffix: '.crt',
    bundle: '/etc/ssl/certs/ca-certificates.crt',
    update: ['update-ca-certificates'],
    // Else it leaves links to what is gone.
    updateAfterRemoval: ['update-ca-certificates', '--fresh'],
  },
  {
    name: 'Arch',
    anchors: '/etc/ca-certificates/trust-source/anchors',
    suffix: '.crt',
    bundle: '/etc/ssl/certs/ca-certificates.crt',
    update: ['trust', 'extract-compat'],
  },
  {
    name: 'openSUSE',
    anchors: '/etc/pki/trust/anchors',
    suffix: '.pem',
    bundle: '/var/lib/ca-certificates/ca-bundle.pem',
    update: ['update-ca-certificates'],
  },
];
const KEYCHAIN = '/Library/Keychains/System.keychain';

export function thisMachine(): Machine {
  const env = Object.fromEntries(
    Object.entries(process.env).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
  return { root: '/', platform: process.platform, env, uid: process.getuid!() };
}

export async function readAuthority(dataDir: string, tls: string): Promise<Authority> {
  const real = await realpath(dataDir).catch(() => path.resolve(dataDir));
  const labels = `ballast-${createHash('sha256').update(real).digest('hex').slice(0, 8)}-`;
  const file = path.join(tls, 'ca.pem');
  const pem = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (pem === undefined) return { labels, current: undefined };
  const certificate = new X509Certificate(pem);
  const hex = (fingerprint: string) => fingerprint.replaceAll(':', '');
  const label = `${labels}${hex(certificate.fingerprint256).slice(0, 8).toLowerCase()}`;
  const name = /^CN=(.*)$/m.exec(certificate.subject)?.[1] ?? certificate.subject;
  return { labels, current: { file, pem, label, sha1: hex(certificate.fingerprint), name } };
}

/** Undefined when this machine keeps its authorities in no way that is known here. */
export async function systemStore(machine: Machine, authority: Authority): Promise<Store | undefined> {
  if (machine.platform === 'darwin') return keychainStore(machine, authority);
  for (const layout of LAYOUTS) {
    if (await exists(path.join(machine.root, layout.anchors))) return anchorStore(machine, authority, layout);
  }
  return undefined;
}

/** Whether the text holds the certificate, however it is wrapped. */
export function holdsCertificate(bundle: string, pem: string): boolean {
  const bare = (text: string) => text.replaceAll(/\s/g, '');
  const body = /-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----/s.exec(pem)?.[1];
  return body !== undefined && bare(bundle).includes(bare(body));
}

function anchorStore(machine: Machine, { labels, current }: Authority, layout: SystemLayout): Store {
  const directory = path.join(machine.root, layout.anchors);
  const own = current && path.join(directory, `${current.label}${layout.suffix}`);
  const ours = async () => {
    const names = await readdir(directory);
    return names.filter((name) => name.startsWith(labels)).map((name) => path.join(directory, name));
  };
  const step = ([command, ...args]: string[]): Step => ({ command: command!, args });
  return {
    name: `this system's store (${layout.name})`,
    needsRoot: true,
    async trusts() {
      if (!current) return false;
      const bundle = await readFile(path.join(machine.root, layout.bundle), 'utf8').catch(() => '');
      return holdsCertificate(bundle, current.pem);
    },
    async removal() {
      const files = await ours();
      if (files.length === 0) return [];
      return [step(['rm', '-f', ...files]), step(layout.updateAfterRemoval ?? layout.update)];
    },
    async addition() {
      const others = (await ours()).filter((file) => file !== own);
      const removal = others.length > 0 ? [step(['rm', '-f', ...others])] : [];
      return [...removal, step(['install', '-m', '0644', current!.file, own!]), step(layout.update)];
    },
  };
}

function keychainStore(machine: Machine, { current }: Authority): Store {
  const step = (...args: string[]): Step => ({ command: 'security', args });
  const trusts = async () => {
    if (!current) return false;
    const args = ['find-certificate', '-a', '-Z', '-c', current.name, KEYCHAIN];
    const found = await run('security', args, { env: machine.env }).catch(() => '');
    return found.includes(current.sha1);
  };
  return {
    name: 'the system keychain',
    needsRoot: true,
    trusts,
    async removal() {
      if (!current || !(await trusts())) return [];
      return [
        step('remove-trusted-cert', '-d', current.file),
        step('delete-certificate', '-Z', current.sha1, KEYCHAIN),
      ];
    },
    async addition() {
      return [step('add-trusted-cert', '-d', '-r', 'trustRoot', '-k', KEYCHAIN, current!.file)];
    },
  };
}

/** Those of Firefox and Chromium, of whoever asks (through sudo, too). `lacking`: there are some, and no certutil. */
export async function browserStores(
  machine: Machine,
  authority: Authority,
): Promise<{ stores: Store[]; lacking: boolean }> {
  const user = machine.uid === 0 ? machine.env['SUDO_USER'] : undefined;
  const home = user === undefined ? machine.env['HOME'] : await homeOf(machine, user);
  const databases = home === undefined ? [] : await browserDatabases(home);
  if (databases.length === 0) return { stores: [], lacking: false };
  const found = (machine.env['PATH'] ?? '').split(':').map((directory) => exists(path.join(directory, 'certutil')));
  if (!(await Promise.all(found)).includes(true)) return { stores: [], lacking: true };
  return { stores: databases.map((directory) => browserStore(machine, authority, directory, user)), lacking: false };
}

function browserStore(machine: Machine, authority: Authority, directory: string, user: string | undefined): Store {
  const { labels, current } = authority;
  // As the user, so that nothing in there becomes root's.
  const step = (args: string[], inputFile?: string): Step => {
    const all = ['certutil', ...args, '-d', `sql:${directory}`];
    const [command, ...rest] = user === undefined ? all : ['sudo', '-u', user, ...all];
    return { command: command!, args: rest, ...(inputFile !== undefined && { inputFile }) };
  };
  const ours = async () => {
    const { command, args } = step(['-L']);
    const listing = await run(command, args, { env: machine.env });
    const names = listing.split('\n').map((line) => line.split(/\s/, 1)[0]!);
    return [...new Set(names.filter((name) => name.startsWith(labels)))];
  };
  const remove = (names: string[]) => names.map((name) => step(['-D', '-n', name]));
  return {
    name: `the browsers' store ${directory}`,
    needsRoot: false,
    trusts: async () => current !== undefined && (await ours()).includes(current.label),
    removal: async () => remove(await ours()),
    async addition() {
      const others = (await ours()).filter((name) => name !== current!.label);
      return [...remove(others), step(['-A', '-t', 'C,,', '-n', current!.label], current!.file)];
    },
  };
}

const PROFILE_DIRECTORIES = [
  '.mozilla/firefox',
  'snap/firefox/common/.mozilla/firefox',
  '.var/app/org.mozilla.firefox/.mozilla/firefox',
  'Library/Application Support/Firefox/Profiles',
];

async function browserDatabases(home: string): Promise<string[]> {
  const profiles = await Promise.all(
    PROFILE_DIRECTORIES.map(async (directory) => {
      const parent = path.join(home, directory);
      return (await readdir(parent).catch((): string[] => [])).map((name) => path.join(parent, name));
    }),
  );
  const found: string[] = [];
  for (const directory of [path.join(home, '.pki/nssdb'), ...profiles.flat().toSorted()]) {
    if (await exists(path.join(directory, 'cert9.db'))) found.push(directory);
  }
  return found;
}

async function homeOf(machine: Machine, user: string): Promise<string | undefined> {
  const passwd = await readFile(path.join(machine.root, 'etc/passwd'), 'utf8').catch(() => '');
  const line = passwd.split('\n').find((entry) => entry.startsWith(`${user}:`));
  return line?.split(':')[5];
}

function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}
