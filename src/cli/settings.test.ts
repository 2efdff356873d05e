import { Command } from 'commander';
import { expect, test } from 'vitest';
import { ConfigError, SETTINGS } from '../config.ts';
import { ALL_SETTINGS, addSettings, configOf } from './settings.ts';

function parse(args: string[], env: NodeJS.ProcessEnv = { HOME: '/home/someone' }) {
  const command = addSettings(new Command(), ALL_SETTINGS);
  command.parse(args, { from: 'user' });
  return configOf(command, env);
}

test('every flag reaches the setting of its name', () => {
  const values: Record<string, string> = {
    dataDir: '/d',
    pool: '/p',
    listen: '0.0.0.0',
    apiPort: '1',
    pgPort: '2',
    domain: 'db.example.com',
    tlsCert: '/c',
    tlsKey: '/k',
    proxyProtocol: 'v2',
    catalogUrl: 'postgres://x',
    postgresPackages: '/pp',
    logLevel: 'debug',
    computeUidBase: '5',
    defaultSuspendTimeoutSeconds: '60',
    computeLimits: 'hard',
    greeting: 'welcome',
  };
  const config = parse(ALL_SETTINGS.flatMap((name) => [`--${SETTINGS[name].flag}`, values[name]!]));
  for (const name of ALL_SETTINGS) expect(String(config[name]), name).toBe(values[name]);
});

test('flags win over the environment, which wins over defaults', () => {
  const env = { HOME: '/home/someone', BALLAST_API_PORT: '7000' };
  expect(parse([], env).apiPort).toBe(7000);
  expect(parse(['--api-port', '7001'], env).apiPort).toBe(7001);
  expect(parse([]).apiPort).toBe(8080);
  expect(parse([]).dataDir).toBe('/home/someone/.ballast');
  expect(parse(['--data-dir', '/d']).pool).toBe('/d/pool');
});

test.each([
  [['--api-port', 'x'], '--api-port must be a whole number'],
  [['--tls-cert', '/c'], '--tls-cert and --tls-key go together'],
  [['--domain', 'a b'], '--domain is not a host name'],
  [['--proxy-protocol', 'v1'], '--proxy-protocol must be v2 or off'],
  [['--log-level', 'loud'], '--log-level must be trace, debug, info, warn, error or silent, not "loud"'],
  [['--compute-limits', 'some'], '--compute-limits must be auto, off, shares or hard'],
])('%j is refused by name', (args, message) => {
  expect(() => parse(args)).toThrow(ConfigError);
  expect(() => parse(args)).toThrow(message);
});
