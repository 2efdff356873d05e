/**
 * A plain HTTP client of the API for tests: any request, any header, the raw answer; and the few steps that every
 * suite needs (create a project or a branch, wait for operations). Asserts nothing about shapes: that is the tests' work.
 */
import type { CreateProjectBranchResponse, CreateProjectResponse, Operation } from '@neon/sdk/raw';
import { waitFor } from './wait.ts';

export interface Reply<T> {
  status: number;
  headers: Headers;
  body: T;
  text: string;
}

export interface RequestOptions {
  headers?: Record<string, string>;
  /** Sent as it is instead of JSON. */
  rawBody?: string;
  /** Another key; null sends no Authorization header. */
  key?: string | null;
}

/** What tests need of a project or branch that has an endpoint. */
export interface Place {
  projectId: string;
  branchId: string;
  endpointId: string;
  /** As the API gave it. */
  uri: string;
  role: string;
  password: string;
  database: string;
}

export type Api = ReturnType<typeof createApi>;

const TERMINAL = new Set(['finished', 'skipped', 'failed', 'error', 'cancelled']);
const SUCCESS = new Set(['finished', 'skipped']);

export function createApi(baseUrl: string, apiKey: string) {
  async function request<T = any>(
    method: string,
    path: string,
    body?: unknown,
    options: RequestOptions = {},
  ): Promise<Reply<T>> {
    const headers: Record<string, string> = { ...options.headers };
    const key = options.key === undefined ? apiKey : options.key;
    if (key !== null) headers['authorization'] ??= `Bearer ${key}`;
    let payload = options.rawBody;
    if (payload === undefined && body !== undefined) {
      payload = JSON.stringify(body);
      headers['content-type'] ??= 'application/json';
    }
    const response = await fetch(`${baseUrl}${path}`, { method, headers, body: payload, redirect: 'manual' });
    const text = await response.text();
    let parsed: unknown;
    try {
      parsed = text === '' ? undefined : JSON.parse(text);
    } catch {
      parsed = undefined;
    }
    return { status: response.status, headers: response.headers, body: parsed as T, text };
  }

  /** The body of a 2xx answer; anything else throws with status and text. */
  async function call<T = any>(method: string, path: string, body?: unknown): Promise<T> {
    const reply = await request<T>(method, path, body);
    if (reply.status < 200 || reply.status > 299) {
      throw new Error(`${method} ${path} answered ${reply.status}: ${reply.text}`);
    }
    return reply.body;
  }

  /** Waits until each operation has ended and gives them back; throws unless all ended well. */
  async function settle(answer: { operations?: Operation[] | undefined }, timeoutMs = 120_000): Promise<Operation[]> {
    const ended: Operation[] = [];
    for (const operation of answer.operations ?? []) {
      const last = await waitFor(
        `operation ${operation.action} ${operation.id}`,
        async () => {
          const path = `/projects/${operation.project_id}/operations/${operation.id}`;
          const { operation: now } = await call<{ operation: Operation }>('GET', path);
          return TERMINAL.has(now.status) ? now : undefined;
        },
        { timeoutMs },
      );
      if (!SUCCESS.has(last.status)) {
        throw new Error(`operation ${last.action} ended as ${last.status}: ${last.error ?? 'no error text'}`);
      }
      ended.push(last);
    }
    return ended;
  }

  /** Mutates and waits for the operations. */
  async function callAndSettle<T extends { operations?: Operation[] } = any>(
    method: string,
    path: string,
    body?: unknown,
  ): Promise<T> {
    const answer = await call<T>(method, path, body);
    await settle(answer);
    return answer;
  }

  async function createProject(project: Record<string, unknown> = {}): Promise<Place> {
    const created = await callAndSettle<CreateProjectResponse>('POST', '/projects', { project });
    return placeOf(created);
  }

  /** A branch of `parent` with a read-write endpoint. */
  async function createBranch(parent: Place, branch: Record<string, unknown> = {}): Promise<Place> {
    const created = await callAndSettle<CreateProjectBranchResponse>('POST', `/projects/${parent.projectId}/branches`, {
      branch: { parent_id: parent.branchId, ...branch },
      endpoints: [{ type: 'read_write' }],
    });
    return childPlace(parent, created);
  }

  /** Operations of a project that have not ended. */
  async function unfinished(projectId: string): Promise<Operation[]> {
    const { operations } = await call<{ operations: Operation[] }>(
      'GET',
      `/projects/${projectId}/operations?limit=1000`,
    );
    return operations.filter((operation) => !TERMINAL.has(operation.status));
  }

  async function idle(projectId: string, timeoutMs = 120_000, intervalMs = 25): Promise<void> {
    await waitFor(`operations of ${projectId}`, async () => (await unfinished(projectId)).length === 0, {
      timeoutMs,
      intervalMs,
    });
  }

  const endpointPath = (place: Place) => `/projects/${place.projectId}/endpoints/${place.endpointId}`;

  async function endpointState(place: Place): Promise<string> {
    const { endpoint } = await call<{ endpoint: { current_state: string } }>('GET', endpointPath(place));
    return endpoint.current_state;
  }

  async function suspend(place: Place): Promise<void> {
    await callAndSettle('POST', `${endpointPath(place)}/suspend`);
  }

  return {
    baseUrl,
    apiKey,
    request,
    call,
    settle,
    callAndSettle,
    createProject,
    createBranch,
    unfinished,
    idle,
    endpointState,
    endpointPath,
    suspend,
  };
}

/** Where a freshly created project is reached. */
export function placeOf(created: CreateProjectResponse): Place {
  const [uri] = created.connection_uris;
  if (uri === undefined) throw new Error('the new project came without a connection URI');
  return {
    projectId: created.project.id,
    branchId: created.branch.id,
    endpointId: created.endpoints[0]!.id,
    uri: uri.connection_uri,
    role: uri.connection_parameters.role,
    password: uri.connection_parameters.password,
    database: uri.connection_parameters.database,
  };
}

/** A child has its parent's roles, passwords and databases. */
export function childPlace(parent: Place, created: CreateProjectBranchResponse): Place {
  const endpointId = created.endpoints[0]!.id;
  return {
    ...parent,
    branchId: created.branch.id,
    endpointId,
    uri: created.connection_uris?.[0]?.connection_uri ?? parent.uri.replaceAll(parent.endpointId, endpointId),
  };
}
