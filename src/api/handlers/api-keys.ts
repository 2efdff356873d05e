/**
 * Handlers of the tag "API Key", and of the organizations' keys.
 */
import type {
  CreateApiKeyData,
  CreateApiKeyResponses,
  CreateOrgApiKeyData,
  CreateOrgApiKeyResponses,
  ListApiKeysData,
  ListApiKeysResponses,
  ListOrgApiKeysData,
  ListOrgApiKeysResponses,
  RevokeApiKeyData,
  RevokeApiKeyResponses,
  RevokeOrgApiKeyData,
  RevokeOrgApiKeyResponses,
} from '@neon/sdk/raw';
import { handler, type HandlerTable } from '../handler.ts';

export const apiKeysHandlers: HandlerTable = {
  listApiKeys: handler<ListApiKeysData, ListApiKeysResponses[200]>((plane, { caller }) => plane.apiKeys.list(caller)),
  createApiKey: handler<CreateApiKeyData, CreateApiKeyResponses[200]>((plane, { caller, body }) =>
    plane.apiKeys.create(caller, body),
  ),
  revokeApiKey: handler<RevokeApiKeyData, RevokeApiKeyResponses[200]>((plane, { caller, params }) =>
    plane.apiKeys.revoke(caller, Number(params.key_id)),
  ),
  listOrgApiKeys: handler<ListOrgApiKeysData, ListOrgApiKeysResponses[200]>((plane, { caller, params }) =>
    plane.apiKeys.listOfOrganization(caller, params.org_id),
  ),
  createOrgApiKey: handler<CreateOrgApiKeyData, CreateOrgApiKeyResponses[200]>((plane, { caller, params, body }) =>
    plane.apiKeys.createForOrganization(caller, params.org_id, body),
  ),
  revokeOrgApiKey: handler<RevokeOrgApiKeyData, RevokeOrgApiKeyResponses[200]>((plane, { caller, params }) =>
    plane.apiKeys.revokeOfOrganization(caller, params.org_id, Number(params.key_id)),
  ),
};
