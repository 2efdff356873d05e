/**
 * Queries on `api_keys`. Keys are stored as the sha256 of the whole key; the key itself never gets here.
 */
import type { ApiKeyKind, ApiKeyRow, Queryable } from './types.ts';

/** Rows of lists carry the name of the user who made the key. */
export interface ApiKeyListRow extends ApiKeyRow {
  creatorName: string;
}

/** What authentication needs, and no more: it runs on every request. */
export interface ApiKeyIdentity {
  id: number;
  kind: ApiKeyKind;
  orgId: string | null;
  projectId: string | null;
  createdBy: string;
}

export interface NewApiKey {
  name: string;
  keyHash: Buffer;
  kind: ApiKeyKind;
  orgId: string | null;
  projectId: string | null;
  createdBy: string;
}

/** Which keys a list or a revocation is about: personal ones of a user, or those of an organization. */
export type ApiKeyScope = { userId: string } | { orgId: string };

// key_hash stays in the database: nobody needs it back.
const COLUMNS =
  'k.id, k.name, k.kind, k.org_id, k.project_id, k.created_by, k.created_at, k.last_used_at, k.last_used_from_addr, k.revoked_at';

/** By hash in hexadecimal. Revoked keys are not found. */
export async function findApiKeyIdentities(
  db: Queryable,
  keyHashes: readonly string[],
): Promise<Map<string, ApiKeyIdentity>> {
  const rows = await db.query<ApiKeyIdentity & { keyHash: string }>(
    `select encode(key_hash, 'hex') as key_hash, id, kind, org_id, project_id, created_by from api_keys
     where key_hash = any (array(select decode(hash, 'hex') from unnest($1::text[]) hash)) and revoked_at is null`,
    [keyHashes],
    'find_api_key_identities',
  );
  return new Map(rows.map((row) => [row.keyHash, row]));
}

export async function insertApiKey(db: Queryable, key: NewApiKey): Promise<ApiKeyRow> {
  const rows = await db.query<ApiKeyRow>(
    `insert into api_keys as k (name, key_hash, kind, org_id, project_id, created_by)
     values ($1, $2, $3, $4, $5, $6) returning ${COLUMNS}`,
    [key.name, key.keyHash, key.kind, key.orgId, key.projectId, key.createdBy],
  );
  return rows[0]!;
}

export async function listApiKeys(db: Queryable, scope: ApiKeyScope): Promise<ApiKeyListRow[]> {
  const { condition, value } = scopeCondition(scope);
  return db.query<ApiKeyListRow>(
    `select ${COLUMNS}, u.name as creator_name from api_keys k join users u on u.id = k.created_by
     where ${condition} and k.revoked_at is null order by k.id`,
    [value],
  );
}

/** Undefined when there is no such key in the scope or it was revoked before. */
export async function revokeApiKey(db: Queryable, scope: ApiKeyScope, id: number): Promise<ApiKeyRow | undefined> {
  const { condition, value } = scopeCondition(scope);
  const rows = await db.query<ApiKeyRow>(
    `update api_keys k set revoked_at = now()
     where ${condition} and k.id = $2 and k.revoked_at is null returning ${COLUMNS}`,
    [value, id],
  );
  return rows[0];
}

export async function countActiveApiKeys(db: Queryable): Promise<number> {
  const rows = await db.query<{ count: number }>('select count(*) as count from api_keys where revoked_at is null');
  return rows[0]!.count;
}

export interface ApiKeyUse {
  id: number;
  /** Milliseconds since the epoch. */
  atMs: number;
  /** Comma-joined remote addresses. */
  addresses: string;
}

/** Records uses of many keys in one statement; an older use never overwrites a newer one. */
export async function recordApiKeyUses(db: Queryable, uses: readonly ApiKeyUse[]): Promise<void> {
  await db.query(
    `update api_keys k set last_used_at = to_timestamp(u.at_ms / 1000.0), last_used_from_addr = u.addresses
     from jsonb_to_recordset($1::jsonb) as u (id bigint, at_ms double precision, addresses text)
     where k.id = u.id and (k.last_used_at is null or k.last_used_at < to_timestamp(u.at_ms / 1000.0))`,
    [JSON.stringify(uses.map((use) => ({ id: use.id, at_ms: use.atMs, addresses: use.addresses })))],
  );
}

function scopeCondition(scope: ApiKeyScope): { condition: string; value: string } {
  return 'userId' in scope
    ? { condition: `k.kind = 'personal' and k.created_by = $1`, value: scope.userId }
    : { condition: 'k.org_id = $1', value: scope.orgId };
}
