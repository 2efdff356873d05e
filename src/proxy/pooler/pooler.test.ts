/**
 * Random clients of one pool: pipelines, named and unnamed statements, errors, settings, bytes cut anywhere, clients
 * that vanish. Each must get exactly what a session of its own would have answered.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { FakeSession, frame, readMessages } from '../../../test/support/fake-session.ts';
import { FakeWire } from '../../../test/support/fake-wire.ts';
import { DEFAULT_POOL_LIMITS, Pool } from './pool.ts';
import { PooledClient } from './pooled-client.ts';
import { ServerConnection } from './server-connection.ts';
import type { ServerOwner } from './server-connection.ts';

const CLIENTS = 4;
const SERVERS = 2;

const name = fc.constantFrom('', 'a', 'b');
const sql = (who: number) =>
  fc.oneof(
    { weight: 4, arbitrary: fc.nat(999).map((n) => `echo c${who}-${n}`) },
    { weight: 2, arbitrary: fc.constantFrom('show', 'begin', 'commit', 'rollback') },
    { weight: 1, arbitrary: fc.constantFrom(`set secret-of-${who}`, 'fail', 'nonsense') },
  );
const message = (who: number) =>
  fc.oneof(
    { weight: 3, arbitrary: sql(who).map((text) => Buffer.concat([frame('S'), frame('Q', `${text}\0`)])) },
    { weight: 3, arbitrary: fc.tuple(name, sql(who)).map(([n, text]) => frame('P', `${n}\0${text}\0\0\0`)) },
    { weight: 4, arbitrary: name.map((n) => frame('B', `\0${n}\0\0\0\0\0\0\0`)) },
    { weight: 3, arbitrary: fc.constant(frame('E', '\0\0\0\0\0')) },
    { weight: 1, arbitrary: name.map((n) => frame('D', `S${n}\0`)) },
    { weight: 1, arbitrary: name.map((n) => frame('C', `S${n}\0`)) },
    { weight: 5, arbitrary: fc.constant(frame('S')) },
  );
type Step =
  | { kind: 'say'; who: number; messages: Buffer[]; cut: number }
  | { kind: 'answer'; which: number; cut: number }
  | { kind: 'vanish'; who: number };
const step: fc.Arbitrary<Step> = fc.nat(CLIENTS - 1).chain((who) =>
  fc.oneof(
    {
      weight: 30,
      arbitrary: fc.record({
        kind: fc.constant('say' as const),
        who: fc.constant(who),
        messages: fc.array(message(who), { minLength: 1, maxLength: 6 }),
        cut: fc.nat(40),
      }),
    },
    { weight: 25, arbitrary: fc.record({ kind: fc.constant('answer' as const), which: fc.nat(9), cut: fc.nat(60) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('vanish' as const), who: fc.constant(who) }) },
  ),
);

class World {
  readonly sessions = new Map<ServerConnection, { session: FakeSession; wire: FakeWire; unread: Buffer }>();
  readonly clients: {
    client: PooledClient;
    wire: FakeWire;
    inbox: Buffer[];
    oracle: FakeSession;
    expected: Buffer[];
    gone: boolean;
  }[];
  readonly pool: Pool;

  constructor() {
    this.pool = new Pool({
      limits: DEFAULT_POOL_LIMITS,
      nowMs: () => 0,
      open: async (owner) => this.#open(owner),
      maxServers: () => SERVERS,
      makeRoom: () => false,
      isFull: () => false,
      cancel: async () => true,
      rolesChanged: () => undefined,
      errorBytes: () => Buffer.alloc(0),
      onEmpty: () => undefined,
    });
    this.clients = Array.from({ length: CLIENTS }, () => {
      const wire = new FakeWire();
      const client: PooledClient = new PooledClient(wire, this.pool, this.pool.definitions, () =>
        this.pool.leave(client),
      );
      this.pool.clients.add(client);
      return { client, wire, inbox: [], oracle: new FakeSession({ forgets: true }), expected: [], gone: false };
    });
  }

  #open(owner: ServerOwner): ServerConnection {
    const wire = new FakeWire(() => this.sessions.delete(server));
    const server: ServerConnection = new ServerConnection({
      wire,
      owner,
      maxStatements: 2,
      openedAtMs: 0,
      onEnd: () => undefined,
    });
    this.sessions.set(server, { session: new FakeSession({ forgets: false }), wire, unread: Buffer.alloc(0) });
    return server;
  }

  say(who: number, bytes: Buffer, cut: number): void {
    const one = this.clients[who]!;
    if (one.gone) return;
    one.expected.push(one.oracle.feed(bytes));
    const at = Math.min(cut, bytes.length);
    one.inbox.push(...[bytes.subarray(0, at), bytes.subarray(at)].filter((part) => part.length > 0));
    this.deliver();
  }

  deliver(): void {
    for (const one of this.clients) {
      while (!one.gone && !one.wire.paused && one.inbox.length > 0) one.client.receive(one.inbox.shift()!);
    }
  }

  answer(which: number, cut: number): boolean {
    const all = [...this.sessions];
    if (all.length === 0) return false;
    const [server, one] = all[which % all.length]!;
    one.unread = Buffer.concat([one.unread, one.session.feed(Buffer.concat(one.wire.written.splice(0)))]);
    if (one.unread.length === 0) return false;
    const chunk = Buffer.from(one.unread.subarray(0, cut + 1));
    one.unread = one.unread.subarray(cut + 1);
    server.receive(chunk);
    this.deliver();
    return true;
  }

  vanish(who: number): void {
    const one = this.clients[who]!;
    if (one.gone) return;
    one.gone = true;
    one.wire.destroyed = true;
    one.client.closed();
    this.deliver();
  }

  async settle(): Promise<void> {
    for (let calm = 0; calm < 4;) {
      await new Promise((resolve) => setImmediate(resolve));
      let moved = false;
      for (let which = 0; which < SERVERS; which += 1) while (this.answer(which, 1_000)) moved = true;
      calm = moved ? 0 : calm + 1;
    }
  }
}

test('random clients get the answers of sessions of their own', { timeout: 60_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const world = new World();
      for (const each of steps) {
        if (each.kind === 'say') world.say(each.who, Buffer.concat(each.messages), each.cut);
        else if (each.kind === 'answer') world.answer(each.which, each.cut);
        else world.vanish(each.who);
        await Promise.resolve();
      }
      // Everybody ends what was begun, one after the other, so that nobody waits for a transaction without an end.
      for (let who = 0; who < CLIENTS; who += 1) world.say(who, frame('S'), 0);
      for (let who = 0; who < CLIENTS; who += 1) world.say(who, frame('Q', 'rollback\0'), 0);
      await world.settle();
      for (const one of world.clients.filter(({ gone }) => !gone)) {
        // Its own settings may last as long as it keeps the connection busy; those of others must never show.
        const own = `D:secret-of-${world.clients.indexOf(one)}`;
        const codes = (bytes: Buffer[]) =>
          readMessages(Buffer.concat(bytes)).map((text) => {
            if (text.startsWith('E:')) return /C(\w{5})\0/.exec(text)![1];
            return text === own ? 'D:none' : text;
          });
        expect(codes(one.wire.written)).toEqual(codes(one.expected));
      }
      const { waiting, idle, servers } = world.pool.stats();
      expect({ waiting, lent: servers - idle }).toEqual({ waiting: 0, lent: 0 });
      for (const { session } of world.sessions.values()) expect(session.setting).toBe('none');
      world.pool.close(Buffer.alloc(0));
    }),
    { numRuns: 1500, seed: 4, interruptAfterTimeLimit: 15_000, markInterruptAsFailure: false },
  );
});
