/**
 * The whole API over a real catalog, without an engine: operations are written and nobody runs them.
 * Every operation that is offered is asked with random requests made from the document, about things that exist as
 * often as not. Whatever comes back is in the document, and nothing is a 5xx but 501.
 */
import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { handlers } from '../../src/api/handlers.ts';
import type { ApiServer } from '../../src/api/server.ts';
import { createApiServer } from '../../src/api/server.ts';
import type { JsonSchema } from '../../src/contract/document.ts';
import type { Operation } from '../../src/contract/operations.ts';
import type { ControlPlane } from '../../src/control-plane/control-plane.ts';
import { createControlPlane } from '../../src/control-plane/control-plane.ts';
import { ensureOwner, makeOwnerKey } from '../../src/control-plane/first-start.ts';
import { silentLogger } from '../../src/lib/log.ts';
import { SecretBox } from '../../src/lib/secret-box.ts';
import { createQueue } from '../../src/operations/queue.ts';
import type { TestCatalog } from '../support/catalog.ts';
import { openTestCatalog } from '../support/catalog.ts';
import { responseChecker } from '../support/response-checker.ts';
import type { Answer, Call } from './api-fixture.ts';
import { call } from './api-fixture.ts';
import { valid } from './arbitraries.ts';

const NODE_ID = 'node-1';
const RUNS = 15;
const checker = await responseChecker();
const { contract } = checker;
const offered = Object.keys(handlers).map((operationId) => contract.operations.get(operationId)!);

let store: TestCatalog;
let controlPlane: ControlPlane;
let api: ApiServer;
let key: string;
/** Names of things that exist, by parameter. */
let known: Record<string, string>;

beforeAll(async () => {
  store = await openTestCatalog();
  const { catalog } = store;
  const owner = await catalog.transaction(ensureOwner);
  // Beyond the random ids below, which would revoke it sooner or later.
  await catalog.query('alter table api_keys alter id restart with 5000000000');
  key = await catalog.transaction((tx) => makeOwnerKey(tx, owner, 'test'));
  controlPlane = createControlPlane({
    catalog,
    queue: createQueue({ catalog }),
    secretBox: new SecretBox(randomBytes(32)),
    config: { domain: 'localhost', pgPort: 5432, nodeId: NODE_ID, namesResolve: true },
    availableMajors: async () => [16, 17],
    assertRoomForTimeline: async () => undefined,
    dumpSchema: async () => '-- a schema\n',
    listSchema: async () => ({ tables: [] }),
    resolvePoint: async () => ({ lsn: '0/1964258', time: null }),
    preloadLibraries: async () => [
      { name: 'pg_stat_statements', description: '', isDefault: true, isExperimental: false, version: '1.11' },
    ],
  });
  api = createApiServer({ controlPlane, handlers, document: contract.document, logger: silentLogger() });
  known = await makeProject();
});

afterAll(async () => {
  await api?.close();
  await controlPlane?.close();
  await store?.close();
});

/** One request as the owner, its answer held against the document. */
async function ask(method: string, path: string, options: Call = {}): Promise<Answer> {
  const answer = await call(api, method, path, {
    ...options,
    headers: { authorization: `Bearer ${key}`, ...options.headers },
  });
  if (answer.status >= 500 && answer.status !== 501) {
    throw new Error(`${method} ${path} answered ${answer.status} to ${JSON.stringify(options.json)}`);
  }
  checker.checkRequest(method, `/api/v2${path}`, answer.status, answer.body);
  return answer;
}

/** What the runner would have done by now. */
async function settle(): Promise<void> {
  const { catalog } = store;
  await catalog.query(`update operations set status = 'finished' where status in ('scheduling', 'running')`);
  await catalog.query(
    `update branches set current_state = 'ready', pending_state = null
     where deleted_at is null and (current_state <> 'ready' or pending_state is not null)`,
  );
  await catalog.query(
    `update endpoints set current_state = 'idle', pending_state = null
     where deleted_at is null and (current_state <> 'idle' or pending_state is not null)`,
  );
  for (const table of ['roles', 'databases']) {
    await catalog.query(`delete from ${table} where state = 'deleting'`);
    await catalog.query(`update ${table} set state = 'ready' where state <> 'ready'`);
  }
}

async function makeProject(): Promise<Record<string, string>> {
  const { body } = await ask('POST', '/projects', { json: { project: {} } });
  const apiKey = await ask('POST', `/organizations/${body.project.org_id}/api_keys`, { json: { key_name: 'victim' } });
  const { body: me } = await ask('GET', '/users/me');
  await settle();
  return {
    project_id: body.project.id,
    branch_id: body.branch.id,
    endpoint_id: body.endpoints[0].id,
    role_name: body.roles[0].name,
    database_name: body.databases[0].name,
    operation_id: body.operations[0].id,
    org_id: body.project.org_id,
    key_id: String(apiKey.body.id),
    member_id: me.id,
  };
}

