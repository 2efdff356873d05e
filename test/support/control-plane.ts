/**
 * A control plane on a catalog of its own, with the real queue and no runner: operations stay as they were appended
 * until `settle` ends them and brings the rows into the states that the work would have left.
 */
import { handlers } from '../../src/api/handlers.ts';
import { createApiServer } from '../../src/api/server.ts';
import { createControlPlane, type ControlPlane } from '../../src/control-plane/control-plane.ts';
import type { Caller } from '../../src/control-plane/caller.ts';
import type {
  ControlPlaneConfig,
  ControlPlaneDependencies,
  PreloadLibraryFacts,
} from '../../src/control-plane/context.ts';
import { ensureOwner, makeOwnerKey, type Owner } from '../../src/control-plane/first-start.ts';
import { silentLogger } from '../../src/lib/log.ts';
import { SecretBox } from '../../src/lib/secret-box.ts';
import { createQueue } from '../../src/operations/queue.ts';
import { checkPassword, parseVerifier } from '../../src/postgres/wire/scram.ts';
import { openTestCatalog, type TestCatalog } from './catalog.ts';
import { testDocument } from './contract.ts';
import { responseChecker } from './response-checker.ts';

export interface TestControlPlane {
  plane: ControlPlane;
  catalog: TestCatalog['catalog'];
  owner: Owner;
  /** A personal key of the owner. */
  caller: Caller;
  secretBox: SecretBox;
  config: ControlPlaneConfig;
  /** How often the runner was poked, and which projects were told to have changed. */
  pokes(): number;
  changed: string[];
  /** Ends everything that is under way, as if it had gone well. */
  settle(): Promise<void>;
  close(): Promise<void>;
}

/** What the engine would answer; each has a default that refuses nothing. */
export type TestEngineAnswers = Partial<
  Pick<ControlPlaneDependencies, 'assertRoomForTimeline' | 'resolvePoint' | 'dumpSchema' | 'listSchema'>
>;

const LIBRARIES: PreloadLibraryFacts[] = [
  {
    name: 'pg_stat_statements',
    description: 'statistics of statements',
    isDefault: true,
    isExperimental: false,
    version: '1.11',
  },
];

export async function openTestControlPlane(options: TestEngineAnswers = {}): Promise<TestControlPlane> {
  const opened = await openTestCatalog();
  const { catalog } = opened;
  const owner = await catalog.transaction(ensureOwner);
  const queue = createQueue({ catalog });
  const secretBox = new SecretBox(Buffer.alloc(32, 7));
  const config = { domain: 'db.example.com', pgPort: 5432, nodeId: 'node-1', namesResolve: true };
  const changed: string[] = [];
  let pokes = 0;
  queue.onPoke(() => (pokes += 1));
  const plane = createControlPlane({
    catalog,
    queue,
    secretBox,
    config,
    availableMajors: async () => [16, 17],
    assertRoomForTimeline: options.assertRoomForTimeline ?? (async () => undefined),
    resolvePoint: options.resolvePoint ?? (async () => ({ lsn: '0/1964258', time: '2026-01-16T20:53:56.123456Z' })),
    dumpSchema: options.dumpSchema ?? (async () => '-- a schema\n'),
    listSchema: options.listSchema ?? (async () => ({ tables: [] })),
    preloadLibraries: async () => LIBRARIES,
    onProjectChanged: (projectId) => changed.push(projectId),
  });
  return {
    plane,
    catalog,
    owner,
    caller: { keyId: 0, kind: 'personal', userId: owner.userId, orgId: null, projectId: null },
    secretBox,
    config,
    pokes: () => pokes,
    changed,
    settle: () => settle(catalog),
    close: async () => {
      await plane.close();
      queue.close();
      await opened.close();
    },
  };
}

async function settle(catalog: TestCatalog['catalog']): Promise<void> {
  const statements = [
    `update operations set status = 'finished', started_at = coalesce(started_at, created_at), finished_at = now()
     where status in ('scheduling', 'running')`,
    `update branches set current_state = 'ready', pending_state = null where deleted_at is null and current_state in ('init', 'resetting')`,
    `update endpoints set current_state = pending_state, pending_state = null
     where deleted_at is null and pending_state is not null`,
    `delete from roles where state = 'deleting'`,
    `update roles set state = 'ready' where state <> 'ready'`,
    `delete from databases where state = 'deleting'`,
    `update databases set state = 'ready', applied_name = null where state <> 'ready'`,
  ];
  for (const statement of statements) await catalog.query(statement);
}

export interface TestAnswer<Body = any> {
  status: number;
  body: Body;
}

export interface TestApi extends TestControlPlane {
  /** The owner's key. */
  key: string;
  /** Sends a request through the API's edge; every answer is checked against the document. */
  request(method: string, path: string, body?: unknown, key?: string): Promise<TestAnswer>;
  /** The same; throws unless the answer is 2xx, and gives its body. */
  call(method: string, path: string, body?: unknown, key?: string): Promise<any>;
}

/** The control plane behind the real edge of the API. */
export async function openTestApi(options: TestEngineAnswers = {}): Promise<TestApi> {
  const test = await openTestControlPlane(options);
  const key = await makeOwnerKey(test.catalog, test.owner, 'test');
  const server = createApiServer({
    controlPlane: test.plane,
    handlers,
    document: await testDocument(),
    logger: silentLogger(),
  });
  const checker = await responseChecker();
  const request: TestApi['request'] = async (method, path, body, requestKey = key) => {
    const url = `/api/v2${path}`;
    const reply = await server.app.inject({
      method: method as 'GET',
      url,
      headers: {
        authorization: `Bearer ${requestKey}`,
        ...(body !== undefined && { 'content-type': 'application/json' }),
      },
      ...(body !== undefined && { payload: JSON.stringify(body) }),
    });
    const parsed: unknown = reply.body === '' ? undefined : JSON.parse(reply.body);
    checker.checkRequest(method, url, reply.statusCode, parsed);
    return { status: reply.statusCode, body: parsed };
  };
  return {
    ...test,
    key,
    request,
    call: async (method, path, body, requestKey) => {
      const answer = await request(method, path, body, requestKey);
      if (answer.status < 200 || answer.status > 299) {
        throw new Error(`${method} ${path} answered ${answer.status}: ${JSON.stringify(answer.body)}`);
      }
      return answer.body;
    },
    close: async () => {
      await server.close();
      await test.close();
    },
  };
}

/** Whether a SCRAM verifier was made from the password. */
export async function opensWith(verifier: string, password: string): Promise<boolean> {
  return (await checkPassword(password, parseVerifier(verifier)!)) !== undefined;
}
