/**
 * The edge by status: which request gets which status and text, whoever handles it.
 */
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { ApiServer } from '../../src/api/server.ts';
import { AppError } from '../../src/lib/errors.ts';
import type { ErrorKind } from '../../src/lib/errors.ts';
import { createLogger, silentLogger } from '../../src/lib/log.ts';
import { CALLER, call, fakeApi, recorder } from './api-fixture.ts';

const getProject = recorder({ project: {} });
const createProject = recorder();
const createProjectBranch = recorder();
const listProjects = recorder();
const getConnectionURI = recorder();
const grantPermissionToProject = recorder();
const consumption = recorder();
const revokeApiKey = recorder();
const getProjectBranchDatabase = recorder();
let thrown: unknown;
let api: ApiServer;

beforeAll(async () => {
  api = await fakeApi({
    getProject: getProject.handler,
    createProject: createProject.handler,
    createProjectBranch: createProjectBranch.handler,
    listProjects: listProjects.handler,
    getConnectionURI: getConnectionURI.handler,
    grantPermissionToProject: grantPermissionToProject.handler,
    getConsumptionHistoryPerProjectV2: consumption.handler,
    revokeApiKey: revokeApiKey.handler,
    getProjectBranchDatabase: getProjectBranchDatabase.handler,
    createProjectBranchTrigger: createProject.handler,
    deleteProjectBranch: async () => ({ status: 204 }),
    getProjectEndpoint: async () => {
      throw thrown;
    },
  });
});
afterAll(() => api.close());

describe('2xx', () => {
  test('answers with the status of the document and the headers that clients read', async () => {
    const answer = await call(api, 'GET', '/projects/p1');
    expect(answer).toMatchObject({ status: 200, body: { project: {} } });
    expect(answer.headers).toMatchObject({
      'content-type': 'application/json; charset=utf-8',
      'x-neon-ret-request-id': expect.stringMatching(/^[0-9a-f-]{36}$/),
      'x-content-type-options': 'nosniff',
      'cache-control': 'no-store',
    });
    expect(getProject.seen.at(-1)).toEqual({
      params: { project_id: 'p1' },
      query: {},
      body: undefined,
      caller: CALLER,
      requestId: answer.headers['x-neon-ret-request-id'],
    });
  });

  test('creates with 201 and passes the body as it was sent, without defaults, with unknown fields', async () => {
    const json = { project: { name: 'x', unknown: [1] } };
    expect((await call(api, 'POST', '/projects', { json })).status).toBe(201);
    expect(createProject.seen.at(-1)!.body).toEqual(json);
  });

  test('204 has no body', async () => {
    expect(await call(api, 'DELETE', '/projects/p1/branches/br-1')).toMatchObject({
      status: 204,
      body: undefined,
    });
  });

  test.each([undefined, 'application/json', 'text/plain'])('an empty optional body is no body (%s)', async (type) => {
    const headers: Record<string, string> = type ? { 'content-type': type } : {};
    expect((await call(api, 'POST', '/projects/p1/branches', { headers })).status).toBe(201);
    expect(createProjectBranch.seen.at(-1)!.body).toBeUndefined();
  });

  test('JSON without a content type is JSON', async () => {
    expect((await call(api, 'POST', '/projects', { payload: '{"project":{}}' })).status).toBe(201);
  });

  test('a body that the operation does not take is ignored', async () => {
    expect(
      (
        await call(api, 'DELETE', '/projects/p1/branches/br-1', {
          payload: '{nonsense',
          headers: { 'content-type': 'x/y' },
        })
      ).status,
    ).toBe(204);
  });

  test.each(['1', 't', 'T', 'TRUE', 'true', 'True'])('pooled=%s is true', async (value) => {
    await call(api, 'GET', `/projects/p1/connection_uri?database_name=d&role_name=r&pooled=${value}`);
    expect(getConnectionURI.seen.at(-1)!.query).toEqual({ database_name: 'd', role_name: 'r', pooled: true });
  });

  test.each(['0', 'f', 'F', 'FALSE', 'false', 'False'])('pooled=%s is false', async (value) => {
    await call(api, 'GET', `/projects/p1/connection_uri?database_name=d&role_name=r&pooled=${value}`);
    expect(getConnectionURI.seen.at(-1)!.query).toMatchObject({ pooled: false });
  });

  test('numbers and empty values of a query', async () => {
    await call(api, 'GET', '/projects?limit=7&cursor=&search=a%20b&whatever=1');
    expect(listProjects.seen.at(-1)!.query).toEqual({ limit: 7, search: 'a b' });
  });

  test('lists in a query are repeated or separated by commas', async () => {
    const range = 'from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z&granularity=daily&org_id=org-1';
    await call(
      api,
      'GET',
      `/consumption_history/v2/projects?${range}&metrics=compute_unit_seconds,root_branch_bytes_month&project_ids=a&project_ids=b,c`,
    );
    expect(consumption.seen.at(-1)!.query).toMatchObject({
      metrics: ['compute_unit_seconds', 'root_branch_bytes_month'],
      project_ids: ['a', 'b', 'c'],
    });
  });

  test('path parameters are decoded and typed', async () => {
    await call(api, 'DELETE', '/api_keys/42');
    expect(revokeApiKey.seen.at(-1)!.params).toEqual({ key_id: 42 });
    await call(api, 'GET', '/projects/p1/branches/br-1/databases/a%2Fb%20%C3%BC');
    expect(getProjectBranchDatabase.seen.at(-1)!.params).toMatchObject({ database_name: 'a/b ü' });
  });

  test('HEAD answers like GET without a body', async () => {
    expect(await call(api, 'HEAD', '/projects/p1')).toMatchObject({ status: 200, body: undefined });
  });

  test('healthz needs no key', async () => {
    expect(await call(api, 'GET', '=/healthz', { key: false })).toMatchObject({
      status: 200,
      body: { status: 'ok' },
    });
  });

  test('OPTIONS names the methods', async () => {
    const answer = await call(api, 'OPTIONS', '/projects', { key: false });
    expect(answer.status).toBe(204);
    expect(answer.headers['allow']).toBe('GET, POST, HEAD, OPTIONS');
    expect(answer.headers).not.toHaveProperty('access-control-allow-origin');
  });
});

