/**
 * Settings that belong to the client and follow it from one server connection to the next: those that Postgres reports.
 *
 * Everything else that a client may put into its startup packet is refused, as transaction pooling cannot keep it.
 */
import { refusals } from '../refusal.ts';

/** As Postgres spells them. */
export const TRACKED = [
  'client_encoding',
  'DateStyle',
  'TimeZone',
  'standard_conforming_strings',
  'application_name',
  'IntervalStyle',
] as const;
const BY_LOWER_CASE = new Map<string, string>(TRACKED.map((name) => [name.toLowerCase(), name]));
/** Accepted and without effect. */
const IGNORED = new Set(['extra_float_digits']);
const CONNECTION = new Set(['user', 'database', 'options', 'replication']);
const MAX_VALUE_LENGTH = 1024;

/** The values of the tracked settings, with a text that is equal when all of them are. */
export class TrackedParameters {
  readonly #values = new Map<string, string>();
  #key = '';

  get key(): string {
    return this.#key;
  }

  get(name: string): string | undefined {
    return this.#values.get(name);
  }

  /** False: not a setting that follows the client. */
  set(name: string, value: string): boolean {
    if (!BY_LOWER_CASE.has(name.toLowerCase())) return false;
    this.#values.set(BY_LOWER_CASE.get(name.toLowerCase())!, value);
    this.#key = TRACKED.map((each) => this.#values.get(each) ?? '').join('\0');
    return true;
  }

  /** Equal bytes of a statement mean the same under equal values of these. */
  get statementContext(): string {
    return `${this.#values.get('client_encoding')}/${this.#values.get('standard_conforming_strings')}`;
  }
}

/** Statements that give a session the client's values; empty when it has them. */
export function settingSql(wanted: TrackedParameters, present: TrackedParameters): string {
  return TRACKED.filter((name) => wanted.get(name) !== undefined && wanted.get(name) !== present.get(name))
    .map((name) => `SET ${name} = ${literal(wanted.get(name)!)}`)
    .join(';');
}

/** Safe under every encoding and whatever standard_conforming_strings says. */
function literal(value: string): string {
  const plain = value.slice(0, MAX_VALUE_LENGTH).replaceAll(/[^\x20-\x7e]/g, '?');
  return `E'${plain.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`;
}

/**
 * The tracked settings that a startup packet asks for. `options` is what is left of the startup packet's options
 * without what names the endpoint. Throws Refusal for anything that a pooled connection cannot have.
 */
export function pooledParameters(given: ReadonlyMap<string, string>, options: string | undefined): Map<string, string> {
  const wanted = new Map<string, string>();
  const take = (name: string, value: string): boolean => {
    const known = BY_LOWER_CASE.get(name.toLowerCase());
    if (known !== undefined) wanted.set(known, value);
    return known !== undefined || IGNORED.has(name.toLowerCase());
  };
  for (const [name, value] of parseOptions(options ?? '')) {
    if (!take(name, value)) throw refusals.unsupportedStartupOption(name);
  }
  for (const [name, value] of given) {
    if (CONNECTION.has(name) || name.startsWith('_pq_.')) continue;
    if (!take(name, value)) throw refusals.unsupportedStartupParameter(name);
  }
  // Clients behind the proxy speak UTF8, as on direct connections, unless they say otherwise.
  if (!wanted.has('client_encoding')) wanted.set('client_encoding', 'UTF8');
  return wanted;
}

/** `-c name=value`, `-cname=value` and `--name=value`; anything else is named as it is. */
function parseOptions(text: string): [string, string][] {
  const tokens = (text.match(/(?:\\[^]|[^\\ \t\n\r\f\v])+/g) ?? []).map((token) => token.replaceAll(/\\([^])/g, '$1'));
  const found: [string, string][] = [];
  for (let index = 0; index < tokens.length; index += 1) {
    let token = tokens[index]!;
    if (token === '-c') {
      index += 1;
      token = tokens[index] ?? '';
    } else if (token.startsWith('-c') || token.startsWith('--')) token = token.slice(2);
    const at = token.indexOf('=');
    if (at < 0) found.push([token, '']);
    else found.push([token.slice(0, at).replaceAll('-', '_'), token.slice(at + 1)]);
  }
  return found;
}
