import { afterAll, beforeAll, expect, test } from 'vitest';
import { openTestCatalog, type TestCatalog } from '../../test/support/catalog.ts';
import { ALLOWED_PARAMETERS, parameterRange, validatePgSettings } from './pg-settings.ts';

// The table is held against a real Postgres: what it allows must exist there and accept what we accept.
let opened: TestCatalog;

beforeAll(async () => {
  opened = await openTestCatalog({ migrated: false });
});
afterAll(() => opened.close());

interface Setting {
  name: string;
  vartype: string;
  minVal: string | null;
  maxVal: string | null;
  unit: string | null;
  context: string;
  bootVal: string | null;
}

const ownParameters = ALLOWED_PARAMETERS.filter((name) => !name.includes('.'));

test('every parameter exists, within the range that Postgres has', async () => {
  const settings = await opened.catalog.query<Setting>(
    'select name, vartype, min_val, max_val, unit, context, boot_val from pg_settings',
  );
  const byName = new Map(settings.map((setting) => [setting.name, setting]));
  expect(ownParameters.filter((name) => !byName.has(name))).toEqual([]);
  for (const name of ownParameters) {
    const setting = byName.get(name)!;
    const range = parameterRange(name);
    expect([name, setting.vartype === 'integer' || setting.vartype === 'real']).toEqual([name, range !== undefined]);
    if (!range) continue;
    expect([name, range.unit ?? null]).toEqual([name, setting.unit]);
    expect(range.min, name).toBeGreaterThanOrEqual(Number(setting.minVal));
    expect(range.max, name).toBeLessThanOrEqual(Number(setting.maxVal));
  }
});

test('the value that Postgres starts with is acceptable', async () => {
  const settings = await opened.catalog.query<Setting>('select name, boot_val from pg_settings where name = any ($1)', [
    ownParameters,
  ]);
  for (const { name, bootVal } of settings) {
    const value = name === 'TimeZone' ? 'UTC' : bootVal!;
    expect(validatePgSettings({ [name]: value }, 17), name).toEqual({ [name]: value });
  }
});

test('nothing that only Postgres itself may load or read is allowed', async () => {
  const rows = await opened.catalog.query<{ name: string }>(
    `select name from pg_settings where name = any ($1) and (vartype = 'string' or context in ('internal', 'backend'))`,
    [ownParameters],
  );
  expect(rows.map((row) => row.name).sort()).toEqual([
    'DateStyle',
    'TimeZone',
    'default_text_search_config',
    'search_path',
  ]);
});

test('units convert as Postgres converts them', async () => {
  for (const [name, value] of [
    ['work_mem', '1.5 GB'],
    ['temp_buffers', '8MB'],
    ['statement_timeout', '2min'],
    ['vacuum_cost_delay', '2500us'],
  ] as const) {
    expect(validatePgSettings({ [name]: value }, 17)).toBeDefined();
    await expect(opened.catalog.query(`select set_config($1, $2, true)`, [name, value])).resolves.toHaveLength(1);
  }
});
