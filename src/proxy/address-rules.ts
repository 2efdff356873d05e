/**
 * Which addresses may connect to an endpoint: its list of single addresses, CIDR blocks and `from-to` ranges (empty:
 * all), and whether connections from public networks are blocked.
 */
import { BlockList, isIP } from 'node:net';
import type { ProxyEndpoint } from '../control-plane/proxy-access.types.ts';
import { refusals } from './refusal.ts';

/** IPv4 in IPv6 (`::ffff:192.0.2.1`) is IPv4. */
export function normaliseAddress(address: string | undefined): string {
  return (address ?? '').replace(/^::ffff:(?=\d+\.\d+\.\d+\.\d+$)/i, '');
}

/** Who counts as one: a single IPv4 address, but the /64 of an IPv6 address, which is what one network is given. */
export function addressGroup(address: string): string {
  if (isIP(address) !== 6) return address;
  const [head = '', tail] = address.split('%', 1)[0]!.split('::');
  const words = head === '' ? [] : head.split(':');
  const behind = tail === undefined || tail === '' ? [] : tail.split(':');
  const missing = Math.max(0, 8 - words.length - behind.length);
  const all = [...words, ...Array.from({ length: missing }, () => '0'), ...behind];
  const network = all.slice(0, 4).map((word) => Number.parseInt(word, 16).toString(16));
  return `${network.join(':')}::/64`;
}

const family = (address: string) => (isIP(address) === 6 ? 'ipv6' : 'ipv4');

/** Patterns that cannot be read match nothing. */
export function addressMatches(address: string, patterns: readonly string[]): boolean {
  if (isIP(address) === 0) return false;
  const list = new BlockList();
  // To a BlockList every IPv4 address is one of ::/0 as well; a rule says one of the two families.
  for (const pattern of patterns.filter((text) => text.includes(':') === (isIP(address) === 6))) {
    try {
      addPattern(list, pattern.trim());
    } catch {
      // Not an address; the API refuses such patterns, so this one was never meant to match.
    }
  }
  return list.check(address, family(address));
}

function addPattern(list: BlockList, pattern: string): void {
  const [from, to] = pattern.split('-');
  const [network, prefix] = pattern.split('/');
  if (to !== undefined) list.addRange(from!.trim(), to.trim(), family(from!.trim()));
  else if (prefix !== undefined) list.addSubnet(network!, Number(prefix), family(network!));
  else list.addAddress(pattern, family(pattern));
}

const PRIVATE_NETWORKS = [
  '127.0.0.0/8',
  '10.0.0.0/8',
  '172.16.0.0/12',
  '192.168.0.0/16',
  '169.254.0.0/16',
  '100.64.0.0/10',
  '::1',
  'fc00::/7',
  'fe80::/10',
];

export function isLoopback(address: string): boolean {
  if (address === '127.0.0.1' || address === '::1') return true;
  return addressMatches(address, ['127.0.0.0/8', '::1']);
}

/** Throws Refusal. */
export function checkAddress(endpoint: ProxyEndpoint, address: string): void {
  if (endpoint.blockPublicConnections && !addressMatches(address, PRIVATE_NETWORKS)) throw refusals.blockedNetwork();
  if (endpoint.allowedIps.length > 0 && !addressMatches(address, endpoint.allowedIps)) throw refusals.address(address);
}
