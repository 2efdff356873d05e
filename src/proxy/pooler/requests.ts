/**
 * What a server connection has been sent and has not answered yet, in order.
 *
 * Which answer belongs to which request decides when a transaction is over, which answers are the pooler's own and
 * stay here, and what never happened because an error made Postgres skip up to the next Sync.
 */
export const REQUEST = {
  none: 0,
  query: 1,
  sync: 2,
  functionCall: 3,
  parse: 4,
  bind: 5,
  describe: 6,
  execute: 7,
  close: 8,
  /** CopyDone or CopyFail while no COPY was known to wait for it: Postgres ignores it, unless one is. */
  copyEnd: 9,
  /** Messages of the pooler; their answers are not for the client. */
  ownParse: 10,
  ownClose: 11,
  ownQuery: 12,
  /** A message that fails for sure; its error is replaced by the one that it stands for. */
  reject: 13,
} as const;

export type RequestKind = (typeof REQUEST)[keyof typeof REQUEST];

const FIRST_CAPACITY = 16;

/** What may turn out not to have happened. */
interface Undoable {
  undo?: unknown;
  unnamed?: boolean;
}

export class Requests<Ref extends Undoable> {
  #kinds = new Uint8Array(FIRST_CAPACITY);
  #refs: (Ref | undefined)[] = Array.from({ length: FIRST_CAPACITY }, () => undefined);
  #head = 0;
  #size = 0;
  /** Unanswered ones that can be undone: of named statements, of the unnamed one. */
  named = 0;
  unnamed = 0;
  /** Something was sent since Postgres last said that it is ready: its implicit transaction may be open. */
  unsynced = false;
  /** Messages of the extended protocol were sent and their Sync was not: answers need not come. */
  open = false;

  get size(): number {
    return this.#size;
  }

  push(kind: RequestKind, ref?: Ref): void {
    if (this.#size === this.#kinds.length) this.#grow();
    const at = (this.#head + this.#size) & (this.#kinds.length - 1);
    this.#kinds[at] = kind;
    this.#refs[at] = ref;
    this.#size += 1;
    this.unsynced = true;
    if (kind === REQUEST.sync) this.open = false;
    else if (kind >= REQUEST.parse && kind !== REQUEST.copyEnd && kind !== REQUEST.ownQuery) this.open = true;
    if (ref?.undo !== undefined) this.#count(ref, 1);
  }

  /** The oldest one's kind; REQUEST.none when all is answered. */
  head(): RequestKind {
    return this.#size === 0 ? REQUEST.none : (this.#kinds[this.#head] as RequestKind);
  }

  headRef(): Ref | undefined {
    return this.#size === 0 ? undefined : this.#refs[this.#head];
  }

  shift(): RequestKind {
    if (this.#size === 0) return REQUEST.none;
    const kind = this.#kinds[this.#head] as RequestKind;
    const ref = this.#refs[this.#head];
    if (ref?.undo !== undefined) this.#count(ref, -1);
    this.#refs[this.#head] = undefined;
    this.#head = (this.#head + 1) & (this.#kinds.length - 1);
    this.#size -= 1;
    return kind;
  }

  /** How many of the unanswered ones run something for the client. */
  queries(): number {
    let count = 0;
    for (let index = 0; index < this.#size; index += 1) {
      const kind = this.#kinds[this.#at(index)];
      if (kind === REQUEST.query || kind === REQUEST.execute) count += 1;
    }
    return count;
  }

  /** Postgres was ready before it read these: it ignores them. */
  dropCopyEnds(): void {
    while (this.head() === REQUEST.copyEnd) this.shift();
  }

  refs(): Ref[] {
    const found: Ref[] = [];
    for (let index = 0; index < this.#size; index += 1) {
      const ref = this.#refs[this.#at(index)];
      if (ref !== undefined) found.push(ref);
    }
    return found;
  }

  /**
   * Postgres has begun to read COPY data: it ignores every Sync up to the end of the data, and takes anything else for
   * an error. `ended`: the end has been sent already. `abused`: something else is in between.
   */
  beginCopyIn(): { syncs: number; ended: boolean; abused: boolean } {
    const kept: [RequestKind, Ref | undefined][] = [];
    const result = { syncs: 0, ended: false, abused: false };
    const count = this.#size;
    for (let index = 0; index < count; index += 1) {
      const ref = this.headRef();
      const kind = this.shift();
      if (index === 0 || result.ended) kept.push([kind, ref]);
      else if (kind === REQUEST.sync) result.syncs += 1;
      else if (kind === REQUEST.copyEnd) result.ended = true;
      else result.abused = true;
    }
    for (const [kind, ref] of kept) this.push(kind, ref);
    return result;
  }

  #count(ref: Ref, by: 1 | -1): void {
    if (ref.unnamed === true) this.unnamed += by;
    else this.named += by;
  }

  #at(index: number): number {
    return (this.#head + index) & (this.#kinds.length - 1);
  }

  #grow(): void {
    const capacity = this.#kinds.length * 2;
    const kinds = new Uint8Array(capacity);
    const refs: (Ref | undefined)[] = Array.from({ length: capacity }, () => undefined);
    for (let index = 0; index < this.#size; index += 1) {
      kinds[index] = this.#kinds[this.#at(index)]!;
      refs[index] = this.#refs[this.#at(index)];
    }
    [this.#kinds, this.#refs, this.#head] = [kinds, refs, 0];
  }
}
