/**
 * What an empty catalog needs before the first request: one user, one organization, and a key for whoever started it.
 */
import { findDefaultOrganization, insertOrganization } from '../catalog/organizations.ts';
import type { Queryable } from '../catalog/types.ts';
import { findFirstUser, insertUser } from '../catalog/users.ts';
import { newOrganizationId, newUuid } from '../lib/ids.ts';
import { makeKey } from './api-keys.ts';

export interface Owner {
  userId: string;
  orgId: string;
}

const ORGANIZATION_NAME = 'Default';

/** Idempotent; call it in a transaction. */
export async function ensureOwner(tx: Queryable): Promise<Owner> {
  const user =
    (await findFirstUser(tx)) ??
    // The contract wants a real-looking address; example.com never belongs to anybody.
    (await insertUser(tx, { id: newUuid(), email: 'owner@ballast.example.com', name: 'Owner', lastName: '' }));
  const id = newOrganizationId();
  const organization =
    (await findDefaultOrganization(tx)) ??
    (await insertOrganization(tx, { id, name: ORGANIZATION_NAME, handle: `default-${id}` }));
  return { userId: user.id, orgId: organization.id };
}

/** Makes a personal key of the owner and returns it; it cannot be shown again. */
export async function makeOwnerKey(tx: Queryable, owner: Owner, name: string): Promise<string> {
  const made = await makeKey(tx, { name, kind: 'personal', orgId: null, projectId: null, createdBy: owner.userId });
  return made.key;
}
