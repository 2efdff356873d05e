/**
 * `ballast trust [--undo] [--dry-run]`: makes this machine's programs trust the local authority of the data directory,
 * and no longer.
 *
 * What to run comes from trust-stores.ts; it is run as it would be printed. The system's store is root's: anybody else
 * is told the commands. Stores of browsers are their users' own.
 */
import { readFile } from 'node:fs/promises';
import type { Home } from '../home.ts';
import { run } from '../lib/child-process.ts';
import { errorMessage } from '../lib/errors.ts';
import { permittedNames } from '../lib/name-constraints.ts';
import { CommandError, print, printProblem, quote } from './print.ts';
import { browserStores, readAuthority, systemStore, thisMachine } from './trust-stores.ts';
import type { Authority, Machine, Step, Store } from './trust-stores.ts';

export interface TrustOptions {
  undo: boolean;
  dryRun: boolean;
}

type Result = 'done' | 'nothing to do' | 'failed' | 'needs root';

/** The exit code: 0 when every store is as it was asked for, or `dryRun`. Throws CommandError. */
export async function trust(home: Home, options: TrustOptions, machine: Machine = thisMachine()): Promise<number> {
  const authority = await readAuthority(home.dataDir, home.tls).catch((error: unknown) => {
    throw new CommandError(`the authority in ${home.tls} cannot be read: ${errorMessage(error)}`, { cause: error });
  });
  if (!options.undo) checkAuthority(authority, home);
  const system = await systemStore(machine, authority);
  const { stores: browsers, lacking } = await browserStores(machine, authority);
  const results: Result[] = [];
  for (const store of [...(system ? [system] : []), ...browsers]) {
    results.push(await treat(store, options, machine, home));
  }
  if (!system) printProblem(unknownSystem(authority));
  if (lacking)
    print('Firefox and Chromium have stores of their own, which takes certutil: apt-get install libnss3-tools');
  if (options.dryRun) return 0;
  const succeeded = (result: Result | undefined) => result === 'done' || result === 'nothing to do';
  // The system's store comes first.
  if (!options.undo && system && succeeded(results[0])) print(advice(authority));
  return system && results.every(succeeded) ? 0 : 1;
}

function checkAuthority({ current }: Authority, home: Home): void {
  if (!current) {
    throw new CommandError(
      `there is no authority in ${home.tls}: \`ballast start\` makes it (with --tls-cert there is none to trust)`,
    );
  }
  if (permittedNames(current.pem) === undefined) {
    throw new CommandError(
      `${current.file} is of an older Ballast and could vouch for any name, which no machine should trust: ` +
        'start Ballast once, which makes another, and run this again',
    );
  }
}

async function treat(store: Store, options: TrustOptions, machine: Machine, home: Home): Promise<Result> {
  try {
    if (!options.undo && (await store.trusts())) {
      print(`Nothing to do: ${store.name} trusts it already`);
      return 'nothing to do';
    }
    const steps = await (options.undo ? store.removal() : store.addition());
    if (steps.length === 0) {
      print(`Nothing to do: ${store.name} has nothing of ${home.dataDir}`);
      return 'nothing to do';
    }
    const sudo = store.needsRoot && machine.uid !== 0 ? 'sudo ' : '';
    const commands = steps.map((step) => `  ${sudo}${shown(step)}`);
    if (options.dryRun) {
      print([`For ${store.name}:`, ...commands].join('\n'));
      return 'done';
    }
    if (sudo !== '') {
      const again = `sudo ballast trust ${options.undo ? '--undo ' : ''}--data-dir ${quote(home.dataDir)}`;
      printProblem([`Only root changes ${store.name}. Run \`${again}\`, or:`, ...commands].join('\n'));
      return 'needs root';
    }
    for (const step of steps) await take(step, machine);
    if (!options.undo && !(await store.trusts())) throw new Error('the commands ran, but it is not in there');
    print(options.undo ? `Taken out of ${store.name}` : `Now trusted by ${store.name}`);
    return 'done';
  } catch (error) {
    printProblem(`${store.name} could not be changed: ${errorMessage(error)}`);
    return 'failed';
  }
}

async function take({ command, args, inputFile }: Step, machine: Machine): Promise<void> {
  const input = inputFile === undefined ? undefined : await readFile(inputFile, 'utf8');
  await run(command, args, { env: machine.env, ...(input !== undefined && { input }) });
}

function shown({ command, args, inputFile }: Step): string {
  const words = [command, ...args].map((word) => quote(word)).join(' ');
  return inputFile === undefined ? words : `${words} < ${quote(inputFile)}`;
}

function unknownSystem({ current }: Authority): string {
  return `This system keeps its authorities in no way that Ballast knows${current ? `; ours is ${current.file}` : ''}`;
}

function advice({ current }: Authority): string {
  const { dns, ip } = permittedNames(current!.pem)!;
  return [
    `The authority is called "${current!.name}". It can vouch for ${dns.join(', ')} and the names below, and for`,
    `${ip.join(', ')}; for nothing else. Its key stays in the data directory.`,
    'Programs with a list of their own have to be told: node --use-openssl-ca (or --use-system-ca from Node 22.15 on),',
    'psql sslrootcert=system (from 16 on). `ballast env` says how for each client. Back: `ballast trust --undo`',
  ].join('\n');
}
