/**
 * Passwords of roles: generated here, shown once (or again by reveal_password where the project stores them), kept
 * sealed, and given to Postgres and the proxy only as SCRAM verifiers.
 */
import { newPassword } from '../lib/ids.ts';
import type { SecretBox } from '../lib/secret-box.ts';
import { buildVerifier } from '../postgres/wire/scram.ts';

export interface RolePassword {
  password: string;
  verifier: string;
  /** Null where the project does not store passwords. */
  sealedPassword: Buffer | null;
}

export async function makePassword(secretBox: SecretBox, stored: boolean): Promise<RolePassword> {
  const password = newPassword();
  return {
    password,
    verifier: await buildVerifier(password),
    sealedPassword: stored ? secretBox.seal(password) : null,
  };
}
