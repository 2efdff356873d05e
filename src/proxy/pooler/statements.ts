/**
 * Prepared statements: what clients call by their own names exists on server connections under ours.
 *
 * A definition is the text with its parameter types, shared by all clients of a pool that prepared the same. A server
 * connection prepares it when a client first needs it there, under a name that it never uses again, so that a map
 * which is behind can never meet another statement under a name.
 */

export interface Definition {
  readonly key: string;
  /** Body of Parse behind the name, as latin1. */
  readonly text: string;
  readonly effects: number;
  /** Names of clients that mean it. */
  users: number;
}

export class Definitions {
  readonly #known = new Map<string, Definition>();

  /** `context`: settings under which equal bytes mean the same. Counts one user. */
  take(context: string, text: string, effects: () => number): Definition {
    const key = `${context}\0${text}`;
    let definition = this.#known.get(key);
    if (!definition) {
      definition = { key, text, effects: effects(), users: 0 };
      this.#known.set(key, definition);
    }
    definition.users += 1;
    return definition;
  }

  giveBack(definition: Definition): void {
    definition.users -= 1;
    if (definition.users === 0) this.#known.delete(definition.key);
  }

  /** When what was given back is taken again: it may have been forgotten meanwhile. */
  retake(definition: Definition): void {
    definition.users += 1;
    this.#known.set(definition.key, definition);
  }

  get size(): number {
    return this.#known.size;
  }
}

/** The names of one client. Bounded by number and by bytes. */
export class ClientStatements {
  readonly #definitions: Definitions;
  readonly #byName = new Map<string, Definition>();
  #bytes = 0;
  #isEnded = false;

  constructor(definitions: Definitions) {
    this.#definitions = definitions;
  }

  get size(): number {
    return this.#byName.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get(name: string): Definition | undefined {
    return this.#byName.get(name);
  }

  /** Takes over the count of a user. */
  set(name: string, definition: Definition): void {
    this.#byName.set(name, definition);
    this.#bytes += definition.text.length;
  }

  /** Puts back what `delete` gave. */
  restore(name: string, definition: Definition): void {
    if (this.#isEnded || this.#byName.has(name)) return;
    this.#definitions.retake(definition);
    this.set(name, definition);
  }

  /** Only when it still means that definition. */
  delete(name: string, definition: Definition): boolean {
    if (this.#byName.get(name) !== definition) return false;
    this.#byName.delete(name);
    this.#bytes -= definition.text.length;
    this.#definitions.giveBack(definition);
    return true;
  }

  clear(except: ReadonlySet<string> = new Set()): void {
    for (const [name, definition] of this.#byName) if (!except.has(name)) this.delete(name, definition);
  }
  /** The client has gone: what turns out later not to have happened changes nothing any more. */
  end(): void {
    this.#isEnded = true;
    this.clear();
  }
}

export const NAME_PREFIX = 'ballast_';

/** What is prepared on one server connection. */
export class ServerStatements {
  readonly #limit: number;
  readonly #names = new Map<Definition, { name: string; used: number }>();
  #named = 0;
  #clock = 0;
  /** Names that Postgres still knows and nobody needs. */
  #garbage: string[] = [];

  constructor(limit: number) {
    this.#limit = limit;
  }

  get size(): number {
    return this.#names.size;
  }

  /** Undefined: it has to be prepared here. */
  find(definition: Definition): string | undefined {
    const entry = this.#names.get(definition);
    if (!entry) return undefined;
    this.#clock += 1;
    entry.used = this.#clock;
    return entry.name;
  }

  /** A new name for it; the one that it had is garbage from then on. */
  add(definition: Definition): string {
    this.drop(definition);
    if (this.#names.size >= this.#limit) this.#dropOldest();
    this.#named += 1;
    this.#clock += 1;
    const name = `${NAME_PREFIX}${this.#named}`;
    this.#names.set(definition, { name, used: this.#clock });
    return name;
  }

  /** To be closed when there is an occasion. */
  drop(definition: Definition): void {
    const entry = this.#names.get(definition);
    if (!entry) return;
    this.#names.delete(definition);
    this.#garbage.push(entry.name);
  }

  /** It was never prepared. */
  failed(definition: Definition, name: string): void {
    if (this.#names.get(definition)?.name === name) this.#names.delete(definition);
  }

  discard(name: string): void {
    this.#garbage.push(name);
  }

  takeGarbage(): string[] {
    if (this.#garbage.length === 0) return [];
    const names = this.#garbage;
    this.#garbage = [];
    return names;
  }

  /** Postgres has forgotten all. */
  clear(): void {
    this.#names.clear();
    this.#garbage = [];
  }

  #dropOldest(): void {
    let oldest: Definition | undefined;
    let used = Number.POSITIVE_INFINITY;
    for (const [definition, entry] of this.#names) {
      if (entry.used < used) [oldest, used] = [definition, entry.used];
    }
    if (oldest) this.drop(oldest);
  }
}
