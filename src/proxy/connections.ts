/**
 * The clients that have entered an endpoint and are still there, each under an id of its own; and, per endpoint, how much
 * they have sent, got and asked since they were first seen.
 *
 * What every message costs here is the addition of an integer.
 */
import { randomBytes } from 'node:crypto';

export const CONNECTION_KINDS = ['direct', 'pooled', 'websocket', 'http'] as const;

/** `http`: one request of SQL over HTTP. A WebSocket is one whether it is pooled or not. */
export type ConnectionKind = (typeof CONNECTION_KINDS)[number];

export interface Traffic {
  bytesIn: number;
  bytesOut: number;
  /** Pooled and over HTTP: what is asked on a connection of its own is not looked at. */
  queries: number;
  /** How often a pool lent a server connection. */
  lends: number;
}

export interface ClientFacts {
  /** In the log, in `ballast why-awake`; over HTTP it is the neon-request-id. */
  readonly id: string;
  readonly kind: ConnectionKind;
  readonly address: string;
  readonly role: string;
  readonly applicationName?: string | undefined;
}

export interface ClientConnection extends ClientFacts {
  readonly traffic: Traffic;
  /** The process of the compute that serves it now; undefined: none. */
  backend: () => number | undefined;
  /** It is over; again is harmless. */
  close(): void;
}

export interface EndpointTraffic extends Traffic {
  open: Record<ConnectionKind, number>;
  /** By `performance.now()`. */
  lastUsedMs: number;
}

export interface Connections {
  open(endpointId: string, client: ClientFacts): ClientConnection;
  of(endpointId: string): readonly ClientConnection[];
  /** How many have entered, by kind. */
  readonly entered: Readonly<Record<ConnectionKind, number>>;
  /** By endpoint; of a connection to the past by branch. */
  traffic(): ReadonlyMap<string, Readonly<EndpointTraffic>>;
  /** Drops the figures of an endpoint that has no clients. */
  forget(endpointId: string): void;
}

interface Endpoint extends EndpointTraffic {
  clients: Set<ClientConnection>;
}

const ID_BYTES = 6;

export const newConnectionId = (): string => randomBytes(ID_BYTES).toString('hex');

export const noTraffic = (): Traffic => ({ bytesIn: 0, bytesOut: 0, queries: 0, lends: 0 });

const none = (): Record<ConnectionKind, number> => ({ direct: 0, pooled: 0, websocket: 0, http: 0 });

export function createConnections(): Connections {
  const endpoints = new Map<string, Endpoint>();
  const entered = none();
  return {
    entered,
    open(endpointId, client) {
      let endpoint = endpoints.get(endpointId);
      if (!endpoint) {
        endpoint = { ...noTraffic(), open: none(), lastUsedMs: 0, clients: new Set() };
        endpoints.set(endpointId, endpoint);
      }
      const { clients, open } = endpoint;
      const touch = () => (endpoint.lastUsedMs = performance.now());
      const connection: ClientConnection = {
        ...client,
        traffic: endpoint,
        backend: () => undefined,
        close: () => {
          if (!clients.delete(connection)) return;
          open[client.kind] -= 1;
          touch();
        },
      };
      clients.add(connection);
      open[client.kind] += 1;
      entered[client.kind] += 1;
      touch();
      return connection;
    },
    of: (endpointId) => [...(endpoints.get(endpointId)?.clients ?? [])],
    traffic: () => endpoints,
    forget: (endpointId) => {
      if (endpoints.get(endpointId)?.clients.size === 0) endpoints.delete(endpointId);
    },
  };
}
