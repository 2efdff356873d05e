/**
 * `ballast verify`: whether what lies in the pool can be restored and is sound, and how long that takes.
 */
import { askAdmin } from '../admin.ts';
import type { Config } from '../config.ts';
import { locateHome } from '../home-prepare.ts';
import { silentLogger } from '../lib/log.ts';
import { verifyTimelines, type Verified, type Which } from '../verify.ts';
import { mountPoolImage } from './pool.ts';
import { CommandError, print, printJson, printProblem, table } from './print.ts';
import { readRunning } from './running.ts';

const seconds = (ms: number) => `${(ms / 1000).toFixed(2)} s`;

/** The exit code: 1 when something is wrong. */
export async function verify(
  config: Config,
  which: { project: string | undefined; branch: string | undefined },
  options: { json: boolean },
): Promise<number> {
  const results: Verified[] = [];
  for await (const result of await verified(config, which)) {
    results.push(result);
    if (!options.json) for (const problem of result.problems) printProblem(`${result.timelineId}: ${problem}`);
  }
  if (results.length === 0) throw new CommandError('there is nothing of that name in the pool');
  if (options.json) printJson(results);
  else print(table(['PROJECT', 'TIMELINE', 'RESULT', 'RELATIONS', 'RESTORE', 'CHECK'], results.map(row)));
  return results.some(({ problems }) => problems.length > 0) ? 1 : 0;
}

/** By the running Ballast, when there is one. */
async function verified(config: Config, which: Which): Promise<AsyncIterable<Verified>> {
  const home = await locateHome(config);
  if ((await readRunning(home)) === undefined) {
    await mountPoolImage(config);
    return verifyTimelines(config, { ...which, logger: silentLogger() });
  }
  return askAdmin(home, 'verify', { project: which.project, branch: which.branch }) as AsyncIterable<Verified>;
}

function row(result: Verified): string[] {
  const { projectId, timelineId, problems, relations, restoreMs, checkMs } = result;
  const verdict = problems.length === 0 ? 'sound' : `${problems.length} problem${problems.length === 1 ? '' : 's'}`;
  return [projectId, timelineId, verdict, String(relations), seconds(restoreMs), seconds(checkMs)];
}
