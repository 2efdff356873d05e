/**
 * One route per operation of the contract, and what is left of each path: other methods answer 405, OPTIONS names the
 * methods that there are. Order of a request: route, key, parameters and body, handler. So an unknown path is 404
 * and a missing key 401, whatever else is wrong with the request.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Contract } from '../contract/contract.ts';
import type { Operation } from '../contract/operations.ts';
import type { RawQuery } from '../contract/requests.ts';
import type { Caller } from '../control-plane/caller.ts';
import type { ControlPlane } from '../control-plane/control-plane.ts';
import { AppError } from '../lib/errors.ts';
import type { Authenticator } from './authenticate.ts';
import { authenticate } from './authenticate.ts';
import type { ApiRequest, Handler, HandlerTable } from './handler.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Set before the body is read, on the routes of operations. */
    caller: Caller | undefined;
  }
}

export const API_BASE = '/api/v2';

export interface RouteOptions {
  contract: Contract;
  handlers: HandlerTable;
  controlPlane: ControlPlane;
  authenticator: Authenticator;
}

/** Throws when a handler names no operation of the contract. */
export function registerRoutes(app: FastifyInstance, options: RouteOptions): void {
  const { contract, handlers } = options;
  for (const operationId of Object.keys(handlers)) {
    if (!contract.operations.has(operationId))
      throw new Error(`a handler serves ${operationId}, which the contract does not have`);
  }
  app.decorateRequest('caller', undefined);
  const methods = new Map<string, string[]>();
  for (const operation of contract.operations.values()) {
    const url = API_BASE + operation.path.replaceAll(/\{(\w+)\}/g, ':$1');
    const handle = Object.hasOwn(handlers, operation.operationId) ? handlers[operation.operationId] : undefined;
    app.route({
      method: operation.method,
      url,
      // Before the body is read: strangers cannot make the server hold their bytes.
      onRequest: async (request) => {
        request.caller = await authenticate(options.authenticator, request.headers.authorization, request.ip);
      },
      handler: handle ? serve(options, operation, handle) : refuse(operation),
    });
    methods.set(url, [...(methods.get(url) ?? []), operation.method]);
  }
  for (const [url, offered] of methods) registerOtherMethods(app, url, offered);
}

function serve(options: RouteOptions, operation: Operation, handle: Handler) {
  const { controlPlane } = options;
  const decoder = options.contract.decoder(operation);
  return async (request: FastifyRequest, reply: FastifyReply): Promise<unknown> => {
    const params = decoder.params(request.params as Record<string, string>);
    const query = decoder.query(request.query as RawQuery);
    const body = decoder.body(request.headers['content-type'], request.body as Buffer | undefined);
    const caller = request.caller!;
    const answer = await handle(controlPlane, {
      params,
      query,
      body,
      caller,
      requestId: request.id,
    } as ApiRequest);
    return reply.code(answer.status ?? operation.successStatus).send(answer.body);
  };
}

function refuse(operation: Operation) {
  return (): never => {
    throw new AppError('not_implemented', `operation ${operation.operationId} is not implemented by this server`);
  };
}

function registerOtherMethods(app: FastifyInstance, url: string, offered: string[]): void {
  // The server answers HEAD wherever there is a GET.
  const known = offered.includes('GET') ? [...offered, 'HEAD'] : offered;
  const allow = [...known, 'OPTIONS'].join(', ');
  app.route({
    method: 'OPTIONS',
    url,
    handler: (_request, reply) => reply.code(204).header('allow', allow).send(),
  });
  app.route({
    method: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'].filter((method) => !known.includes(method)),
    url,
    handler: (_request, reply) => {
      reply.header('allow', allow);
      throw new AppError('method_not_allowed', 'method not allowed');
    },
  });
}

/** `/projects/` reaches `/projects/{project_id}` with an empty id; there is no such path. */
export function hasEmptyParameter(request: FastifyRequest): boolean {
  return Object.values((request.params as Record<string, string> | undefined) ?? {}).includes('');
}