describe('request ids', () => {
  test('X-Request-ID is kept, in the body of errors too', async () => {
    const answer = await call(api, 'GET', '/nowhere', { headers: { 'x-request-id': 'abc-1.2' } });
    expect(answer.headers['x-neon-ret-request-id']).toBe('abc-1.2');
    expect(answer.body.request_id).toBe('abc-1.2');
  });

  test.each(['a b', 'ü', '<script>', 'x'.repeat(129), '"'])('X-Request-ID %j is replaced', async (id) => {
    const answer = await call(api, 'GET', '/nowhere', { headers: { 'x-request-id': id } });
    expect(answer.body.request_id).toMatch(/^[0-9a-f-]{36}$/);
  });
});

describe('301', () => {
  test('an empty path segment is redirected to the path without it', async () => {
    const answer = await call(api, 'GET', '/projects//branches?limit=1');
    expect(answer.status).toBe(301);
    expect(answer.headers['location']).toBe('/api/v2/projects/branches?limit=1');
  });

  test('never to another host', async () => {
    expect((await call(api, 'GET', '=//example.com//x')).headers['location']).toBe('/example.com/x');
  });
});

describe('400', () => {
  const message = async (method: string, path: string, options: Parameters<typeof call>[3] = {}) => {
    const answer = await call(api, method, path, options);
    expect(answer).toMatchObject({ status: 400, body: { code: '' } });
    return answer.body.message as string;
  };

  test.each([
    [{}, 'project (field required)'],
    [{ project: 1 }, 'project (expected object, got number)'],
    [{ project: { name: '' } }, 'project.name (string: len 0 less than minimum 1)'],
    [{ project: { name: 'é'.repeat(257) } }, 'project.name (string: len 257 greater than maximum 256)'],
    [{ project: { pg_version: 'x' } }, 'project.pg_version (expected integer, got string)'],
    [{ project: { pg_version: 17.5 } }, 'project.pg_version (expected integer, got number)'],
    [{ project: { pg_version: 13 } }, 'project.pg_version (value 13 less than 14)'],
    [
      { project: { history_retention_seconds: 2592001 } },
      'project.history_retention_seconds (value 2592001 greater than 2592000)',
    ],
    [{ project: { org_id: 'A!' } }, 'project.org_id (string: no regex match: ^[a-z0-9-]{1,60}$)'],
    [{ project: { store_passwords: 'true' } }, 'project.store_passwords (expected boolean, got string)'],
    [{ project: { name: null } }, 'project.name (expected string, got null)'],
    [
      { project: { settings: { allowed_ips: { ips: [1] } } } },
      'project.settings.allowed_ips.ips.0 (expected string, got number)',
    ],
    [
      { project: { settings: { quota: { written_data_bytes: 1e19 } } } },
      'project.settings.quota.written_data_bytes (invalid int64)',
    ],
    [
      { project: { default_endpoint_settings: { pg_settings: { a: 1 } } } },
      'project.default_endpoint_settings.pg_settings.a (expected string, got number)',
    ],
  ])('createProject %j', async (json, problem) => {
    expect(await message('POST', '/projects', { json })).toBe(
      `invalid request: decode application/json: invalid: ${problem}`,
    );
  });

  test('enums and times', async () => {
    const branch = (json: unknown) => message('POST', '/projects/p1/branches', { json });
    expect(await branch({ endpoints: [{ type: 'both' }] })).toBe(
      'invalid request: decode application/json: invalid: endpoints.0.type (invalid value: "both")',
    );
    expect(await branch({ branch: { expires_at: 'soon' } })).toBe(
      'invalid request: decode application/json: invalid: branch.expires_at (invalid date-time)',
    );
  });

  test('alternatives that cannot be told apart', async () => {
    const trigger = (json: unknown) => message('POST', '/projects/p1/branches/br-1/triggers', { json });
    const start = 'invalid request: decode application/json: ';
    expect(await trigger({})).toBe(`${start}unable to detect sum type variant`);
    expect(await trigger({ type: 'other' })).toBe(`${start}unable to detect sum type variant`);
    expect(await trigger({ type: 'schedule', name: 'n', function_slug: 'f' })).toBe(
      `${start}invalid: schedule (field required)`,
    );
  });

  test('bodies that are no JSON, no object, or missing', async () => {
    expect(
      await message('POST', '/projects', {
        payload: '{"project":',
        headers: { 'content-type': 'application/json' },
      }),
    ).toBe('invalid request: decode application/json: malformed JSON');
    expect(await message('POST', '/projects', { json: [] })).toBe(
      'invalid request: decode application/json: expected object, got array',
    );
    expect(await message('POST', '/projects', {})).toBe('invalid request: decode request: body required');
    const deep = `{"project":${'['.repeat(100_000)}${']'.repeat(100_000)}}`;
    expect(await message('POST', '/projects', { payload: deep })).toBe(
      'invalid request: decode application/json: nested too deep',
    );
  });

  test('an answer never quotes a malformed body', async () => {
    expect(
      await message('POST', '/projects', {
        payload: 'hunter2',
        headers: { 'content-type': 'application/json' },
      }),
    ).not.toContain('hunter2');
  });

  test.each([
    ['/projects?limit=x', 'query: "limit": expected integer, got string'],
    ['/projects?limit=0', 'query: "limit": value 0 less than 1'],
    ['/projects?limit=401', 'query: "limit": value 401 greater than 400'],
    ['/projects?limit=1.5', 'query: "limit": expected integer, got string'],
    ['/projects?recoverable=yes', 'query: "recoverable": expected boolean, got string'],
    ['/projects/p1/connection_uri?database_name=d', 'query: "role_name": field required'],
    ['/projects/P1', 'path: "project_id": string: no regex match: ^[a-z0-9-]{1,60}$'],
    ['/projects/%5Bobject%20Object%5D', 'path: "project_id": string: no regex match: ^[a-z0-9-]{1,60}$'],
  ])('GET %s', async (path, problem) => {
    expect(await message('GET', path)).toBe(`invalid request: decode params: ${problem}`);
  });

  test('text that no database can hold', async () => {
    const problem = 'string: invalid characters';
    for (const payload of [
      String.raw`{"project":{"name":"\u0000"}}`,
      String.raw`{"project":{"name":"\ud800"}}`,
      String.raw`{"project":{},"\u0000":1}`,
    ]) {
      expect(await message('POST', '/projects', { payload })).toBe(
        `invalid request: decode application/json: ${problem}`,
      );
    }
    expect(await message('GET', '/projects?search=%00')).toBe(
      `invalid request: decode params: query: "search": ${problem}`,
    );
    expect(await message('GET', '/projects/p1/branches/br-1/databases/a%00')).toBe(
      `invalid request: decode params: path: "database_name": ${problem}`,
    );
    expect((await call(api, 'POST', '/projects', { json: { project: { name: '🐘' } } })).status).toBe(201);
  });

  test('a path that cannot be decoded', async () => {
    expect(await message('GET', '/projects/%zz')).toBe('invalid request: malformed HTTP request');
    expect((await call(api, 'GET', '/projects/%zz')).headers).toHaveProperty('x-neon-ret-request-id');
  });

  test('what is no HTTP gets an answer in the error shape', async () => {
    const { port } = await api.start('127.0.0.1', 0);
    const text = await new Promise<string>((resolve) => {
      let received = '';
      const socket = connect(port, '127.0.0.1', () => socket.write('nonsense\r\n\r\n'));
      socket.on('data', (data) => (received += data)).on('close', () => resolve(received));
    });
    expect(text).toMatch(/^HTTP\/1.1 400 Bad Request/);
    expect(JSON.parse(text.split('\r\n\r\n')[1]!)).toMatchObject({
      code: '',
      message: 'invalid request: malformed HTTP request',
    });
  });
});

