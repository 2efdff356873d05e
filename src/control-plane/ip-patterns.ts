/**
 * The patterns of `allowed_ips`: an address, a network (`10.0.0.0/8`) or a range (`10.0.0.1-10.0.0.9`), IPv4 or IPv6.
 */
import { BlockList, isIP } from 'node:net';

export function isIpPattern(pattern: string): boolean {
  if (isIP(pattern) !== 0) return true;
  const network = /^([^/]+)\/(\d{1,3})$/.exec(pattern);
  if (network) {
    const family = isIP(network[1]!);
    return family !== 0 && Number(network[2]) <= (family === 4 ? 32 : 128);
  }
  const range = /^([^-]+)-([^-]+)$/.exec(pattern);
  if (!range) return false;
  const [from, to] = [range[1]!.trim(), range[2]!.trim()];
  const family = isIP(from);
  if (family === 0 || family !== isIP(to)) return false;
  try {
    // Refuses a range whose end is before its start.
    new BlockList().addRange(from, to, family === 4 ? 'ipv4' : 'ipv6');
    return true;
  } catch {
    return false;
  }
}
