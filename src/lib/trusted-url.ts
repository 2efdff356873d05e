/**
 * Addresses from which something may be fetched that must not be changed on its way: https, or http on this machine.
 */
const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/;

/** Undefined for anything else, and for addresses with a password in them. */
export function trustedUrl(text: string, base?: string): URL | undefined {
  if (!URL.canParse(text, base)) return undefined;
  const url = new URL(text, base);
  const isTrusted = url.protocol === 'https:' || (url.protocol === 'http:' && LOOPBACK.test(url.hostname));
  return isTrusted && url.username === '' && url.password === '' ? url : undefined;
}
