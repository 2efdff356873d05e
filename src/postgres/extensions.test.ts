import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { isPreloadLibrary, prepareExtensions, trust, withGrants } from './extensions.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(path.join(os.tmpdir(), 'ballast-extensions-'));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

const put = (file: string, text: string) => writeFile(path.join(directory, file), text);
const get = (file: string) => readFile(path.join(directory, file), 'utf8');

test('a control file is trusted once, whatever it said before', () => {
  expect(trust("default_version = '1.0'", true)).toBe("default_version = '1.0'\ntrusted = true\n");
  expect(trust('trusted = false\nrelocatable = true\n', true)).toBe('relocatable = true\ntrusted = true\n');
  expect(trust('relocatable = true\ntrusted=true\n', false)).toBe('relocatable = true\n');
  expect(trust(trust('relocatable = true\n', true), true)).toBe('relocatable = true\ntrusted = true\n');
});

test('forbidden extensions go with their scripts, allowed ones become trusted, others lose trust', async () => {
  for (const name of [
    'file_fdw',
    'plperl',
    'plperlu',
    'plpython3u',
    'pltcl',
    'hstore_plperl',
    'ltree_plpython3u',
    'pageinspect',
  ]) {
    await put(`${name}.control`, 'relocatable = true\n');
    await put(`${name}--1.0.sql`, 'select 1;\n');
  }
  await put('citext.control', 'relocatable = true\n');
  await put('plsomething.control', 'trusted = true\n');
  await prepareExtensions(directory, 17);
  expect((await readdir(directory)).toSorted()).toEqual(['citext.control', 'plsomething.control']);
  expect(await get('citext.control')).toMatch(/^trusted = true$/m);
  expect(await get('plsomething.control')).not.toMatch(/trusted/);
});

test('scripts grant what they took from everybody, in every version, and only once', async () => {
  await put('amcheck.control', '');
  await put('amcheck--1.0.sql', 'REVOKE ALL ON FUNCTION bt_index_check(regclass) FROM PUBLIC;\n');
  await put('amcheck--1.0--1.1.sql', 'REVOKE ALL ON FUNCTION verify_heapam(regclass,\n boolean)\nFROM PUBLIC;\n');
  await prepareExtensions(directory, 17);
  await prepareExtensions(directory, 17);
  const grants = (text: string) => text.match(/^GRANT .*/gm);
  expect(grants(await get('amcheck--1.0.sql'))).toEqual([
    'GRANT EXECUTE ON FUNCTION bt_index_check(regclass) TO neon_superuser WITH GRANT OPTION;',
  ]);
  expect(await get('amcheck--1.0--1.1.sql')).toMatch(
    /GRANT EXECUTE ON FUNCTION verify_heapam\(regclass,\s+boolean\)\s+TO/,
  );
});

test('dblink_connect_u is never granted', () => {
  const script =
    'REVOKE ALL ON FUNCTION dblink_connect_u (text) FROM public;\nCREATE FOREIGN DATA WRAPPER dblink_fdw VALIDATOR v;\n';
  const edited = withGrants('dblink', script);
  expect(edited).toMatch(/GRANT USAGE ON FOREIGN DATA WRAPPER dblink_fdw TO neon_superuser/);
  expect(edited).not.toMatch(/GRANT.*dblink_connect_u/);
});

test('only listed libraries may be preloaded', () => {
  expect(isPreloadLibrary('pg_stat_statements')).toBe(true);
  for (const name of ['basic_archive', 'basebackup_to_shell', 'auto_explain', '/tmp/x', '']) {
    expect(isPreloadLibrary(name)).toBe(false);
  }
});
