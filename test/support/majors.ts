/**
 * Which Postgres majors a Ballast on this machine must offer, found without asking it: the bundled one, those that were
 * installed for the tests, and the system's.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';

const BUNDLED = 17;

export function majorsAtHand(): number[] {
  const packages = process.env['BALLAST_POSTGRES_PACKAGES'];
  return [14, 15, 16, 17, 18].filter(
    (major) =>
      major === BUNDLED ||
      existsSync(`/usr/lib/postgresql/${major}/bin/initdb`) ||
      (packages !== undefined && packages !== '' && existsSync(path.join(packages, String(major), 'node_modules'))),
  );
}
