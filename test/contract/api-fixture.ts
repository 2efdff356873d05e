/**
 * The API edge over a control plane that is not there: one key, and handlers that the test gives.
 */
import type { ApiServer } from '../../src/api/server.ts';
import { createApiServer } from '../../src/api/server.ts';
import type { ApiRequest, HandlerTable } from '../../src/api/handler.ts';
import type { Caller } from '../../src/control-plane/caller.ts';
import type { ControlPlane } from '../../src/control-plane/control-plane.ts';
import type { Logger } from '../../src/lib/log.ts';
import { silentLogger } from '../../src/lib/log.ts';
import { testDocument } from '../support/contract.ts';

export const KEY = 'napi_test';
export const CALLER: Caller = { keyId: 1, kind: 'personal', userId: 'u', orgId: null, projectId: null };

export async function fakeApi(handlers: HandlerTable, options: { logger?: Logger } = {}): Promise<ApiServer> {
  const controlPlane = {
    apiKeys: { authenticate: async (token: string) => (token === KEY ? CALLER : undefined) },
  } as unknown as ControlPlane;
  return createApiServer({
    controlPlane,
    handlers,
    document: await testDocument(),
    logger: options.logger ?? silentLogger(),
  });
}

/** A handler that remembers what reached it and answers with `body`. */
export function recorder(body: unknown = {}) {
  const seen: ApiRequest[] = [];
  return {
    seen,
    handler: async (_controlPlane: ControlPlane, request: ApiRequest) => {
      seen.push(request);
      return { body };
    },
  };
}

export interface Answer {
  status: number;
  headers: Record<string, unknown>;
  body: any;
}

export interface Call {
  headers?: Record<string, string>;
  json?: unknown;
  payload?: string | Buffer;
  /** False: without an Authorization header. */
  key?: false;
}

/** One request, in process. Paths are below /api/v2 unless they start with `=`. */
export async function call(api: ApiServer, method: string, path: string, call: Call = {}): Promise<Answer> {
  const response = await api.app.inject({
    method: method as 'GET',
    url: path.startsWith('=') ? path.slice(1) : `/api/v2${path}`,
    headers: {
      ...(call.key === false ? {} : { authorization: `Bearer ${KEY}` }),
      ...(call.json === undefined ? {} : { 'content-type': 'application/json' }),
      ...call.headers,
    },
    payload: call.json === undefined ? call.payload : JSON.stringify(call.json),
  });
  const text = response.body;
  return {
    status: response.statusCode,
    headers: response.headers,
    body: text === '' ? undefined : String(response.headers['content-type']).includes('json') ? JSON.parse(text) : text,
  };
}
