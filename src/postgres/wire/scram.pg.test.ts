/** Verifiers and Postgres: it accepts ours, we accept its, for any password that either can hold. */
import fc from 'fast-check';
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { plainMajors, startPlainPostgres } from '../../../test/support/plain-postgres.ts';
import type { PlainPostgres } from '../../../test/support/plain-postgres.ts';
import { saslprep } from './saslprep.ts';
import { buildVerifier, checkPassword, parseVerifier } from './scram.ts';

const run = promisify(execFile);
const hasPsql = await run('psql', ['--version']).then(
  () => true,
  () => false,
);

const literal = (text: string) => `'${text.replaceAll("'", "''")}'`;
const INTERESTING = [
  0xad, 0xa0, 0xaa, 0x340, 0x221, 0x627, 0x5d0, 0x2126, 0x2168, 0x200b, 0x3000, 0xfb01, 0xe001, 0x1f600, 0xe9, 0x65,
  0x301, 0x31, 0x7f,
];
const character = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(...INTERESTING).map((code) => String.fromCodePoint(code)) },
  fc.string({ unit: 'binary', minLength: 1, maxLength: 1 }),
);
const password = fc
  .array(character, { minLength: 1, maxLength: 6 })
  .map((characters) => characters.join(''))
  .filter((text) => !text.includes('\0') && !/\p{Surrogate}/u.test(text));

for (const major of plainMajors()) {
  describe(`Postgres ${major}`, () => {
    let postgres: PlainPostgres;
    beforeAll(async () => {
      postgres = await startPlainPostgres(major);
    });
    afterAll(() => postgres?.stop());

    test('a password that Postgres hashed fits its verifier, whatever its characters', async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(password, { minLength: 40, maxLength: 40 }), async (passwords) => {
          const statements = passwords.map((text, i) => `create role r${i} password ${literal(text)}`);
          await postgres.query(statements.join(';'));
          const rows = await postgres.query<{ rolname: string; rolpassword: string }>(
            `select rolname, rolpassword from pg_authid where rolname ~ '^r[0-9]+$'`,
          );
          await postgres.query(passwords.map((_text, i) => `drop role r${i}`).join(';'));
          for (const { rolname, rolpassword } of rows) {
            const text = passwords[Number(rolname.slice(1))]!;
            const key = await checkPassword(text, parseVerifier(rolpassword)!);
            expect(key, `${JSON.stringify(text)} prepared as ${JSON.stringify(saslprep(text))}`).toBeDefined();
          }
        }),
        { numRuns: 5 },
      );
    });

    test.skipIf(!hasPsql)('a verifier of ours lets libpq in (needs psql)', async () => {
      for (const text of ['pencil', "it's; $1 \\ x", 'pa\u00dfw\u00f6rt \u2168 \u{1f600}', '\u00ad\u00aa\u00e9']) {
        const verifier = await buildVerifier(text, { iterations: 1_000 });
        await postgres.query(`drop role if exists ours; create role ours login password ${literal(verifier)}`);
        const [row] = await postgres.query<{ rolpassword: string }>(
          `select rolpassword from pg_authid where rolname = 'ours'`,
        );
        expect(row!.rolpassword).toBe(verifier);
        const { stdout } = await run('psql', ['-Atc', 'select current_user', 'dbname=postgres user=ours'], {
          env: { ...process.env, PGHOST: postgres.socketDirectory, PGPASSWORD: text },
        });
        expect(stdout.trim()).toBe('ours');
      }
    });
  });
}