describe('form-encoded bodies', () => {
  const form = (path: string, payload: string) =>
    call(api, 'POST', path, {
      payload,
      headers: { 'content-type': 'application/x-www-form-urlencoded; charset=utf-8' },
    });

  test('take their types from the schema, at any depth', async () => {
    const answer = await form(
      '/projects',
      'project[name]=a+b%26&project[pg_version]=16&project[store_passwords]=True&project[settings][quota][written_data_bytes]=5' +
        '&project[settings][allowed_ips][ips][]=10.0.0.1&project[settings][allowed_ips][ips][]=10.0.0.2' +
        '&project[default_endpoint_settings][autoscaling_limit_min_cu]=0.25&project[default_endpoint_settings][pg_settings][work_mem]=64',
    );
    expect(answer.status).toBe(201);
    expect(createProject.seen.at(-1)!.body).toEqual({
      project: {
        name: 'a b&',
        pg_version: 16,
        store_passwords: true,
        settings: { quota: { written_data_bytes: 5 }, allowed_ips: { ips: ['10.0.0.1', '10.0.0.2'] } },
        default_endpoint_settings: { autoscaling_limit_min_cu: 0.25, pg_settings: { work_mem: '64' } },
      },
    });
  });

  test('arrays of objects, included schemas and free maps', async () => {
    await form(
      '/projects/p1/branches',
      'branch[name]=x&endpoints[0][type]=read_write&endpoints[0][suspend_timeout_seconds]=0&annotation_value[k]=1',
    );
    expect(createProjectBranch.seen.at(-1)!.body).toEqual({
      branch: { name: 'x' },
      endpoints: [{ type: 'read_write', suspend_timeout_seconds: 0 }],
      annotation_value: { k: '1' },
    });
  });

  test('are validated like JSON', async () => {
    expect((await form('/projects', 'project[pg_version]=new')).body.message).toBe(
      'invalid request: decode application/x-www-form-urlencoded: invalid: project.pg_version (expected integer, got string)',
    );
    expect((await form('/projects', 'name=x')).body.message).toBe(
      'invalid request: decode application/x-www-form-urlencoded: invalid: project (field required)',
    );
  });

  test('reach no prototype and have limits', async () => {
    expect(
      (
        await form(
          '/projects',
          'project[name]=x&__proto__[polluted]=1&project[__proto__][polluted]=1&constructor[prototype][polluted]=1',
        )
      ).status,
    ).toBe(201);
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
    expect((createProject.seen.at(-1)!.body as any).project.polluted).toBeUndefined();
    expect((await form('/projects', `project${'[a]'.repeat(1000)}=1`)).status).toBe(400);
    expect(
      (await form('/projects', Array.from({ length: 5000 }, (_, i) => `project[settings][k${i}]=1`).join('&'))).status,
    ).toBe(400);
  });

  test('JSON reaches no prototype either', async () => {
    await call(api, 'POST', '/projects', {
      payload: String.raw`{"project":{"name":"x","__proto__":{"polluted":1},"\u005f_proto__":{"polluted":1}}}`,
    });
    const { project } = createProject.seen.at(-1)!.body as unknown as { project: object };
    expect(Object.keys(project)).toEqual(['name']);
    expect(Object.assign({}, project)).not.toHaveProperty('polluted');
  });
});

