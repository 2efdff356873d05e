/**
 * Random clients of one pool that cancel, copy, vanish in every state or send garbage, on server connections that die. What
 * one asks carries its tag, and whatever a session answers carries the tag of who asked for it: none may ever meet
 * another's, everybody gets as many answers as questions, in order, and every server connection comes back or is closed.
 *
 * BALLAST_FUZZ_SEED chooses another seed; a failure prints seed and path.
 */
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { FakeSession, frame } from '../../../test/support/fake-session.ts';
import { FakeWire } from '../../../test/support/fake-wire.ts';
import { DEFAULT_POOL_LIMITS, Pool } from './pool.ts';
import { PooledClient } from './pooled-client.ts';
import { ServerConnection } from './server-connection.ts';
import type { ServerOwner } from './server-connection.ts';

const CLIENTS = 5;
const SERVERS = 2;
const SEED = Number(process.env['BALLAST_FUZZ_SEED'] ?? 11);
const TAG = /c\d+-\d+/g;
const EMPTY = Buffer.alloc(0);
const MANY_TURNS = 2_000;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] });
});
afterEach(() => {
  vi.useRealTimers();
});

const commands = ['echo', 'echo', 'notice', 'name', 'hang', 'hang', 'copyin', 'copyin', 'copyout'] as const;
const plain = ['begin', 'commit', 'rollback', 'whoami', 'whoami', 'show', 'fail', 'set'] as const;
const who = fc.nat(CLIENTS - 1);
const step = fc.oneof(
  {
    weight: 30,
    arbitrary: fc.record({
      kind: fc.constant('ask' as const),
      who,
      command: fc.constantFrom(...commands, ...plain),
      how: fc.constantFrom('simple', 'simple', 'simple', 'rush', 'unnamed', 'named', 'again', 'closing'),
    }),
  },
  { weight: 30, arbitrary: fc.record({ kind: fc.constant('flow' as const), who, count: fc.nat(80) }) },
  { weight: 20, arbitrary: fc.record({ kind: fc.constant('answer' as const), which: fc.nat(9), count: fc.nat(90) }) },
  {
    weight: 8,
    arbitrary: fc.record({ kind: fc.constant('copy' as const), who, end: fc.constantFrom('', '', 'c', 'f') }),
  },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('cancel' as const), who }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('cancelArrives' as const) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('go' as const),
      who,
      how: fc.constantFrom('reset', 'end', 'bye', 'half'),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('die' as const), which: fc.nat(9) }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('garbage' as const), who, bytes: fc.uint8Array({ maxLength: 40 }) }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('time' as const) }) },
);
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never;

/** What it is to be answered with: a ReadyForQuery at the end, and no tags but these in between. */
interface Question {
  /** Undefined: any of its own. */
  tag: string | undefined;
  mustEcho: boolean;
  copies: boolean;
  extended: boolean;
  asksName: boolean;
  seen: string;
}

class Asker {
  readonly id: number;
  readonly wire = new FakeWire();
  readonly client: PooledClient;
  questions: Question[] = [];
  /** Whether COPY data are wanted from it: not asked, asked, wanted, ended. */
  copying: 'no' | 'asked' | 'wanted' | 'ended' = 'no';
  /** It has gone, or what it says is no sense: only what it gets is of interest. */
  isWild = false;
  inTransaction = false;
  /** As it was told last. */
  name = '';
  #out: Buffer = EMPTY;
  #in: Buffer = EMPTY;
  #count = 0;

  constructor(id: number, pool: Pool) {
    this.id = id;
    this.client = new PooledClient(this.wire, pool, pool.definitions, () => pool.leave(this.client));
    this.client.parameters.set('application_name', '');
    pool.clients.add(this.client);
  }

  ask({ command, how }: Extract<Step, { kind: 'ask' }>): void {
    if (this.isWild || this.copying !== 'no') return;
    this.#count += 1;
    const tag = `c${this.id}-${this.#count}`;
    const sql = (plain as readonly string[]).includes(command) && command !== 'set' ? command : `${command} ${tag}`;
    const extended = how !== 'simple' && how !== 'rush';
    const again = how === 'again';
    const anyOwn = again || command === 'whoami' || command === 'show';
    // What a statement of another time does is not known; it may be anything but a COPY of data.
    if (extended && command === 'copyin' && how !== 'unnamed') return;
    this.copying = command === 'copyin' && !again ? 'asked' : 'no';
    this.questions.push({
      tag: anyOwn ? undefined : tag,
      mustEcho: command === 'echo' && !again,
      asksName: command === 'whoami' && !again,
      copies: this.copying === 'asked',
      extended,
      seen: '',
    });
    const name = how === 'unnamed' ? '' : 'n';
    const run = [frame('B', `\0${name}\0\0\0\0\0\0\0`), frame('E', '\0\0\0\0\0')];
    const close = how === 'closing' || how === 'named' ? [frame('C', `S${name}\0`)] : [];
    const parse = [...close, frame('P', `${name}\0${sql}\0\0\0`)];
    if (!extended) this.say(frame('Q', `${sql}\0`));
    if (how === 'rush' && this.copying === 'asked') {
      // Whether or not the data will be wanted.
      this.copying = 'ended';
      this.say(frame('d', tag), frame('c'));
    }
    if (!extended) return;
    this.say(...(again ? [] : parse), ...run, ...(how === 'closing' ? close : []), frame('S'));
  }

