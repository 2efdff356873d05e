/**
 * Which computes are awake and why, for `ballast why-awake`: the judgement by which reconcilers/suspend-idle.ts works,
 * asked now.
 */
import type { CatalogDatabase } from './catalog/database.ts';
import { endpointsNamed, type NamedEndpoint } from './catalog/reconciling.ts';
import type { Supervisor } from './compute/types.ts';
import { describeKeeper, describeMs, describeProcess, type Judgement } from './reconcilers/keep-awake.ts';
import { judgeEndpoint, type SuspendIdleOptions } from './reconcilers/suspend-idle.ts';

export interface WhyAwake extends Partial<Judgement> {
  endpointId: string;
  type: NamedEndpoint['type'];
  branchId: string;
  branchName: string;
  projectId: string;
  projectName: string;
  awake: boolean;
  /** As the API calls it, with the default in place of 0; -1: never. */
  suspendTimeoutSeconds: number;
  /** While awake: milliseconds since a client last did something. */
  idleMs?: number;
  /** While asleep, if it has ever run: since when, as RFC 3339. */
  suspendedAt?: string;
}

export interface WhyAwakeOptions extends Pick<SuspendIdleOptions, 'clientsOf' | 'defaultSuspendTimeoutSeconds'> {
  catalog: CatalogDatabase;
  nodeId: string;
  supervisor: Pick<Supervisor, 'activity'>;
}

/** Endpoints by their own id, or by the id or name of their branch or project. Without a name: all that are awake. */
export async function whyAwake(options: WhyAwakeOptions, name?: string): Promise<WhyAwake[]> {
  const endpoints = await endpointsNamed(options.catalog, options.nodeId, name);
  const all = await Promise.all(endpoints.map((endpoint) => whyOne(options, endpoint)));
  return name === undefined ? all.filter(({ awake }) => awake) : all;
}

async function whyOne(options: WhyAwakeOptions, endpoint: NamedEndpoint): Promise<WhyAwake> {
  const { id: endpointId, type, branchId, branchName, projectId, projectName, suspendTimeoutSeconds } = endpoint;
  const facts = {
    endpointId,
    type,
    branchId,
    branchName,
    projectId,
    projectName,
    suspendTimeoutSeconds: suspendTimeoutSeconds === 0 ? options.defaultSuspendTimeoutSeconds : suspendTimeoutSeconds,
  };
  const activity = await options.supervisor.activity(endpointId, { fresh: true });
  if (!activity) {
    const { suspendedAt } = endpoint;
    return { ...facts, awake: false, ...(suspendedAt && { suspendedAt }) };
  }
  return { ...facts, awake: true, idleMs: activity.idleMs, ...judgeEndpoint(options, endpoint, activity) };
}

/** For people: a line that says which and whether, then the reasons. */
export function formatWhyAwake(endpoint: WhyAwake): string {
  const { endpointId, branchName, projectName, projectId, suspendedAt, suspendTimeoutSeconds } = endpoint;
  const which = `${endpointId} (branch ${branchName} of project ${projectName}, ${projectId})`;
  if (!endpoint.awake) return `${which} is asleep${suspendedAt === undefined ? '' : ` since ${suspendedAt}`}`;
  const { keepers = [], moreKeepers = 0, idleSessions = [], idleSessionCount = 0, suspendInMs } = endpoint;
  const lines = [`${which} is awake`];
  if (keepers.length > 0) lines.push('  kept awake by');
  for (const keeper of keepers) lines.push(`    ${describeKeeper(keeper)}`);
  if (moreKeepers > 0) lines.push(`    and ${moreKeepers} more`);
  if (suspendInMs !== undefined) {
    const idle = describeMs(endpoint.idleMs ?? 0);
    lines.push(`  nothing keeps it awake: idle for ${idle}, suspends in ${describeMs(suspendInMs)}`);
  } else if (suspendTimeoutSeconds >= 0) {
    lines.push(`  suspends ${describeMs(suspendTimeoutSeconds * 1000)} after that has ended`);
  }
  if (idleSessionCount > 0) lines.push('  does not keep it awake, and ends when it suspends');
  for (const session of idleSessions) lines.push(`    ${describeProcess(session)}`);
  const hidden = idleSessionCount - idleSessions.length;
  if (hidden > 0) lines.push(`    and ${hidden} more idle sessions`);
  return lines.join('\n');
}