describe('401', () => {
  test.each([
    undefined,
    '',
    'Bearer',
    'Bearer ',
    'Bearer wrong',
    'Basic napi_test',
    'napi_test',
    `Bearer ${'x'.repeat(5000)}`,
  ])('authorization %j', async (authorization) => {
    const headers: Record<string, string> = authorization === undefined ? {} : { authorization };
    const answer = await call(api, 'GET', '/projects/p1', { key: false, headers });
    expect(answer).toMatchObject({
      status: 401,
      body: { code: '', message: 'supplied credentials do not pass authentication' },
    });
  });

  test('comes before any look at the request', async () => {
    expect((await call(api, 'POST', '/projects', { key: false, json: {} })).status).toBe(401);
    expect((await call(api, 'POST', '/projects', { key: false, payload: 'x'.repeat(2 * 1024 * 1024) })).status).toBe(
      401,
    );
  });

  test('the scheme may be written in any case', async () => {
    expect(
      (await call(api, 'GET', '/projects/p1', { key: false, headers: { authorization: 'bearer napi_test' } })).status,
    ).toBe(200);
  });
});

describe('404', () => {
  test.each([
    '/nowhere',
    '/projects/',
    '/projects/p1/',
    '/projects/p1/branches/',
    '',
    '=/',
    '=/api/v3/projects',
    '=/api/v2',
    '=/favicon.ico',
  ])('GET %j', async (path) => {
    expect(await call(api, 'GET', path)).toMatchObject({
      status: 404,
      body: { code: '', message: 'this route does not exist' },
    });
  });

  test('an empty id at the end deletes nothing', async () => {
    expect((await call(api, 'DELETE', '/projects/p1/branches/')).status).toBe(404);
    expect((await call(api, 'DELETE', '/projects/p1//')).status).toBe(404);
  });
});

