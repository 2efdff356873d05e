/**
 * What the operating system adds around a compute: a process that can never gain privileges again. A tenant who broke
 * out of Postgres would find no setuid program that works.
 */
import { existsSync } from 'node:fs';

const SETPRIV = ['/usr/bin/setpriv', '/bin/setpriv'];

/** The command before `postgres`; empty where the machine has none (only Linux with util-linux does). */
export function sandboxLauncher(): string[] {
  const setpriv = SETPRIV.find((file) => existsSync(file));
  return setpriv === undefined ? [] : [setpriv, '--no-new-privs'];
}
