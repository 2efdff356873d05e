/** Which endpoint a client means, from server name, options and password. */
import { describe, expect, test } from 'vitest';
import {
  checkEndpointName,
  chooseEndpoint,
  endpointChoice,
  endpointFromServerName,
  parseStartupOptions,
  splitPasswordPrefix,
} from './endpoint-name.ts';

describe('server name', () => {
  test.each([
    ['ep-cool-river-1.localhost', 'ep-cool-river-1'],
    ['EP-Cool-River-1.LOCALHOST', 'ep-cool-river-1'],
    ['ep-cool-river-1-pooler.localhost.', 'ep-cool-river-1-pooler'],
    ['localhost', undefined],
    ['ep-x.example.com', undefined],
    ['ep-x.evil-localhost', undefined],
    ['a.ep-x.localhost', undefined],
    ['api.localhost', undefined],
    ['apiauth.localhost', undefined],
    ['', undefined],
    [undefined, undefined],
  ])('%s names %s', (name, endpoint) => {
    expect(endpointFromServerName(name, 'localhost')).toBe(endpoint);
  });
});

describe('startup options', () => {
  test.each<[string | undefined, string | undefined, string | undefined]>([
    [undefined, undefined, undefined],
    ['endpoint=ep-x', 'ep-x', undefined],
    ['project=ep-x', 'ep-x', undefined],
    ['-c endpoint=ep-x', 'ep-x', undefined],
    ['-c search_path=a endpoint=ep-x -c jit=off', 'ep-x', '-c search_path=a -c jit=off'],
    ['endpoint=a endpoint=b', undefined, undefined],
    ['endpoint=a project=a', undefined, undefined],
    ['-c application_name=a\\ endpoint=b', undefined, '-c application_name=a\\ endpoint=b'],
    ['--endpoint=ep-x', undefined, '--endpoint=ep-x'],
    ['neon_lsn:0/16 -c jit=off', undefined, '-c jit=off'],
  ])('%s: endpoint %s, passed on %s', (text, endpoint, forwarded) => {
    expect(parseStartupOptions(text)).toMatchObject({ endpoint, forwarded });
  });

  test('extensions are kept by name', () => {
    const { extensions } = parseStartupOptions('neon_lsn:0/16 neon_proxy_params_compat:true');
    expect([...extensions]).toEqual([
      ['neon_lsn', '0/16'],
      ['neon_proxy_params_compat', 'true'],
    ]);
  });
});

describe('choice', () => {
  test('takes either, both when they agree, and strips what only routes', () => {
    expect(chooseEndpoint('ep-a', undefined)).toBe('ep-a');
    expect(chooseEndpoint(undefined, 'ep-a-pooler')).toBe('ep-a');
    expect(chooseEndpoint('ep-a-pooler', 'ep-a')).toBe('ep-a');
    expect(chooseEndpoint(undefined, undefined)).toBeUndefined();
  });

  test('refuses what contradicts and what is no id; a branch is one', () => {
    expect(() => chooseEndpoint('ep-a', 'ep-b')).toThrow(
      "Inconsistent project name inferred from SNI ('ep-a') and project option ('ep-b').",
    );
    expect(() => checkEndpointName("x'; drop")).toThrow(
      "Project name ('x'; drop') must contain only alphanumeric characters and hyphen.",
    );
    expect(() => checkEndpointName('')).toThrow('must contain only');
    expect(checkEndpointName('br-quiet-river-12345678-pooler')).toBe('br-quiet-river-12345678');
  });
});

describe('options', () => {
  const choose = (options: string) => endpointChoice(parseStartupOptions(options).extensions);

  test.each([
    ['', {}],
    ['neon_endpoint_type:read_only', { type: 'read_only' }],
    ['neon_lsn:0/16b3748', { point: { kind: 'lsn', lsn: '0/16B3748' } }],
    ['neon_timestamp:2026-01-16T21:02:04Z', { point: { kind: 'time', time: '2026-01-16T21:02:04.000000Z' } }],
    [
      'neon_timestamp:2026-01-16\\ 21:02:04.123456+02',
      { point: { kind: 'time', time: '2026-01-16T19:02:04.123456Z' } },
    ],
  ])('%s', (options, choice) => {
    expect(choose(options)).toEqual(choice);
  });

  test.each([
    ['neon_lsn:head', "must be an LSN such as 0/16B3748, not 'head'"],
    ['neon_timestamp:yesterday', "not 'yesterday'"],
    ['neon_timestamp:2026-01-16T21:02:04', 'must be a time with a time zone'],
    ['neon_lsn:0/1 neon_timestamp:2026-01-16T21:02:04Z', 'cannot be used together'],
    ['neon_endpoint_type:any', 'must be read_write or read_only'],
  ])('%s is refused', (options, text) => {
    expect(() => choose(options)).toThrow(text);
  });
});

test.each([
  ['endpoint=ep-a;secret', { endpoint: 'ep-a', password: 'secret' }],
  ['endpoint=ep-a$secret', { endpoint: 'ep-a', password: 'secret' }],
  ['project=ep-a;se$cret', { endpoint: 'ep-a', password: 'se$cret' }],
  ['endpoint=ep-a$se;cret', { endpoint: 'ep-a$se', password: 'cret' }],
  ['endpoint=ep-a;', { endpoint: 'ep-a', password: '' }],
  ['endpoint=ep-a', undefined],
  ['secret', undefined],
])('password %s', (text, split) => {
  expect(splitPasswordPrefix(text)).toEqual(split);
});
