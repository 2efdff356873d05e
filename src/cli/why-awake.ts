/**
 * `ballast why-awake`: what keeps computes awake, or how long until they sleep, as the running Ballast judges it.
 */
import { askAdmin } from '../admin.ts';
import type { Config } from '../config.ts';
import { locateHome } from '../home-prepare.ts';
import { formatWhyAwake, type WhyAwake } from '../why-awake.ts';
import { CommandError, print, printJson } from './print.ts';
import { readRunning } from './running.ts';

export async function whyAwake(config: Config, name: string | undefined, options: { json: boolean }): Promise<void> {
  const home = await locateHome(config);
  if ((await readRunning(home)) === undefined) {
    throw new CommandError(`Ballast is not running on ${home.dataDir}; start it with \`ballast start\``);
  }
  const endpoints: WhyAwake[] = [];
  for await (const one of askAdmin(home, 'why-awake', { name })) endpoints.push(one as WhyAwake);
  if (name !== undefined && endpoints.length === 0) {
    throw new CommandError(`there is no endpoint, branch or project "${name}"`);
  }
  if (options.json) printJson(endpoints);
  else if (endpoints.length === 0) print('No compute is awake');
  else print(endpoints.map(formatWhyAwake).join('\n\n'));
}
