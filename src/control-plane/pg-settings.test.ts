import { expect, test } from 'vitest';
import { ALLOWED_PARAMETERS, validatePgSettings } from './pg-settings.ts';

const accepts = (name: string, value: string, pgVersion = 17) => validatePgSettings({ [name]: value }, pgVersion);
const refusal = (name: string, value: string, pgVersion = 17): string => {
  try {
    validatePgSettings({ [name]: value }, pgVersion);
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error(`${name} = ${value} was accepted`);
};

test.each([
  'shared_preload_libraries',
  'local_preload_libraries',
  'session_preload_libraries',
  'jit_provider',
  'dynamic_library_path',
  'archive_command',
  'archive_library',
  'restore_command',
  'archive_cleanup_command',
  'recovery_end_command',
  'ssl_passphrase_command',
  'hba_file',
  'ident_file',
  'config_file',
  'data_directory',
  'external_pid_file',
  'listen_addresses',
  'port',
  'unix_socket_directories',
  'unix_socket_permissions',
  'ssl',
  'ssl_cert_file',
  'log_directory',
  'log_filename',
  'log_destination',
  'log_statement',
  'primary_conninfo',
  'primary_slot_name',
  'synchronous_standby_names',
  'allow_system_table_mods',
  'allow_in_place_tablespaces',
  'max_prepared_transactions',
  'max_connections',
  'shared_buffers',
  'fsync',
  'full_page_writes',
  'wal_level',
  'password_encryption',
  'session_authorization',
  'role',
  'temp_tablespaces',
  'default_tablespace',
  'zero_damaged_pages',
  'Shared_Preload_Libraries',
  'nonsense',
  '',
  '__proto__',
  'work_mem = 1',
])('%s cannot be set', (name) => {
  expect(() => validatePgSettings(Object.fromEntries([[name, '1']]), 17)).toThrow(/cannot be set/);
  expect(ALLOWED_PARAMETERS).not.toContain(name);
});

test.each([
  ['work_mem', '64'],
  ['work_mem', '16MB'],
  ['work_mem', '1.5 GB'],
  ['work_mem', '0x100'.replace('0x100', '256')],
  ['statement_timeout', '30s'],
  ['statement_timeout', '0'],
  ['temp_buffers', '8MB'],
  ['track_activity_query_size', '16kB'],
  ['autovacuum_naptime', '1min'],
  ['random_page_cost', '1.1'],
  ['random_page_cost', '1e2'],
  ['vacuum_cost_delay', '2ms'],
  ['jit', 'off'],
  ['synchronous_commit', 'OFF'],
  ['default_transaction_isolation', 'repeatable read'],
  ['TimeZone', 'Europe/Berlin'],
  ['DateStyle', 'ISO, DMY'],
  ['search_path', '"$user", public'],
  ['search_path', ''],
  ['default_text_search_config', 'pg_catalog.english'],
  ['pg_stat_statements.track', 'all'],
])('%s takes %s', (name, value) => {
  expect(accepts(name, value)).toEqual({ [name]: value });
});

test.each([
  ['work_mem', '63', /from 64 to/],
  ['work_mem', '3TB', /from 64 to/],
  ['work_mem', '16mb', /number/],
  ['work_mem', '1s', /number/],
  ['work_mem', '1.5', /number/],
  ['work_mem', '', /number/],
  ['work_mem', '64; drop', /number/],
  ['statement_timeout', '10kB', /number/],
  ['default_statistics_target', '100MB', /number/],
  ['geqo_selection_bias', '2.5', /from 1.5 to 2/],
  ['jit', 'maybe', /on or off/],
  ['synchronous_commit', 'sometimes', /one of/],
  ['bytea_output', 'toString', /one of/],
  ['TimeZone', 'Mars/Olympus', /invalid/],
  ['TimeZone', "UTC'\nfsync = off", /invalid/],
  ['TimeZone', '../../etc/passwd', /invalid/],
  ['DateStyle', 'ISO\nfsync=off', /invalid/],
  ['search_path', 'public, "', /invalid/],
  ['search_path', "public'", /invalid/],
])('%s does not take %j', (name, value, text) => {
  expect(refusal(name, value)).toMatch(text);
});

test('names are spelled as Postgres does, whatever the request says', () => {
  expect(accepts('timezone', 'UTC')).toEqual({ TimeZone: 'UTC' });
  expect(accepts('WORK_MEM', '1MB')).toEqual({ work_mem: '1MB' });
});

test('a parameter that the major does not have is refused', () => {
  expect(refusal('stats_fetch_consistency', 'none', 14)).toMatch(/does not exist/);
  expect(accepts('stats_fetch_consistency', 'none', 15)).toBeDefined();
});

test('the text names the parameter and not more than the beginning of its value', () => {
  const text = refusal('work_mem', 'x'.repeat(5000));
  expect(text).toContain('name:"work_mem"');
  expect(text.length).toBeLessThan(400);
});

test('there may not be too many', () => {
  const many = Object.fromEntries(Array.from({ length: 201 }, (_, index) => [`p${index}`, '1']));
  expect(() => validatePgSettings(many, 17)).toThrow(/too many/);
});
