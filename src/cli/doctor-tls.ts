/**
 * Doctor's checks of certificates: the one that clients are shown for an endpoint's host, and whether this machine
 * trusts the local authority.
 */
import net from 'node:net';
import tls from 'node:tls';
import { permittedNames } from '../lib/name-constraints.ts';
import type { DoctorContext, Finding } from './finding.ts';
import { quote } from './print.ts';
import type { RunningFacts } from './running.ts';
import { readAuthority, systemStore, thisMachine } from './trust-stores.ts';
import type { Authority, Machine } from './trust-stores.ts';

const HANDSHAKE_TIMEOUT_MS = 3000;
/** Version 2 of the PROXY protocol: a connection of the load balancer's own. */
const LOCAL_HEADER = Buffer.from('\r\n\r\n\0\r\nQUIT\n\x20\0\0\0', 'latin1');
const SOON_MS = 20 * 86_400_000;

/** Of the running one: what it shows depends on its settings, which this command need not share. */
export async function checkCertificate(context: DoctorContext): Promise<Finding[]> {
  const name = 'certificate';
  const { running } = context;
  if (running === undefined) return [];
  const { current } = await authorityOf(context);
  const host = `ep-doctor-check-00000000.${running.domain}`;
  const seen = await handshake(running, host, current?.pem);
  if (seen.error !== undefined) {
    const fix =
      current === undefined
        ? 'ballast start --tls-cert <chain> --tls-key <key>'
        : 'start Ballast again, which renews it';
    const text = `clients that verify refuse it for ${host}: ${seen.error}`;
    return [{ name, level: 'warn', text, fix }];
  }
  const until = seen.validTo.toISOString().slice(0, 10);
  const text = `good for *.${running.domain} until ${until}, to clients that know its authority`;
  if (seen.validTo.getTime() > Date.now() + SOON_MS) return [{ name, level: 'ok', text }];
  return [
    {
      name,
      level: 'warn',
      text,
      fix: 'renew the files of --tls-cert and --tls-key, which are read again by themselves',
    },
  ];
}

export async function checkTrust(context: DoctorContext, machine: Machine = thisMachine()): Promise<Finding[]> {
  const name = 'trust';
  const authority = await authorityOf(context);
  const { current } = authority;
  if (current === undefined) return [];
  if (permittedNames(current.pem) === undefined) {
    const text = `${current.file} could vouch for any name: nothing should trust it`;
    return [{ name, level: 'warn', text, fix: 'start Ballast again, which makes another authority' }];
  }
  const store = await systemStore(machine, authority);
  if (await store?.trusts()) return [{ name, level: 'ok', text: `this machine trusts "${current.name}"` }];
  const text = `this machine does not trust ${current.file}; clients that verify must be told (\`ballast env\`)`;
  const sudo = context.uid === 0 ? '' : 'sudo ';
  const fix = `${sudo}ballast trust --data-dir ${quote(context.home.dataDir)}`;
  return [{ name, level: 'ok', text, ...(store && { fix }) }];
}

/** Nothing where it cannot be read: what is wrong then is said of the data directory. */
async function authorityOf({ home }: DoctorContext): Promise<Authority> {
  return readAuthority(home.dataDir, home.tls).catch(() => ({ labels: '', current: undefined }));
}

type Seen = { error: string; validTo?: never } | { error: undefined; validTo: Date };

function handshake(running: RunningFacts, servername: string, authority: string | undefined): Promise<Seen> {
  return new Promise((resolve) => {
    const ca = [...tls.rootCertificates, ...(authority === undefined ? [] : [authority])];
    const plain = net.connect({ host: running.pgHost.replace(/^\[|\]$/g, ''), port: running.pgPort });
    if (running.proxyProtocol === 'v2') plain.write(LOCAL_HEADER);
    const socket = tls.connect({
      socket: plain,
      servername,
      ca,
      rejectUnauthorized: false,
    });
    socket.setTimeout(HANDSHAKE_TIMEOUT_MS);
    const done = (seen: Seen) => {
      socket.destroy();
      plain.destroy();
      resolve(seen);
    };
    socket.once('secureConnect', () => {
      const { authorizationError } = socket;
      // Typed as an Error, and a string all the same.
      if (!socket.authorized) return done({ error: String(authorizationError) });
      done({ error: undefined, validTo: new Date(socket.getPeerCertificate().valid_to) });
    });
    socket.once('timeout', () => done({ error: 'no answer' }));
    for (const each of [socket, plain]) each.on('error', (error) => done({ error: error.message }));
  });
}
