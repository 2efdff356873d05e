/**
 * Settings on the command line: every command takes those that matter to it, from the one table in config.ts.
 */
import type { Command } from 'commander';
import { Option } from 'commander';
import type { Config } from '../config.ts';
import { SETTINGS, readConfig } from '../config.ts';

export type SettingName = keyof Config;

export const ALL_SETTINGS = Object.keys(SETTINGS) as SettingName[];

/** Adds `--flag <placeholder>` for each; help names the environment variable and the default. */
export function addSettings(command: Command, names: readonly SettingName[]): Command {
  for (const name of names) {
    const { flag, placeholder, help, env, fallback } = SETTINGS[name];
    const description = fallback === undefined ? help : `${help} (default: ${fallback})`;
    command.addOption(new Option(`--${flag} <${placeholder}>`, `${description} [${env}]`));
  }
  return command;
}

/** Throws ConfigError naming the flag. */
export function configOf(command: Command, env: NodeJS.ProcessEnv): Config {
  const given = command.opts<Record<string, string | undefined>>();
  const flags = Object.fromEntries(ALL_SETTINGS.map((name) => [name, given[camelCase(SETTINGS[name].flag)]]));
  return readConfig(flags, env);
}

/** As commander names the value of a flag. */
function camelCase(flag: string): string {
  return flag.replaceAll(/-(.)/g, (_dash, letter: string) => letter.toUpperCase());
}
