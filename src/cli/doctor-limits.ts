/**
 * Doctor's check of what keeps computes at their sizes: without control groups there is no autoscaling.
 */
import { findCgroups, thisMachine } from '../compute/cgroups.ts';
import type { LimitStatus } from '../compute/limits.ts';
import type { DoctorContext, Finding } from './finding.ts';

const NAME = 'compute sizes';
const TEXTS: Record<LimitStatus['mode'], string> = {
  off: 'computes have no limits and do not autoscale, as --compute-limits off says',
  shares: 'computes autoscale; busy processors are shared by size (--compute-limits hard makes sizes hard limits)',
  hard: 'computes autoscale; each gets no more processors and memory than its size',
};

/** A running Ballast knows; it may have been started in another control group than this command. */
export async function checkLimits({ config, running }: DoctorContext): Promise<Finding[]> {
  const { mode, missing } = running?.computeLimits ?? (await wouldBe(config.computeLimits));
  if (missing === undefined) return [{ name: NAME, level: 'ok', text: TEXTS[mode] }];
  const text = `no autoscaling, and computes are as large as the machine: ${missing.reason}`;
  return [{ name: NAME, level: 'warn', text, ...(missing.fix !== undefined && { fix: missing.fix }) }];
}

async function wouldBe(asked: LimitStatus['mode'] | 'auto'): Promise<LimitStatus> {
  const mode = asked === 'auto' ? 'shares' : asked;
  if (mode === 'off') return { mode };
  const place = await findCgroups(await thisMachine());
  return place.available ? { mode } : { mode: 'off', missing: place };
}
