/**
 * What a handler is: parameters in, body out. One per operationId, registered by the tables of handlers/<tag>.ts.
 * Types come from `@neon/sdk/raw` (`CreateProjectData`, `CreateProjectResponses`), so the contract checks them.
 */
import type { Caller } from '../control-plane/caller.ts';
import type { ControlPlane } from '../control-plane/control-plane.ts';

export interface ApiRequest<Data = unknown> {
  /** Path parameters, validated. */
  params: Data extends { path: infer Path } ? Path : Record<string, string>;
  /** Query values, validated and coerced. */
  query: Data extends { query?: infer Query } ? NonNullable<Query> : Record<string, unknown>;
  /** The body, validated; undefined when the operation takes none or none was sent. */
  body: Data extends { body: infer Body }
    ? Body
    : Data extends { body?: infer Optional }
      ? Optional | undefined
      : undefined;
  caller: Caller;
  requestId: string;
}

/** `status` only where it differs from the operation's one success status in the document. */
export interface ApiAnswer {
  status?: number;
  body?: unknown;
}

export type Handler = (controlPlane: ControlPlane, request: ApiRequest) => Promise<ApiAnswer>;

/** Types one handler by its operation; the answer's body is checked against the response type. */
export function handler<Data, Body>(
  work: (controlPlane: ControlPlane, request: ApiRequest<Data>) => Promise<Body | { status: 204 }>,
): Handler {
  return async (controlPlane, request) => {
    const result: unknown = await work(controlPlane, request as unknown as ApiRequest<Data>);
    return isNoContent(result) ? { status: 204 } : { body: result };
  };
}

function isNoContent(result: unknown): result is { status: 204 } {
  return typeof result === 'object' && result !== null && (result as { status?: unknown }).status === 204;
}

export type HandlerTable = Record<string, Handler>;
