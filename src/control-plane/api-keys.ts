/**
 * API keys: made, listed, revoked, and looked up on every request.
 *
 * Every lookup asks the catalog, by the key's sha256 and without a cache: a key that anybody revoked fails with the next
 * request. Uses are collected in memory and written every few seconds.
 */
import { createHash } from 'node:crypto';
import type {
  ApiKeyCreateRequest,
  ApiKeyCreateResponse,
  ApiKeyRevokeResponse,
  ApiKeysListResponseItem,
  OrgApiKeyCreateRequest,
  OrgApiKeyCreateResponse,
  OrgApiKeyRevokeResponse,
  OrgApiKeysListResponseItem,
} from '@neon/sdk/raw';
import {
  countActiveApiKeys,
  findApiKeyIdentities,
  insertApiKey,
  listApiKeys,
  recordApiKeyUses,
  revokeApiKey,
  type ApiKeyScope,
} from '../catalog/api-keys.ts';
import { findOrganization } from '../catalog/organizations.ts';
import type { ApiKeyRow, Queryable } from '../catalog/types.ts';
import { newApiKey } from '../lib/ids.ts';
import { assertNotProjectKey, assertOrganizationInReach, assertPersonalKey } from './access.ts';
import { createBatchedLookup } from './batch.ts';
import type { Caller } from './caller.ts';
import { readProject, type Context } from './context.ts';
import { apiKeyNotFound, organizationNotFound, unprocessable } from './errors.ts';
import { LIMITS } from './limits.ts';
import { presentApiKey, presentTime } from './present.ts';

export interface ApiKeys {
  /** Undefined: no such key, or it is revoked. */
  authenticate(token: string, remoteAddress: string): Promise<Caller | undefined>;
  create(caller: Caller, body: ApiKeyCreateRequest): Promise<ApiKeyCreateResponse>;
  list(caller: Caller): Promise<ApiKeysListResponseItem[]>;
  revoke(caller: Caller, id: number): Promise<ApiKeyRevokeResponse>;
  createForOrganization(caller: Caller, orgId: string, body: OrgApiKeyCreateRequest): Promise<OrgApiKeyCreateResponse>;
  listOfOrganization(caller: Caller, orgId: string): Promise<OrgApiKeysListResponseItem[]>;
  revokeOfOrganization(caller: Caller, orgId: string, id: number): Promise<OrgApiKeyRevokeResponse>;
  /** Writes the uses that are still in memory, and stops the timer. */
  close(): Promise<void>;
}

export function createApiKeys(context: Context): ApiKeys {
  const uses = createUseLog(context.catalog);
  const findKey = createBatchedLookup((hashes) => findApiKeyIdentities(context.catalog, hashes));

  const list = async (scope: ApiKeyScope) => {
    await uses.flush();
    return (await listApiKeys(context.catalog, scope)).map(presentApiKey);
  };
  const revoke = async (scope: ApiKeyScope, id: number) => {
    await uses.flush();
    const row = await revokeApiKey(context.catalog, scope, id);
    if (!row) throw apiKeyNotFound();
    return presentRevoked(row);
  };

  return {
    authenticate: async (token, remoteAddress) => {
      const key = await findKey(hashKey(token).toString('hex'));
      if (!key) return undefined;
      uses.note(key.id, remoteAddress);
      return { keyId: key.id, kind: key.kind, userId: key.createdBy, orgId: key.orgId, projectId: key.projectId };
    },
    create: async (caller, body) => {
      assertPersonalKey(caller);
      await assertRoomForKey(context.catalog);
      return makeKey(context.catalog, {
        name: body.key_name,
        kind: 'personal',
        orgId: null,
        projectId: null,
        createdBy: caller.userId,
      });
    },
    list: async (caller) => {
      assertPersonalKey(caller);
      return list({ userId: caller.userId });
    },
    revoke: async (caller, id) => {
      assertPersonalKey(caller);
      return revoke({ userId: caller.userId }, id);
    },
    createForOrganization: async (caller, orgId, body) => {
      assertPersonalKey(caller);
      if (!(await findOrganization(context.catalog, orgId))) throw organizationNotFound();
      if (body.project_id !== undefined) await assertProjectOfOrganization(context, caller, orgId, body.project_id);
      await assertRoomForKey(context.catalog);
      return makeKey(context.catalog, {
        name: body.key_name,
        kind: body.project_id === undefined ? 'organization' : 'project',
        orgId,
        projectId: body.project_id ?? null,
        createdBy: caller.userId,
      });
    },
    listOfOrganization: async (caller, orgId) => {
      await assertOrganization(context, caller, orgId);
      return list({ orgId });
    },
    revokeOfOrganization: async (caller, orgId, id) => {
      await assertOrganization(context, caller, orgId);
      return revoke({ orgId }, id);
    },
    close: () => uses.close(),
  };
}

