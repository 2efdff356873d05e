/**
 * Which endpoint a client means: by TLS server name, by startup options, or (in authenticate.ts) by password prefix.
 *
 * Server name: the first label, when the rest is the proxy's domain; `-pooler` is stripped, and means a pooled
 * connection. Options: exactly one `endpoint=<id>` (or `project=<id>`) among tokens separated
 * by unescaped white space; several count as none.
 */
import type { EndpointChoice, PastPoint } from '../control-plane/proxy-access.types.ts';
import { parseLsn } from '../lib/lsn.ts';
import { parseTime } from '../lib/point.ts';
import { refusals } from './refusal.ts';

export const RESERVED_LABELS: ReadonlySet<string> = new Set(['api', 'apiauth']);
const POOLED_SUFFIX = '-pooler';
const ROUTING_SUFFIXES = [POOLED_SUFFIX, '-local-proxy'];
const MAX_NAME_LENGTH = 63;

/** Undefined when the name says nothing about an endpoint. */
export function endpointFromServerName(serverName: string | undefined, domain: string): string | undefined {
  const name = serverName?.toLowerCase().replace(/\.$/, '');
  if (!name?.endsWith(`.${domain}`)) return undefined;
  const label = name.slice(0, -domain.length - 1);
  return label.includes('.') || RESERVED_LABELS.has(label) ? undefined : label;
}

export interface StartupOptions {
  endpoint: string | undefined;
  /** What Postgres gets; undefined when nothing is left. */
  forwarded: string | undefined;
  /** `neon_…:…` extensions, by name. */
  extensions: Map<string, string>;
}

export function parseStartupOptions(text: string | undefined): StartupOptions {
  const endpoints: string[] = [];
  const extensions = new Map<string, string>();
  const kept: string[] = [];
  for (const token of splitOptions(text ?? '')) {
    const endpoint = /^(?:endpoint|project)=(.*)$/s.exec(token);
    const extension = /^(neon_[a-z_]+):(.*)$/s.exec(token);
    if (!endpoint && !extension) {
      kept.push(token);
      continue;
    }
    if (endpoint) endpoints.push(endpoint[1]!);
    else extensions.set(extension![1]!, extension![2]!);
    // `-c endpoint=…` in two tokens: Postgres would stumble over a `-c` without its value.
    if (kept.at(-1) === '-c') kept.pop();
  }
  return {
    endpoint: endpoints.length === 1 ? endpoints[0] : undefined,
    forwarded: kept.length > 0 ? kept.join(' ') : undefined,
    extensions,
  };
}

/** Tokens with their escapes, as Postgres will split them again. */
function splitOptions(text: string): string[] {
  return text.match(/(?:\\[^]|[^\\ \t\n\r\f\v])+/g) ?? [];
}

/** The endpoint id, or undefined when neither names one. Throws Refusal. */
export function chooseEndpoint(fromServerName: string | undefined, fromOptions: string | undefined) {
  const [name, option] = [fromServerName, fromOptions].map((text) =>
    text === undefined ? undefined : normalise(text),
  );
  if (name !== undefined && option !== undefined && name !== option) {
    throw refusals.inconsistentEndpoint(fromServerName!, fromOptions!);
  }
  const chosen = name ?? option;
  return chosen === undefined ? undefined : checkEndpointName(chosen);
}

/** What the `neon_…` options say about the endpoint. Throws Refusal. */
export function endpointChoice(extensions: ReadonlyMap<string, string>): EndpointChoice {
  const type = extensions.get('neon_endpoint_type');
  if (type !== undefined && type !== 'read_write' && type !== 'read_only') throw refusals.endpointType(type);
  const point = pastPoint(extensions.get('neon_lsn'), extensions.get('neon_timestamp'));
  return { ...(type !== undefined && { type }), ...(point && { point }) };
}

function pastPoint(lsn: string | undefined, timestamp: string | undefined): PastPoint | undefined {
  if (lsn !== undefined && timestamp !== undefined) throw refusals.twoPoints();
  if (lsn !== undefined) {
    try {
      parseLsn(lsn);
    } catch {
      throw refusals.malformedPoint('neon_lsn', lsn);
    }
    return { kind: 'lsn', lsn: lsn.toUpperCase() };
  }
  if (timestamp === undefined) return undefined;
  // White space inside of an option is escaped, as for Postgres.
  const time = parseTime(timestamp.replaceAll(/\\(.)/gs, '$1'));
  if (time === undefined) throw refusals.malformedPoint('neon_timestamp', timestamp);
  return { kind: 'time', time };
}

/** Throws Refusal when it cannot be the id of an endpoint or a branch. */
export function checkEndpointName(text: string): string {
  const name = normalise(text);
  if (!/^[A-Za-z0-9-]+$/.test(name) || name.length > MAX_NAME_LENGTH) throw refusals.malformedEndpoint(name);
  return name;
}

/** Whether any of the names is that of a pooled host. */
export function meansPooled(...names: (string | undefined)[]): boolean {
  return names.some((name) => name?.endsWith(POOLED_SUFFIX));
}

function normalise(text: string): string {
  const suffix = ROUTING_SUFFIXES.find((ending) => text.endsWith(ending));
  return suffix === undefined ? text : text.slice(0, -suffix.length);
}

/** `endpoint=<id>;<password>` or `endpoint=<id>$<password>`, `project=` too. Undefined without such a prefix. */
export function splitPasswordPrefix(text: string): { endpoint: string; password: string } | undefined {
  const rest = /^(?:endpoint|project)=([^]*)$/.exec(text)?.[1];
  if (rest === undefined) return undefined;
  for (const separator of [';', '$']) {
    const at = rest.indexOf(separator);
    if (at >= 0) return { endpoint: rest.slice(0, at), password: rest.slice(at + 1) };
  }
  return undefined;
}
