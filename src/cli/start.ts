/**
 * `ballast start`: runs everything in the foreground until a signal ends it.
 *
 * stdout gets a few short lines for people, one of which says `ready` once everything serves; the log file has the rest.
 * SIGINT and SIGTERM stop cleanly; a second one, a moment later, gives up waiting. (One Ctrl-C may arrive several times: from the
 * terminal, from npm and from a parent that passes it on.) SIGHUP reopens the log file, and stops when a terminal went away.
 */
import type { Config } from '../config.ts';
import { prepareHome } from '../home-prepare.ts';
import type { Home } from '../home.ts';
import { AppError } from '../lib/errors.ts';
import { startBallast } from '../main.ts';
import type { PoolStatus } from '../storage/types.ts';
import { mountPoolImage } from './pool.ts';
import { CommandError, print } from './print.ts';
import { clientHost, readRunning, removeRunning, writeRunning } from './running.ts';
import type { RunningFacts } from './running.ts';
import { openTerminalLog } from './terminal-log.ts';
import type { TerminalLog } from './terminal-log.ts';
import { version } from './version.ts';

type Running = Awaited<ReturnType<typeof startBallast>>;

/** Signals of one Ctrl-C come within this time. */
const SAME_SIGNAL_MS = 1000;
const ROTATE_EVERY_MS = 60_000;

/** Resolves to the exit code once everything has stopped. */
export async function start(config: Config): Promise<number> {
  print(`Ballast ${version()} starting, data in ${config.dataDir}`);
  await mountPoolImage(config);
  const home = await prepareHome(config);
  const other = await readRunning(home);
  if (other !== undefined) {
    throw new CommandError(`Ballast already runs on ${home.dataDir} (pid ${other.pid}, ${other.apiUrl})`);
  }
  const log = openTerminalLog(home, config.logLevel, (line) => process.stderr.write(`${line}\n`));
  const stopSignal = listenForSignals(log);
  const rotation = setInterval(() => log.rotate(), ROTATE_EVERY_MS);
  rotation.unref();
  try {
    return await serve(config, home, log, stopSignal);
  } finally {
    clearInterval(rotation);
    log.flush();
  }
}

async function serve(config: Config, home: Home, log: TerminalLog, stopSignal: StopSignal): Promise<number> {
  const starting = startBallast(config, { logger: log.logger });
  const givenUp = stopSignal.second.then(() => {
    throw new CommandError('gave up while starting');
  });
  const running = await Promise.race([starting, givenUp]).catch((error: unknown) => {
    log.quiet();
    log.logger.error({ err: error }, 'start failed');
    throw error instanceof AppError
      ? new CommandError(`${error.message} (more in ${log.file})`, { cause: error })
      : error;
  });
  const facts = factsOf(config, running);
  await writeRunning(home, facts);
  for (const line of readyLines(facts, home, running.pool, config)) print(line);
  const signal = await stopSignal.first;
  print(`${signal}: stopping`);
  const code = await Promise.race([running.stop().then(() => 0), stopSignal.second.then(() => 1)]);
  await removeRunning(home);
  print(code === 0 ? 'stopped' : 'gave up waiting; computes may still run and are found at the next start');
  return code;
}

interface StopSignal {
  first: Promise<NodeJS.Signals>;
  second: Promise<void>;
}

function listenForSignals(log: TerminalLog): StopSignal {
  let firstAtMs: number | undefined;
  let resolveFirst!: (signal: NodeJS.Signals) => void;
  let resolveSecond!: () => void;
  const first = new Promise<NodeJS.Signals>((resolve) => (resolveFirst = resolve));
  const second = new Promise<void>((resolve) => (resolveSecond = resolve));
  const stop = (signal: NodeJS.Signals) => {
    if (firstAtMs === undefined) {
      firstAtMs = performance.now();
      resolveFirst(signal);
    } else if (performance.now() - firstAtMs > SAME_SIGNAL_MS) {
      resolveSecond();
    }
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  const onTerminal = process.stdout.isTTY;
  process.on('SIGHUP', () => {
    if (onTerminal) stop('SIGHUP');
    else log.reopen();
  });
  // A reader of our output (a pipe, a closed terminal) may go away; that is no reason to end.
  process.stdout.on('error', () => undefined);
  process.stderr.on('error', () => undefined);
  return { first, second };
}

function factsOf(config: Config, running: Running): RunningFacts {
  const host = clientHost(config);
  return {
    pid: process.pid,
    version: version(),
    startedAt: new Date().toISOString(),
    apiUrl: `http://${host}:${running.apiPort}/api/v2`,
    pgHost: host,
    pgPort: running.pgPort,
    apiPort: running.apiPort,
    domain: config.domain,
    proxyProtocol: config.proxyProtocol,
    cloneMode: running.pool.cloneMode,
    fileSystem: running.pool.fileSystem,
    computeLimits: running.computeLimits,
  };
}

/** The first of them is the only line that says `ready`. */
export function readyLines(
  facts: RunningFacts,
  home: Home,
  pool: PoolStatus,
  asked: Pick<Config, 'computeLimits'>,
): string[] {
  const lines = [
    `ready: API ${facts.apiUrl}, Postgres ${facts.pgHost}:${facts.pgPort}, ` +
      `clone mode ${pool.cloneMode} (${pool.fileSystem}), API key in ${home.apiKeyFile}`,
  ];
  if (pool.cloneMode === 'copy') {
    lines.push(`Branches are full copies on ${pool.fileSystem}; \`ballast doctor\` says how to make them instant.`);
  }
  // Where nothing can be done about it, it is only said when it was asked for.
  const { missing } = facts.computeLimits;
  if (missing && (missing.fix !== undefined || asked.computeLimits !== 'auto')) {
    lines.push(
      `Computes have no limits of their size and do not autoscale: ${missing.reason}; \`ballast doctor\` says more.`,
    );
  }
  return lines;
}
