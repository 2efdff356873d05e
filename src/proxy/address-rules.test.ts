/** Allow lists: single addresses, blocks and ranges, of both families. */
import { describe, expect, test } from 'vitest';
import { addressGroup, addressMatches, checkAddress, isLoopback, normaliseAddress } from './address-rules.ts';

test.each<[string, string, boolean]>([
  ['192.0.2.1', '192.0.2.1', true],
  ['192.0.2.1', '192.0.2.2', false],
  ['192.0.2.0/24', '192.0.2.255', true],
  ['192.0.2.0/24', '192.0.3.0', false],
  ['0.0.0.0/0', '198.51.100.7', true],
  ['192.0.2.10-192.0.2.20', '192.0.2.20', true],
  ['192.0.2.10-192.0.2.20', '192.0.2.21', false],
  ['192.0.2.10 - 192.0.2.20', '192.0.2.15', true],
  ['2001:db8::/32', '2001:db8:1::1', true],
  ['2001:db8::/32', '2001:db9::1', false],
  ['2001:db8::1-2001:db8::ff', '2001:db8::80', true],
  ['::/0', '192.0.2.1', false],
  ['nonsense', '192.0.2.1', false],
  ['192.0.2.0/99', '192.0.2.1', false],
  ['192.0.2.1', 'nonsense', false],
])('%s and %s: %s', (pattern, address, matches) => {
  expect(addressMatches(address, [pattern])).toBe(matches);
});

test('an IPv4 address in IPv6 counts as IPv4', () => {
  expect(normaliseAddress('::ffff:192.0.2.1')).toBe('192.0.2.1');
  expect(normaliseAddress('::1')).toBe('::1');
  expect(isLoopback('127.8.9.1')).toBe(true);
  expect(isLoopback('::1')).toBe(true);
  expect(isLoopback('128.0.0.1')).toBe(false);
});

describe('an endpoint', () => {
  const endpoint = (rules: { allowedIps?: string[]; blockPublicConnections?: boolean }) => ({
    endpointId: 'ep-a',
    projectId: 'p',
    branchId: 'b',
    disabled: false,
    allowedIps: [],
    blockPublicConnections: false,
    maxConnections: 104,
    ...rules,
  });

  test('without a list takes all; with one only those on it', () => {
    expect(() => checkAddress(endpoint({}), '192.0.2.1')).not.toThrow();
    expect(() => checkAddress(endpoint({ allowedIps: ['192.0.2.1'] }), '192.0.2.1')).not.toThrow();
    expect(() => checkAddress(endpoint({ allowedIps: ['192.0.2.1'] }), '127.0.0.1')).toThrow(
      'This IP address 127.0.0.1 is not allowed to connect to this endpoint. Please add it to the allowed list in the ' +
        'Neon console. Make sure to check for IPv4 or IPv6 addresses.',
    );
    expect(() => checkAddress(endpoint({ allowedIps: ['nonsense'] }), '192.0.2.1')).toThrow('not allowed');
  });

  test('that blocks public connections takes private networks', () => {
    const blocked = endpoint({ blockPublicConnections: true });
    expect(() => checkAddress(blocked, '10.1.2.3')).not.toThrow();
    expect(() => checkAddress(blocked, '192.0.2.1')).toThrow(
      'This connection is trying to access this endpoint from a blocked network.',
    );
  });
});

test.each([
  ['192.0.2.1', '192.0.2.1'],
  ['2001:db8::1', '2001:db8:0:0::/64'],
  ['2001:db8:0:0:ffff::1', '2001:db8:0:0::/64'],
  ['2001:0DB8:0000:0001:1:2:3:4', '2001:db8:0:1::/64'],
  ['::1', '0:0:0:0::/64'],
  ['fe80::1%eth0', 'fe80:0:0:0::/64'],
  ['64:ff9b::192.0.2.1', '64:ff9b:0:0::/64'],
  ['', ''],
])('%s counts as %s', (address, group) => {
  expect(addressGroup(address)).toBe(group);
});