export function hashKey(token: string): Buffer {
  return createHash('sha256').update(token, 'utf8').digest();
}

/** Makes a key and stores its hash. The answer is the only place where the key itself ever appears. */
export async function makeKey(
  db: Queryable,
  key: Pick<ApiKeyRow, 'name' | 'kind' | 'orgId' | 'projectId' | 'createdBy'>,
): Promise<OrgApiKeyCreateResponse> {
  const secret = newApiKey();
  const row = await insertApiKey(db, { ...key, keyHash: hashKey(secret) });
  return {
    id: row.id,
    key: secret,
    name: row.name,
    created_at: presentTime(row.createdAt),
    created_by: row.createdBy,
    project_id: row.projectId ?? undefined,
  };
}

function presentRevoked(row: ApiKeyRow): OrgApiKeyRevokeResponse {
  return {
    id: row.id,
    name: row.name,
    created_at: presentTime(row.createdAt),
    created_by: row.createdBy,
    last_used_at: row.lastUsedAt === null ? null : presentTime(row.lastUsedAt),
    last_used_from_addr: row.lastUsedFromAddr,
    revoked: true,
    project_id: row.projectId ?? undefined,
  };
}

async function assertOrganization(context: Context, caller: Caller, orgId: string): Promise<void> {
  assertNotProjectKey(caller);
  assertOrganizationInReach(caller, orgId);
  if (!(await findOrganization(context.catalog, orgId))) throw organizationNotFound();
}

async function assertProjectOfOrganization(
  context: Context,
  caller: Caller,
  orgId: string,
  projectId: string,
): Promise<void> {
  const project = await readProject(context, caller, projectId);
  if (project.orgId !== orgId) {
    throw unprocessable('project does not belong to the organization', { project_id: projectId });
  }
}

async function assertRoomForKey(db: Queryable): Promise<void> {
  if ((await countActiveApiKeys(db)) >= LIMITS.apiKeys) {
    throw unprocessable('API keys limit exceeded', {}, 'API_KEYS_LIMIT_EXCEEDED');
  }
}

const FLUSH_INTERVAL_MS = 5_000;
const ADDRESSES_PER_KEY = 5;

interface Use {
  atMs: number;
  addresses: Set<string>;
}

/** Uses of keys between two writes; one entry per key, so it is bounded by their number. */
function createUseLog(db: Queryable) {
  let pending = new Map<number, Use>();
  let writing = Promise.resolve();

  const write = async (): Promise<void> => {
    if (pending.size === 0) return;
    const batch = pending;
    pending = new Map();
    const uses = [...batch].map(([id, use]) => ({ id, atMs: use.atMs, addresses: [...use.addresses].join(',') }));
    // When the catalog is away, these uses are lost; the next ones will be recorded.
    await recordApiKeyUses(db, uses).catch(() => undefined);
  };
  const flush = (): Promise<void> => (writing = writing.then(write));
  const timer = setInterval(() => void flush(), FLUSH_INTERVAL_MS);
  timer.unref();

  return {
    note: (keyId: number, address: string): void => {
      let use = pending.get(keyId);
      if (!use) pending.set(keyId, (use = { atMs: 0, addresses: new Set() }));
      use.atMs = Date.now();
      if (use.addresses.size < ADDRESSES_PER_KEY) use.addresses.add(address);
    },
    flush,
    close: async (): Promise<void> => {
      clearInterval(timer);
      await flush();
    },
  };
}