describe('a walk through the resources', () => {
  test('projects', async () => {
    const { body } = await ask('POST', '/projects', { json: { project: { name: 'walk', pg_version: 16 } } });
    expect(body.project).toMatchObject({ name: 'walk', pg_version: 16 });
    await settle();
    const path = `/projects/${body.project.id}`;
    expect((await ask('GET', path)).body.project.name).toBe('walk');
    expect((await ask('GET', '/projects?search=walk&limit=1')).body.projects).toHaveLength(1);
    expect((await ask('PATCH', path, { json: { project: { name: 'run' } } })).body.project.name).toBe('run');
    expect((await ask('GET', `${path}/connection_uri?database_name=neondb&role_name=neondb_owner`)).body.uri).toMatch(
      /^postgresql:/,
    );
    expect((await ask('DELETE', path)).status).toBe(200);
    expect((await ask('GET', path)).body.message).toBe('project not found');
  });

  test('branches, endpoints, roles and databases', async () => {
    const project = `/projects/${known['project_id']}`;
    const made = await ask('POST', `${project}/branches`, {
      payload: 'branch[name]=form&endpoints[0][type]=read_write',
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
    });
    expect(made.body).toMatchObject({ branch: { name: 'form' }, endpoints: [{ type: 'read_write' }] });
    await settle();
    const branch = `${project}/branches/${made.body.branch.id}`;
    expect((await ask('POST', `${branch}/roles`, { json: { role: { name: 'alex' } } })).status).toBe(201);
    await settle();
    expect(
      (await ask('POST', `${branch}/databases`, { json: { database: { name: 'd', owner_name: 'alex' } } })).status,
    ).toBe(201);
    await settle();
    expect((await ask('GET', `${branch}/roles/alex/reveal_password`)).body.password).toMatch(/^npg_/);
    expect((await ask('PATCH', `${branch}/databases/d`, { json: { database: { name: 'e' } } })).status).toBe(200);
    await settle();
    const endpoint = `${project}/endpoints/${made.body.endpoints[0].id}`;
    expect((await ask('POST', `${endpoint}/start`)).status).toBe(200);
    await settle();
    expect(
      (await ask('PATCH', endpoint, { json: { endpoint: { suspend_timeout_seconds: -1 } } })).body.endpoint
        .suspend_timeout_seconds,
    ).toBe(-1);
    await settle();
    expect((await ask('DELETE', branch)).status).toBe(200);
    expect((await ask('DELETE', branch)).status).toBe(204);
  });
});

describe('random requests', () => {
  test.each(offered.map((operation) => [operation.operationId, operation] as const))('%s', async (_id, operation) => {
    const shape = operation.body?.schema;
    const declared = operation.parameters;
    const values = fc.record(
      Object.fromEntries(
        declared.map((parameter) => [
          `${parameter.in} ${parameter.name}`,
          parameterValue(parameter.name, parameter.schema),
        ]),
      ),
      {
        requiredKeys: declared
          .filter((parameter) => parameter.required)
          .map((parameter) => `${parameter.in} ${parameter.name}`),
      },
    );
    const body =
      shape === undefined
        ? fc.constant(undefined)
        : fc
            .oneof(
              valid(contract.document, { $ref: shape }),
              valid(contract.document, { $ref: shape }).chain((whole) => thinned(whole, shape)),
            )
            .chain(withKnown);
    await fc.assert(
      fc.asyncProperty(values, body, async (given, json) => {
        const answer = await ask(operation.method, urlOf(operation, given), { json });
        // Otherwise every later answer would be a harmless refusal.
        expect(answer.status).not.toBe(401);
        await settle();
        // What was deleted is made again, so that the next request finds something.
        if (operation.method === 'DELETE' || operation.method === 'PATCH') known = await stillThere();
      }),
      { numRuns: RUNS },
    );
  });
});

function parameterValue(name: string, schema: JsonSchema): fc.Arbitrary<unknown> {
  const random = valid(contract.document, schema).filter((value) => !['', '.', '..'].includes(String(value)));
  if (!(name in known)) return random;
  return fc.oneof(
    { weight: 3, arbitrary: fc.constant(name).map((key) => known[key]) },
    { weight: 1, arbitrary: random },
  );
}

/** With few of its fields, so that one that the rules refuse does not hide the others. */
function thinned(whole: unknown, schema: string): fc.Arbitrary<unknown> {
  return fc.infiniteStream(fc.integer({ min: 0, max: 5 })).map((dice) => {
    const thin = (value: unknown): unknown => {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
      const kept = Object.entries(value).filter(([, inner]) => typeof inner === 'object' || dice.next().value === 0);
      return Object.fromEntries(kept.map(([name, inner]) => [name, thin(inner)]));
    };
    const body = thin(whole);
    return contract.schemas.at(schema)(body) === undefined ? body : whole;
  });
}

/** The body with some of its ids and names replaced by those of things that exist. */
function withKnown(body: unknown): fc.Arbitrary<unknown> {
  const replace = (value: unknown): unknown => {
    if (typeof value !== 'object' || value === null) return value;
    if (Array.isArray(value)) return value.map(replace);
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, aliases(name) ?? replace(inner)]));
  };
  return fc.boolean().map((yes) => (yes ? replace(body) : body));
}

function aliases(name: string): string | undefined {
  if (name === 'parent_id') return known['branch_id'];
  if (name === 'owner_name') return known['role_name'];
  return name === 'name' ? undefined : known[name];
}

function urlOf(operation: Operation, given: Record<string, unknown>): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith('query ')) query.append(name.slice('query '.length), String(value));
  }
  const path = operation.path.replaceAll(/\{(\w+)\}/g, (_all, name: string) =>
    encodeURIComponent(String(given[`path ${name}`])),
  );
  return `${path}?${query.toString()}`;
}

async function stillThere(): Promise<Record<string, string>> {
  const branch = `/projects/${known['project_id']}/branches/${known['branch_id']}`;
  const paths = [
    `${branch}/roles/${known['role_name']}`,
    `${branch}/databases/${known['database_name']}`,
    `/projects/${known['project_id']}/endpoints/${known['endpoint_id']}`,
  ];
  for (const path of paths) if ((await ask('GET', path)).status !== 200) return makeProject();
  return known;
}
