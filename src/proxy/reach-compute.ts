/**
 * A login at an endpoint's compute, which is woken for it; one that is just going down or was replaced is woken again.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ProxyAccess, ProxyEndpoint, SocketAddress } from '../control-plane/proxy-access.types.ts';
import type { Logger } from '../lib/log.ts';
import { ComputeAway, logIn } from './compute-login.ts';
import type { ComputeSession, LoginKeys } from './compute-login.ts';
import type { ProxyLimits } from './limits.ts';
import type { ProxyObserver } from './observer.ts';
import { PostgresRefusal, refusals } from './refusal.ts';
import { untilAborted } from './until-aborted.ts';

/** Each try after the first wakes again with the address that failed. */
const MAX_REACH_ATTEMPTS = 5;
const REACH_BACKOFF_MS = 50;

export interface ReachContext {
  access: Pick<ProxyAccess, 'wake' | 'refreshVerifiers'>;
  limits: Pick<ProxyLimits, 'wakeTimeoutMs' | 'loginTimeoutMs'>;
  logger: Logger;
  observer: Pick<ProxyObserver, 'loggedIn' | 'wakeWaited'>;
}

export interface Reach {
  parameters: ReadonlyMap<string, string>;
  role: string;
  closed: AbortSignal;
}

/** Rejects with Refusal, PostgresRefusal, AppError, or the reason of `closed`. */
export async function reachCompute(
  context: ReachContext,
  { endpoint, keys }: { endpoint: ProxyEndpoint; keys: LoginKeys | undefined },
  { parameters, role, closed }: Reach,
): Promise<{ session: ComputeSession; reached: SocketAddress }> {
  const deadline = AbortSignal.timeout(context.limits.wakeTimeoutMs);
  const signal = AbortSignal.any([closed, deadline]);
  let stale: SocketAddress | undefined;
  for (let attempt = 1; ; attempt += 1) {
    try {
      const askedMs = performance.now();
      const waking = context.access.wake(endpoint, stale ? { signal, stale } : { signal });
      const reached = await untilAborted(waking, signal);
      const reachedMs = performance.now();
      if (reached.woken) context.observer.wakeWaited(reachedMs - askedMs);
      const timeoutMs = context.limits.loginTimeoutMs;
      stale = reached;
      const session = await logIn({ address: reached, parameters, keys, timeoutMs, signal });
      context.observer.loggedIn(performance.now() - reachedMs, reached.woken ?? false);
      return { session, reached };
    } catch (error) {
      if (closed.aborted) throw closed.reason;
      if (deadline.aborted) throw refusals.unreachable();
      await explainStaleKey(context, endpoint, role, error);
      if (!(error instanceof ComputeAway)) throw error;
      context.logger.debug({ endpointId: endpoint.endpointId, reason: error.message }, 'compute is away');
      if (attempt === MAX_REACH_ATTEMPTS) throw refusals.unreachable();
      await sleep(REACH_BACKOFF_MS * attempt, undefined, { signal }).catch(() => undefined);
    }
  }
}

/** Postgres refused the key: SQL changed the password since the verifier was read, so the client's is outdated. */
async function explainStaleKey(context: ReachContext, endpoint: ProxyEndpoint, role: string, error: unknown) {
  if (!(error instanceof PostgresRefusal) || error.code !== '28P01') return;
  await context.access.refreshVerifiers(endpoint);
  throw refusals.password(role);
}
