/**
 * The proxy's only door to the control plane. The proxy knows nothing else of Ballast.
 */
import type { PointQuery } from '../lib/point.ts';

export interface ProxyEndpoint {
  /** Of a connection to the past: the branch's id. */
  endpointId: string;
  projectId: string;
  branchId: string;
  disabled: boolean;
  /** Single addresses, CIDR or `a-b` ranges; empty: all may connect. */
  allowedIps: readonly string[];
  blockPublicConnections: boolean;
  /** What its compute allows in all, by its size. */
  maxConnections: number;
  /** Where roles are changed; null: nowhere now. Undefined: the endpoint is itself the read-write one of its branch. */
  readWriteEndpointId?: string | null;
  /** Who may enter with a JWT; none: nobody. */
  jwks?: readonly JwksRule[];
  /** Undefined: the present. */
  point?: PastPoint;
}

export interface JwksRule {
  jwksUrl: string;
  /** Null: any. */
  audience: string | null;
  roleNames: readonly string[];
}

export type PastPoint = Exclude<PointQuery, { kind: 'head' }>;

export type EndpointType = 'read_write' | 'read_only';

/** What a client may say beside the name. */
export interface EndpointChoice {
  point?: PastPoint;
  /** One of the same branch that is of this type. */
  type?: EndpointType;
}

/** Whether a connection that came or went is a sign that the compute is in use; an idle one of a pool is none. */
export type ConnectionChange = 'use' | 'no use';

export interface SocketAddress {
  /** Path of the compute's Unix socket file. */
  path: string;
  /** Signs what the compute is told of a JWT. */
  claimsKey?: Buffer;
  /** It slept, and was started while this was being asked. */
  woken?: boolean;
}

/**
 * All answers come from memory where they can: a catalog outage must not stop connections to known endpoints.
 */
export interface ProxyAccess {
  /**
   * Takes the id of an endpoint, or of a branch, which stands for its read-write endpoint (without `-pooler`).
   * Undefined: no such endpoint. Never wakes anything.
   */
  endpoint(name: string, choice?: EndpointChoice): Promise<ProxyEndpoint | undefined>;
  /** The role's SCRAM verifier on that branch; undefined: no such role, or it cannot log in with a password. */
  verifier(endpoint: ProxyEndpoint, role: string): Promise<string | undefined>;
  /**
   * Reads roles back from a running compute when SQL may have changed them (a login failed, or Postgres refused a key).
   * Returns true when something changed. At most one run per endpoint and second; a sleeping compute is left asleep.
   * `fresh`: a session has just changed roles, so the answer of a run that began before this call does not do.
   */
  refreshVerifiers(endpoint: ProxyEndpoint, options?: { fresh?: boolean }): Promise<boolean>;
  /**
   * Of an endpoint with a point: the address of a compute that stands there.
   * Address of the running compute, waking it first when it sleeps; waits out a suspend, a create or a restart.
   * `stale` is an address that just refused a connection. Throws AppError with a text for the client.
   */
  wake(endpoint: ProxyEndpoint, options: { signal: AbortSignal; stale?: SocketAddress }): Promise<SocketAddress>;
  /** The same where nothing has to be waited for; undefined: ask `wake`. */
  awake?(endpoint: ProxyEndpoint): SocketAddress | undefined;
  /** Tells how many connections the endpoint's compute has now. */
  noteConnections(endpoint: ProxyEndpoint, open: number, change?: ConnectionChange): void;
}