  /** A piece of the data that were asked for, or their end. */
  copy(end: string): void {
    if (this.copying !== 'wanted' || this.isWild) return;
    const { tag, extended } = this.questions.at(-1)!;
    if (end === '') return this.say(frame('d', tag!));
    this.copying = 'ended';
    this.say(frame(end, end === 'f' ? 'enough\0' : ''), ...(extended ? [frame('S')] : []));
  }

  say(...frames: Buffer[]): void {
    this.#out = Buffer.concat([this.#out, ...frames]);
  }

  flow(count: number): void {
    if (this.wire.paused || this.client.gone || this.#out.length === 0) return;
    const chunk = Buffer.from(this.#out.subarray(0, count + 1));
    this.#out = this.#out.subarray(count + 1);
    this.client.receive(chunk);
    this.look();
  }

  get hasMore(): boolean {
    return this.#out.length > 0 && !this.wire.paused && !this.client.gone;
  }

  go(how: string): void {
    this.isWild = true;
    if (how === 'bye') return this.say(frame('X'));
    if (how === 'half') {
      this.say(frame('d', 'x'.repeat(50)).subarray(0, 30));
      while (this.hasMore) this.flow(1000);
    }
    this.#out = EMPTY;
    if (how !== 'reset') return this.client.leave();
    this.wire.destroyed = true;
    this.client.closed();
  }

  /** Reads what it got. */
  look(): void {
    this.#in = Buffer.concat([this.#in, ...this.wire.written.splice(0)]);
    while (this.#in.length >= 5) {
      const end = 1 + this.#in.readUInt32BE(1);
      if (this.#in.length < end) break;
      this.#hear(this.#in.toString('latin1', 0, 1), this.#in.toString('latin1', 5, end));
      this.#in = this.#in.subarray(end);
    }
    if (this.wire.ended) this.isWild = true;
  }

  #hear(type: string, body: string): void {
    const [question] = this.questions;
    for (const tag of body.match(TAG) ?? []) {
      const expected = this.isWild ? undefined : question?.tag;
      if (expected === undefined) expect(tag.startsWith(`c${this.id}-`), `${tag} for ${this.id}`).toBe(true);
      else expect(tag).toBe(expected);
    }
    if (type === 'S') this.name = body.split('\0')[1]!;
    if (this.isWild || !question) return;
    if (type === 'D' && question.asksName) expect(body).toBe(this.name);
    if (type === 'D') question.seen += body;
    if (type === 'E') question.seen += 'E';
    if (type === 'G' && question.copies && this.copying === 'asked') this.copying = 'wanted';
    // The Sync before the data was not heard.
    if (type === 'E' && question.extended && this.copying === 'wanted') {
      this.copying = 'ended';
      this.say(frame('S'));
    }
    if (type !== 'Z') return;
    this.questions.shift();
    if (question.mustEcho) expect(['E', question.tag]).toContain(question.seen);
    if (question.copies) this.copying = 'no';
    this.inTransaction = body !== 'I';
  }
}

interface Cancel {
  server: ServerConnection;
  by: number | undefined;
  arrive: () => void;
}

class World {
  readonly pool: Pool;
  readonly askers: Asker[];
  readonly alive = new Map<ServerConnection, { session: FakeSession; wire: FakeWire; unread: Buffer }>();
  readonly sessions: FakeSession[] = [];
  cancels: Cancel[] = [];

  constructor() {
    this.pool = new Pool({
      limits: DEFAULT_POOL_LIMITS,
      nowMs: () => 0,
      open: async (owner) => this.#open(owner),
      maxServers: () => SERVERS,
      makeRoom: () => false,
      isFull: () => false,
      cancel: (server) => {
        const by = this.askers.find(({ client }) => client === server.client)?.id;
        return new Promise((resolve) => this.cancels.push({ server, by, arrive: () => resolve(true) }));
      },
      rolesChanged: () => undefined,
      errorBytes: () => EMPTY,
      onEmpty: () => undefined,
    });
    this.askers = Array.from({ length: CLIENTS }, (_, id) => new Asker(id, this.pool));
  }

  #open(owner: ServerOwner): ServerConnection {
    const session = new FakeSession({ forgets: false });
    const wire = new FakeWire(() => this.alive.delete(server));
    const options = { wire, owner, maxStatements: 2, openedAtMs: 0, onEnd: () => undefined };
    const server: ServerConnection = new ServerConnection(options);
    server.parameters.set('application_name', '');
    this.alive.set(server, { session, wire, unread: EMPTY });
    this.sessions.push(session);
    return server;
  }

  take(each: Step): void {
    const asker = 'who' in each ? this.askers[each.who]! : undefined;
    if (each.kind === 'ask') asker!.ask(each);
    else if (each.kind === 'flow') asker!.flow(each.count);
    else if (each.kind === 'answer') this.answer(each.which, each.count);
    else if (each.kind === 'copy') asker!.copy(each.end);
    else if (each.kind === 'cancel') void this.pool.cancelFor(asker!.client);
    else if (each.kind === 'cancelArrives') this.cancelArrives();
    else if (each.kind === 'go') asker!.go(each.how);
    else if (each.kind === 'die') this.die(each.which);
    else if (each.kind === 'time') vi.advanceTimersByTime(DEFAULT_POOL_LIMITS.goneClientGraceMs);
    else {
      asker!.isWild = true;
      asker!.say(Buffer.from(each.bytes));
    }
    for (const one of this.askers) one.look();
  }

  answer(which: number, count: number): boolean {
    const [server, one] = [...this.alive][which % Math.max(1, this.alive.size)] ?? [];
    if (!server || !one) return false;
    one.unread = Buffer.concat([one.unread, one.session.feed(Buffer.concat(one.wire.written.splice(0)))]);
    if (one.unread.length === 0 || one.wire.paused) return false;
    const chunk = Buffer.from(one.unread.subarray(0, count + 1));
    one.unread = one.unread.subarray(count + 1);
    // What is given back is read into again.
    if (server.receive(chunk)) chunk.fill(0xff);
    return true;
  }

  cancelArrives(): boolean {
    const cancel = this.cancels.shift();
    if (!cancel) return false;
    const one = this.alive.get(cancel.server);
    const hit = one?.session.running;
    // It stops nobody's query but that of the client who asked, or who has left it behind.
    if (hit !== undefined && cancel.by !== undefined) expect(hit.startsWith(`c${cancel.by}-`)).toBe(true);
    if (hit !== undefined && cancel.by === undefined) expect(cancel.server.client).toBeUndefined();
    // Whether the Sync behind such a command is heard before the cancel or after it is a matter of luck.
    const copies = this.askers.some(({ questions: [q] }) => q?.copies && q.extended && q.tag === hit);
    if (one && !copies) one.unread = Buffer.concat([one.unread, one.session.cancel()]);
    cancel.arrive();
    return true;
  }

  die(which: number): void {
    const [server, one] = [...this.alive][which % Math.max(1, this.alive.size)] ?? [];
    if (!server || !one) return;
    const wasUnread = one.wire.written.length > 0;
    this.alive.delete(server);
    one.wire.destroyed = true;
    const { client } = server;
    server.end();
    server.client = undefined;
    client?.lostServer(server, wasUnread);
  }

  /** Until nothing moves by itself. */
  async settle(): Promise<void> {
    for (let calm = 0, turns = 0; calm < 3; turns += 1) {
      expect(turns, 'turns until nothing moves').toBeLessThan(MANY_TURNS);
      await new Promise((resolve) => setImmediate(resolve));
      let moved = this.cancelArrives();
      for (let which = 0; which < SERVERS; which += 1) if (this.answer(which, 1000)) moved = true;
      for (const one of this.askers) {
        one.look();
        if (!one.hasMore) continue;
        one.flow(1000);
        moved = true;
      }
      calm = moved ? 0 : calm + 1;
    }
  }

  /** Everybody ends what was begun. */
  async conclude(): Promise<void> {
    for (const one of this.askers) if (one.isWild) one.go('reset');
    for (let round = 0; round < 200; round += 1) {
      await this.settle();
      vi.advanceTimersByTime(DEFAULT_POOL_LIMITS.goneClientGraceMs);
      await this.settle();
      const busy = this.askers.filter((one) => !one.isWild && (one.questions.length > 0 || one.inTransaction));
      if (busy.length === 0) return;
      for (const one of busy) {
        if (one.copying === 'wanted') one.copy('c');
        else if (one.questions.length > 0) void this.pool.cancelFor(one.client);
        else one.ask({ kind: 'ask', who: one.id, command: 'rollback', how: 'simple' });
      }
    }
  }
}

test(
  'nobody ever meets what is of another, whatever happens to clients and server connections',
  { timeout: 60_000 },
  async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 250, size: 'max' }), async (steps) => {
        const world = new World();
        for (const each of steps) {
          world.take(each);
          for (let turn = 0; turn < 4; turn += 1) await Promise.resolve();
        }
        await world.conclude();
        const open = world.askers.filter((one) => !one.isWild);
        expect(open.map((one) => one.questions)).toEqual(open.map(() => []));
        expect(world.sessions.flatMap((session) => session.strangeData)).toEqual([]);
        const { waiting, idle, servers } = world.pool.stats();
        expect({ waiting, lent: servers - idle, alive: world.alive.size }).toEqual({
          waiting: 0,
          lent: 0,
          alive: idle,
        });
        for (const { session } of world.alive.values()) {
          expect([session.setting, session.status, session.running]).toEqual(['none', 'I', undefined]);
        }
        for (const one of world.askers) one.go('reset');
        await world.settle();
        expect(world.pool.definitions.size).toBe(0);
        world.pool.close(EMPTY);
        expect(world.alive.size).toBe(0);
      }),
      { numRuns: 2_000, seed: SEED, interruptAfterTimeLimit: 10_000, markInterruptAsFailure: false },
    );
  },
);
