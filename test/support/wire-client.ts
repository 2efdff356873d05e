/**
 * A client that speaks the wire protocol message by message, for what drivers never say: half messages, pipelines that
 * stop anywhere, COPY that fails, many connections at little cost. It logs in by password prefix, without TLS or with.
 */
import net from 'node:net';
import type { Socket } from 'node:net';
import tls from 'node:tls';
import { frame } from './fake-session.ts';

export interface WireLogin {
  port: number;
  /** With `-pooler` for a pooled session. */
  endpoint: string;
  user: string;
  password: string;
  database: string;
  /** Default: without TLS. */
  encrypted?: boolean;
}

export interface WireMessage {
  type: string;
  /** latin1 */
  body: string;
}

const PROTOCOL_3 = 196_608;
const CANCEL_CODE = 80_877_102;
const SSL_CODE = 80_877_103;
const HEADER_BYTES = 5;

export class WireClient {
  readonly socket: Socket;
  readonly closed: Promise<void>;
  ended = false;
  backendKey: Buffer = Buffer.alloc(8);
  readonly #port: number;
  #received: Buffer = Buffer.alloc(0);
  #messages: WireMessage[] = [];
  #wake: () => void = () => undefined;

  private constructor(socket: Socket, port: number) {
    this.socket = socket;
    this.#port = port;
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        this.ended = true;
        this.#wake();
        resolve();
      });
    });
  }

  static async logIn(login: WireLogin): Promise<WireClient> {
    const plain = await connect(login.port);
    const client = new WireClient(login.encrypted ? await secure(plain) : plain, login.port);
    client.send(packet(PROTOCOL_3, `user\0${login.user}\0database\0${login.database}\0\0`));
    await client.until(({ type }) => type === 'R');
    client.send(frame('p', `endpoint=${login.endpoint};${login.password}\0`));
    const greeting = await client.until(({ type }) => type === 'Z');
    client.backendKey = Buffer.from(greeting.find(({ type }) => type === 'K')?.body ?? '', 'latin1');
    return client;
  }

  send(...frames: Buffer[]): void {
    this.socket.write(Buffer.concat(frames));
  }

  /** Every message up to one that `isLast`. Rejects when the connection ends before, with what came. */
  async until(isLast: (message: WireMessage) => boolean): Promise<WireMessage[]> {
    for (;;) {
      const at = this.#messages.findIndex(isLast);
      if (at >= 0) return this.#messages.splice(0, at + 1);
      if (this.ended) throw new Error(`connection ended after ${JSON.stringify(this.#messages)}`);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  /** Sends, and reads up to the given number of ReadyForQuery. */
  async ask(frames: readonly Buffer[], readies = 1): Promise<WireMessage[]> {
    this.send(...frames);
    const answer: WireMessage[] = [];
    for (let count = 0; count < readies; count += 1) answer.push(...(await this.until(({ type }) => type === 'Z')));
    return answer;
  }

  /** What came and was not read yet. */
  unread(): WireMessage[] {
    return this.#messages.splice(0);
  }

  /** Resolves when the cancel request has been answered by the end of its connection. */
  async cancel(): Promise<void> {
    const socket = await connect(this.#port);
    const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
    socket.on('error', () => undefined);
    socket.resume();
    socket.end(packet(CANCEL_CODE, this.backendKey));
    await closed;
  }

  async end(): Promise<void> {
    this.socket.end(frame('X'));
    await this.closed;
  }

  #take(chunk: Buffer): void {
    this.#received = this.#received.length > 0 ? Buffer.concat([this.#received, chunk]) : chunk;
    for (;;) {
      if (this.#received.length < HEADER_BYTES) break;
      const end = 1 + this.#received.readUInt32BE(1);
      if (this.#received.length < end) break;
      const type = this.#received.toString('latin1', 0, 1);
      this.#messages.push({ type, body: this.#received.toString('latin1', HEADER_BYTES, end) });
      this.#received = this.#received.subarray(end);
    }
    this.#wake();
  }
}

function packet(code: number, body: Buffer | string): Buffer {
  const data = typeof body === 'string' ? Buffer.from(body) : body;
  const bytes = Buffer.alloc(8 + data.length);
  bytes.writeUInt32BE(bytes.length, 0);
  bytes.writeUInt32BE(code, 4);
  data.copy(bytes, 8);
  return bytes;
}

function connect(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ port, host: '127.0.0.1', noDelay: true }, () => {
      socket.off('error', reject);
      resolve(socket);
    });
    socket.once('error', reject);
  });
}

async function secure(socket: Socket): Promise<Socket> {
  socket.write(packet(SSL_CODE, ''));
  await new Promise((resolve, reject) => {
    socket.once('data', resolve);
    socket.once('close', reject);
  });
  return new Promise((resolve, reject) => {
    const secured = tls.connect({ socket, rejectUnauthorized: false }, () => {
      secured.off('error', reject);
      resolve(secured);
    });
    secured.once('error', reject);
  });
}

/** Messages of a client. */
export const say = {
  query: (sql: string) => frame('Q', `${sql}\0`),
  parse: (name: string, sql: string) => frame('P', `${name}\0${sql}\0\0\0`),
  /** Text parameters. */
  bind: (statement: string, values: readonly string[] = []) =>
    frame(
      'B',
      Buffer.concat([Buffer.from(`\0${statement}\0`), int16(0), int16(values.length), ...values.map(value), int16(0)]),
    ),
  describe: (statement: string) => frame('D', `S${statement}\0`),
  execute: () => frame('E', '\0\0\0\0\0'),
  close: (statement: string) => frame('C', `S${statement}\0`),
  sync: () => frame('S'),
  flush: () => frame('H'),
  copyData: (rows: string) => frame('d', rows),
  copyDone: () => frame('c'),
  copyFail: (why: string) => frame('f', `${why}\0`),
  /** Of a function with int4 arguments, in binary. */
  functionCall: (oid: number, values: readonly number[]) =>
    frame(
      'F',
      Buffer.concat([
        int32(oid),
        int16(1),
        int16(1),
        int16(values.length),
        ...values.flatMap((each) => [int32(4), int32(each)]),
        int16(1),
      ]),
    ),
};

function value(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([int32(bytes.length), bytes]);
}

function int16(number: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeInt16BE(number);
  return bytes;
}

function int32(number: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(number);
  return bytes;
}

/** The text of a field of an ErrorResponse. */
export function errorField(message: WireMessage, field: 'C' | 'M' | 'V'): string | undefined {
  return message.body
    .split('\0')
    .find((text) => text.startsWith(field))
    ?.slice(1);
}

/** Types of the messages in order, as one word; rows' values as text where there are any. */
export function typesOf(messages: readonly WireMessage[]): string {
  return messages.map(({ type }) => type).join('');
}

/** First column of every row. */
export function firstColumn(messages: readonly WireMessage[]): string[] {
  return messages
    .filter(({ type }) => type === 'D')
    .map(({ body }) => {
      const bytes = Buffer.from(body, 'latin1');
      return bytes.toString('utf8', 6, 6 + bytes.readInt32BE(2));
    });
}
