/**
 * What the proxy itself says to a client that it turns away, word for word as Neon's clients know it.
 *
 * Every such error is an ErrorResponse with severity ERROR and SQLSTATE XX000, unless noted. AppErrors of the control
 * plane carry a public message and are shown the same way; anything unknown is shown as an internal error.
 */
import { isAppError } from '../lib/errors.ts';
import { ConnectionClosed } from '../postgres/wire/socket-reader.ts';
import { errorResponse } from '../postgres/wire/messages.ts';
import { ProtocolError } from '../postgres/wire/startup.ts';

export class Refusal extends Error {
  readonly code: string;
  readonly severity: string;
  /** Not the client's fault: over HTTP a 500. */
  readonly serverSide: boolean;
  /** Which of `refusals` it is, for counting. */
  reason = 'other';

  constructor(message: string, options: { code?: string; severity?: string; serverSide?: boolean } = {}) {
    super(message);
    this.serverSide = options.serverSide ?? false;
    this.code = options.code ?? 'XX000';
    this.severity = options.severity ?? 'ERROR';
  }
}

/** An ErrorResponse of Postgres, passed on unchanged. */
export class PostgresRefusal extends Error {
  readonly raw: Buffer;
  readonly code: string;

  constructor(raw: Buffer, code: string) {
    super(`Postgres refused the login (${code})`);
    this.raw = raw;
    this.code = code;
  }
}

function unsupported(what: string): Refusal {
  return new Refusal(
    `${what}. Please use unpooled connection or remove this parameter from the startup package. ` +
      'More details: https://neon.tech/docs/connect/connection-errors#unsupported-startup-parameter',
  );
}

export const refusals = named({
  noEndpoint: () =>
    new Refusal(
      'Endpoint ID is not specified. Either please upgrade the postgres client library (libpq) for SNI support or ' +
        'pass the endpoint ID (first part of the domain name) as a parameter: ' +
        "'?options=endpoint%3D<endpoint-id>'. See more at https://neon.tech/sni",
    ),
  inconsistentEndpoint: (domain: string, option: string) =>
    new Refusal(`Inconsistent project name inferred from SNI ('${domain}') and project option ('${option}').`),
  malformedEndpoint: (name: string) =>
    new Refusal(`Project name ('${name}') must contain only alphanumeric characters and hyphen.`),
  missingUser: () => new Refusal("Parameter 'user' is missing in startup packet."),
  unknownEndpoint: () =>
    new Refusal(
      "The requested endpoint could not be found, or you don't have access to it. " +
        'Please check the provided ID and try again.',
    ),
  disabledEndpoint: () => new Refusal('The endpoint has been disabled. Enable it using Neon API and retry.'),
  password: (role: string) => new Refusal(`password authentication failed for user '${role}'`),
  address: (address: string) =>
    new Refusal(
      `This IP address ${address} is not allowed to connect to this endpoint. Please add it to the allowed list in ` +
        'the Neon console. Make sure to check for IPv4 or IPv6 addresses.',
    ),
  blockedNetwork: () => new Refusal('This connection is trying to access this endpoint from a blocked network.'),
  tooManyConnections: () => new Refusal('Too many connections to this endpoint. Please try again later.'),
  maxClientConn: () => new Refusal('no more connections allowed (max_client_conn)'),
  unsupportedStartupParameter: (name: string) => unsupported(`unsupported startup parameter: ${name}`),
  unsupportedStartupOption: (name: string) => unsupported(`unsupported startup parameter in options: ${name}`),
  tooManyAttempts: () => new Refusal('Too many connections attempts', { serverSide: true }),
  noPermit: () =>
    new Refusal(
      'Failed to acquire permit to connect to the database. Too many database connection attempts are currently ongoing.',
      { serverSide: true },
    ),
  insecure: () => new Refusal('connection is insecure (try using `sslmode=require`)'),
  unreachable: () => new Refusal("Couldn't connect to compute node", { serverSide: true }),
  timeout: () => new Refusal('Authentication timed out'),
  method: (name: string) => new Refusal(`Unsupported authentication method: ${name}`),
  malformedPassword: (why: string) => new Refusal(`Malformed password message: ${why}`),
  protocolVersion: (major: number, minor: number) =>
    new Refusal(`unsupported frontend protocol ${major}.${minor}: server supports 3.0 to 3.0`, {
      code: '0A000',
      severity: 'FATAL',
    }),
  twoPoints: () => new Refusal('The options neon_lsn and neon_timestamp cannot be used together.'),
  malformedPoint: (option: string, value: string) =>
    new Refusal(
      option === 'neon_lsn'
        ? `The option neon_lsn must be an LSN such as 0/16B3748, not '${value.slice(0, 60)}'.`
        : `The option neon_timestamp must be a time with a time zone such as 2026-01-16T21:02:04Z, not '${value.slice(0, 60)}'.`,
    ),
  endpointType: (value: string) =>
    new Refusal(`The option neon_endpoint_type must be read_write or read_only, not '${value.slice(0, 60)}'.`),
  physicalReplication: () =>
    new Refusal('physical replication is not available; connect with replication=database for logical replication', {
      code: '0A000',
      severity: 'FATAL',
    }),
  invalidReplication: (value: string) =>
    new Refusal(`invalid value for parameter "replication": "${value}"`, { code: '22023', severity: 'FATAL' }),
  replicationCommand: (command: string) =>
    new Refusal(`replication command ${command} is not allowed`, { code: '42501', severity: 'FATAL' }),
} as const);

function named<T extends Record<string, (...given: never[]) => Refusal>>(all: T): T {
  const entries = Object.entries(all).map(([reason, make]) => [
    reason,
    (...given: never[]) => Object.assign(make(...given), { reason }),
  ]);
  return Object.fromEntries(entries) as T;
}

/** One of a fixed few words. */
export function refusalReason(error: unknown): string {
  if (error instanceof Refusal) return error.reason;
  if (error instanceof PostgresRefusal) return 'postgres';
  if (error instanceof ConnectionClosed) return 'clientGone';
  if (error instanceof ProtocolError) return 'protocol';
  return isAppError(error) ? 'controlPlane' : 'internal';
}

/** The bytes that tell a client why it is turned away. */
export function refusalBytes(error: unknown): Buffer {
  if (error instanceof PostgresRefusal) return error.raw;
  if (error instanceof Refusal) return errorResponse(error);
  if (error instanceof ProtocolError) {
    return errorResponse({ severity: 'FATAL', code: '08P01', message: error.message });
  }
  if (isAppError(error)) return errorResponse({ severity: 'ERROR', code: 'XX000', message: error.message });
  return errorResponse({ severity: 'ERROR', code: 'XX000', message: 'Internal error' });
}
