/**
 * Where the keys are that verify JWTs, by project or branch, and which roles such a JWT may log in as. Computes let
 * Ballast in as these roles without a password: running ones hear of it by apply_config, the others when they start.
 */
import type {
  AddProjectJwksRequest,
  AddProjectJwksResponses,
  DeleteProjectJwksResponses,
  GetProjectJwksResponses,
} from '@neon/sdk/raw';
import { findBranch, findDefaultBranch } from '../catalog/branches.ts';
import { listProjectEndpoints } from '../catalog/endpoints.ts';
import { deleteJwks, insertJwks, insertPlainRoles, listJwks } from '../catalog/jwks.ts';
import { listRoles } from '../catalog/roles.ts';
import type { JwksRow, OperationRow, Queryable } from '../catalog/types.ts';
import { newUuid } from '../lib/ids.ts';
import { trustedUrl } from '../lib/trusted-url.ts';
import type { Caller } from './caller.ts';
import { changeProject, readProject, type Context } from './context.ts';
import { isAwake } from './endpoint-rules.ts';
import { branchNotFound, invalidRequest, jwksNotFound, unprocessable } from './errors.ts';
import { LIMITS } from './limits.ts';
import { validateDisplayName, validateRoleName } from './names.ts';
import { presentJwks, presentOperation } from './present.ts';

export interface JwksRules {
  list(caller: Caller, projectId: string): Promise<GetProjectJwksResponses[200]>;
  add(caller: Caller, projectId: string, body: AddProjectJwksRequest): Promise<AddProjectJwksResponses[201]>;
  delete(caller: Caller, projectId: string, id: string): Promise<DeleteProjectJwksResponses[200]>;
}

/** Where a request names none. */
const DEFAULT_ROLES = ['authenticator', 'authenticated', 'anonymous'];
const MAX_URL_LENGTH = 2_048;
const MAX_NAME_LENGTH = 256;

export function createJwks(context: Context): JwksRules {
  return {
    list: async (caller, projectId) => {
      await readProject(context, caller, projectId);
      return { jwks: (await listJwks(context.catalog, projectId)).map(presentJwks) };
    },
    add: (caller, projectId, body) => add(context, caller, projectId, body),
    delete: (caller, projectId, id) =>
      changeProject(context, caller, projectId, async (tx) => {
        const row = await deleteJwks(tx, projectId, id);
        if (!row) throw jwksNotFound();
        await tellComputes(context, tx, row);
        return presentJwks(row);
      }),
  };
}

async function add(context: Context, caller: Caller, projectId: string, body: AddProjectJwksRequest) {
  const jwksUrl = validateUrl(body.jwks_url);
  const providerName = validateText('provider', body.provider_name);
  const jwtAudience = body.jwt_audience === undefined ? null : validateText('audience', body.jwt_audience);
  const named = [...new Set((body.role_names ?? []).map(validateJwtRole))];
  const branchId = body.branch_id ?? null;
  return changeProject(context, caller, projectId, async (tx) => {
    const branch =
      branchId === null ? await findDefaultBranch(tx, projectId) : await findBranch(tx, projectId, branchId);
    if (!branch) throw branchNotFound();
    if ((await listJwks(tx, projectId)).length >= LIMITS.jwksPerProject) {
      throw unprocessable('jwks limit exceeded', { max: LIMITS.jwksPerProject });
    }
    await assertRolesExist(tx, branch.id, named);
    const roleNames = named.length > 0 ? named : DEFAULT_ROLES;
    if (named.length === 0 && body.skip_role_creation !== true) {
      await insertPlainRoles(tx, projectId, branchId, roleNames);
    }
    const id = newUuid();
    const row = await insertJwks(tx, { id, projectId, branchId, jwksUrl, providerName, jwtAudience, roleNames });
    const operations = await tellComputes(context, tx, row);
    const now = context.now();
    return { jwks: presentJwks(row), operations: operations.map((operation) => presentOperation(operation, now)) };
  });
}

async function assertRolesExist(tx: Queryable, branchId: string, names: readonly string[]): Promise<void> {
  if (names.length === 0) return;
  const present = new Set((await listRoles(tx, branchId)).map((role) => role.name));
  const missing = names.find((name) => !present.has(name));
  if (missing !== undefined) throw unprocessable('role not found', { role_name: missing, branch_id: branchId });
}

async function tellComputes(context: Context, tx: Queryable, jwks: JwksRow): Promise<OperationRow[]> {
  const endpoints = (await listProjectEndpoints(tx, jwks.projectId)).filter(
    (endpoint) => isAwake(endpoint) && (jwks.branchId === null || jwks.branchId === endpoint.branchId),
  );
  if (endpoints.length === 0) return [];
  return context.queue.append(
    tx,
    endpoints.map(({ projectId, branchId, id }) => ({ projectId, branchId, endpointId: id, action: 'apply_config' })),
  );
}

function validateUrl(text: string): string {
  if (text.length > MAX_URL_LENGTH || !trustedUrl(text)) {
    throw invalidRequest('jwks_url must be a valid HTTPS URL', { jwks_url: text.slice(0, 200) });
  }
  return text;
}

function validateText(what: 'provider' | 'audience', text: string): string {
  if (text.length > MAX_NAME_LENGTH) throw invalidRequest(`${what} name is too long`, { max: MAX_NAME_LENGTH });
  return validateDisplayName(what, text);
}

/** It is written into pg_hba.conf, where some characters mean something even inside of quotes. */
function validateJwtRole(name: string): string {
  validateRoleName(name);
  if (/["\\]|^[/+@]/.test(name)) throw unprocessable('role name cannot be used with JWTs', { role_name: name });
  return name;
}