describe('405', () => {
  test('a known path names its methods', async () => {
    const answer = await call(api, 'PUT', '/projects/p1');
    expect(answer).toMatchObject({ status: 405, body: { code: '', message: 'method not allowed' } });
    expect(answer.headers['allow']).toBe('GET, PATCH, DELETE, HEAD, OPTIONS');
  });

  test('fixed paths are not mistaken for ids', async () => {
    expect((await call(api, 'DELETE', '/projects/shared')).status).toBe(405);
  });
});

test('410: API v1 points to v2', async () => {
  const answer = await call(api, 'GET', '=/api/v1/projects', { key: false });
  expect(answer).toMatchObject({
    status: 410,
    body: { code: '', message: expect.stringContaining('/api/v2') },
  });
});

test('413: bodies have a limit', async () => {
  const answer = await call(api, 'POST', '/projects', { payload: `{"x":"${'x'.repeat(1024 * 1024)}"}` });
  expect(answer).toMatchObject({
    status: 413,
    body: { code: '', message: 'invalid request: request body too large' },
  });
});

test.each(['text/plain', 'multipart/form-data; boundary=x', 'application/xml'])('415: %s', async (type) => {
  const answer = await call(api, 'POST', '/projects', { payload: 'x', headers: { 'content-type': type } });
  expect(answer.status).toBe(415);
  expect(answer.body.message).toBe(`invalid request: decode request: unexpected Content-Type: ${type.split(';')[0]}`);
});

