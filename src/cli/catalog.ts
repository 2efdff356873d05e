/**
 * `ballast catalog rebuild`: says what came back and what did not.
 */
import { createInterface } from 'node:readline/promises';
import { rebuildCatalog } from '../catalog-rebuild.ts';
import type { Config } from '../config.ts';
import { silentLogger } from '../lib/log.ts';
import { mountPoolImage } from './pool.ts';
import { CommandError, print, printProblem, table } from './print.ts';

/** The exit code: 1 when something is lost or has to be mended. */
export async function rebuild(config: Config, options: { yes: boolean; force: boolean }): Promise<number> {
  if (!options.yes) await confirm(options.force);
  await mountPoolImage(config);
  const { projects, problems, movedAside } = await rebuildCatalog(config, {
    force: options.force,
    logger: silentLogger(),
  });
  if (movedAside !== undefined) print(`The old catalog is now ${movedAside}`);
  print(
    table(
      ['PROJECT', 'NAME', 'BRANCHES', 'FROM'],
      projects.map(({ id, name, branches, described }) => [
        id,
        name,
        String(branches),
        described ? 'its description' : 'its data alone',
      ]),
    ),
  );
  for (const problem of problems) printProblem(problem);
  print('API keys are lost with a catalog: `ballast start` makes a new first one.');
  return problems.length > 0 ? 1 : 0;
}

async function confirm(force: boolean): Promise<void> {
  if (!process.stdin.isTTY) throw new CommandError('say --yes to make a new catalog');
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  const question = force
    ? 'Move the catalog aside, whatever is in it, and make a new one? [y/N] '
    : 'Make a new catalog from what lies in the pool? [y/N] ';
  const answer = await lines.question(question);
  lines.close();
  if (!/^y(es)?$/i.test(answer.trim())) throw new CommandError('nothing was done');
}