test('501: an operation without a handler names itself', async () => {
  const answer = await call(api, 'GET', '/projects/p1/jwks');
  expect(answer).toMatchObject({
    status: 501,
    body: { code: '', message: 'operation getProjectJWKS is not implemented by this server' },
  });
});

describe('what handlers throw', () => {
  const kinds: [ErrorKind, number][] = [
    ['invalid', 400],
    ['unauthenticated', 401],
    ['forbidden', 403],
    ['not_found', 404],
    ['not_acceptable', 406],
    ['conflict', 409],
    ['precondition', 412],
    ['unprocessable', 422],
    ['locked', 423],
    ['too_many', 429],
    ['not_implemented', 501],
    ['unavailable', 503],
  ];
  test.each(kinds)('%s is %i with its own text and code', async (kind, status) => {
    thrown = new AppError(kind, 'branch not found', { code: 'SOME_CODE', internal: 'secret' });
    const answer = await call(api, 'GET', '/projects/p1/endpoints/ep-1');
    expect(answer.status).toBe(status);
    expect(answer.body).toEqual({
      request_id: answer.headers['x-neon-ret-request-id'],
      code: 'SOME_CODE',
      message: 'branch not found',
    });
  });

  test.each([
    new Error('secret'),
    new AppError('internal', 'secret'),
    'secret',
    undefined,
    null,
    { statusCode: 999 },
    Object.assign(new Error('secret'), { statusCode: 503 }),
  ])('%s is a plain 500', async (error) => {
    thrown = error;
    const answer = await call(api, 'GET', '/projects/p1/endpoints/ep-1');
    expect(answer).toMatchObject({ status: 500, body: { code: '', message: 'internal server error' } });
    expect(JSON.stringify(answer)).not.toContain('secret');
  });

  test('429 and 503 say when to come again', async () => {
    thrown = new AppError('unavailable', 'later');
    expect((await call(api, 'GET', '/projects/p1/endpoints/ep-1')).headers['retry-after']).toBe('1');
  });
});

test('a running request ends before the server has closed, and is answered', async () => {
  let finish: (() => void) | undefined;
  const server = await fakeApi({
    getProject: () => new Promise((resolve) => (finish = () => resolve({ body: { project: {} } }))),
  });
  const { port } = await server.start('127.0.0.1', 0);
  const answer = fetch(`http://127.0.0.1:${port}/api/v2/projects/p1`, {
    headers: { authorization: 'Bearer napi_test' },
  });
  await expect.poll(() => finish).toBeDefined();
  const closed = server.close();
  finish!();
  expect((await answer).status).toBe(200);
  await closed;
  await expect(fetch(`http://127.0.0.1:${port}/healthz`)).rejects.toThrow('fetch failed');
});

describe('start', () => {
  test('a taken port is explained', async () => {
    const first = await fakeApi({});
    const second = await fakeApi({}, { logger: silentLogger() });
    try {
      const { port } = await first.start('127.0.0.1', 0);
      await expect(second.start('127.0.0.1', port)).rejects.toThrow(
        /another program has that port; choose another one with --api-port/,
      );
    } finally {
      await Promise.all([first.close(), second.close()]);
    }
  });

  test('an address of another machine is explained', async () => {
    const server = await fakeApi({}, { logger: createLogger({ level: 'silent' }) });
    await expect(server.start('203.0.113.1', 0)).rejects.toThrow('--listen');
    await server.close();
  });
});

test('a handler for an operation that is not in the contract is refused at start', async () => {
  await expect(fakeApi({ getNothing: getProject.handler })).rejects.toThrow('getNothing');
});
