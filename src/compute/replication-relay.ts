/**
 * The way of WAL from a read-write compute to those that follow it.
 *
 * The socket of a compute is hidden, and its pg_hba.conf turns physical replication away for everybody but cloud_admin,
 * whose secret no data directory and no configuration holds. So a follower connects to a socket that Ballast answers:
 *
 *   <sockets>/wal-<20 hex digits>/.s.PGSQL.5432     in a directory that only the project's user may enter
 *   <run>/computes/<endpoint id>/relay-password     a random password of this follower, readable by that user alone
 *
 * The password is for the tenants' sake: code inside any compute of the project runs as the same user and may find the
 * socket, but cannot read files. Who knows it may stream WAL and nothing else.
 *
 * While the primary is away the follower's connection is held, not refused: then nobody polls, and WAL flows again as
 * soon as the primary runs. A relay never starts a compute.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { chmod, chown, mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import type { Server, Socket } from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errorMessage } from '../lib/errors.ts';
import type { Logger } from '../lib/log.ts';
import {
  AUTHENTICATION,
  BACKEND,
  FRONTEND,
  HEADER_BYTES,
  MessageFramer,
  authentication,
  errorResponse,
  message,
  parseErrorFields,
  parsePassword,
  saslInitialResponse,
  saslResponse,
} from '../postgres/wire/messages.ts';
import { SCRAM_SHA_256, createScramClient, keysOfSecret } from '../postgres/wire/scram.ts';
import { createSocketReader } from '../postgres/wire/socket-reader.ts';
import type { SocketReader } from '../postgres/wire/socket-reader.ts';
import {
  MAX_STARTUP_PACKET_BYTES,
  MIN_STARTUP_PACKET_BYTES,
  ProtocolError,
  parseStartupPacket,
  startupMessage,
} from '../postgres/wire/startup.ts';
import type { FileOwner, TimelineRef } from '../storage/types.ts';
import type { ComputeAddress } from './types.ts';

export interface Follower {
  endpointId: string;
  owner: FileOwner | undefined;
  /** The timeline whose read-write compute it follows. */
  of: TimelineRef;
  /** Directory of its configuration. */
  configuration: string;
}

export interface ReplicationRelay {
  /** Listens for a follower, with the password that lies in its configuration or a new one. Gives primary_conninfo. */
  open(follower: Follower): Promise<string>;
  /** Ends the follower's connections and removes its socket. No error when there is none. */
  close(endpointId: string): Promise<void>;
  /** Sockets of followers that did not outlive Ballast. */
  removeStrays(): Promise<void>;
  /** A read-write compute of the timeline may be entered: those that wait for it connect. */
  primaryStarted(timeline: TimelineRef): void;
  /** Ends the streams from the timeline's read-write compute, whose stop would otherwise wait for slow followers. */
  cut(timeline: TimelineRef): void;
}

export interface ReplicationRelayOptions {
  sockets: string;
  /** cloud_admin's. */
  secret: () => Promise<string>;
  /** Undefined while no read-write compute of the timeline takes sessions. */
  findPrimary: (timeline: TimelineRef) => ComputeAddress | undefined;
  /** The primary has not had the WAL that the follower needs for a long time, and no archive has helped: it is stuck. */
  onLost: (endpointId: string) => void;
  logger: Logger;
}

const SOCKET_NAME = '.s.PGSQL.5432';
const PASSWORD_FILE = 'relay-password';
/** A walreceiver makes one at a time; a second one may come before the end of the first has been noticed. */
const MAX_CONNECTIONS = 4;
const AUTHENTICATE_WITHIN_MS = 10_000;
const LOGIN_WITHIN_MS = 10_000;
/** A primary that is on its way up or down, or has no walsender left. */
const RETRY_MS = 50;
/** So often in a row; a follower asks again after 250 ms, and looks into the archive in between. */
const LOST_AFTER_REFUSALS = 40;
/** A stream that ends before that has told nothing but that there is none. */
const STREAM_AT_LEAST_MS = 1_000;
const MAX_MESSAGE_BYTES = 64 * 1024;

/** All that a walreceiver says in words. */
const ALLOWED_COMMAND =
  /^(IDENTIFY_SYSTEM|TIMELINE_HISTORY \d{1,10}|START_REPLICATION [0-9A-F]{1,8}\/[0-9A-F]{1,8} TIMELINE \d{1,10})$/;

interface Door {
  follower: Follower;
  server: Server;
  password: string;
  connections: Set<Socket>;
  /** Ends of the streams at the primary. */
  streams: Set<Socket>;
  /** Streams that the primary ended as soon as they had begun, since the last one that lasted. */
  refusals: number;
}

interface State {
  options: ReplicationRelayOptions;
  doors: Map<string, Door>;
  /** By timeline: called when its primary starts. */
  waiting: Map<string, Set<() => void>>;
}

const keyOf = ({ projectId, timelineId }: TimelineRef): string => `${projectId}/${timelineId}`;

export function createReplicationRelay(options: ReplicationRelayOptions): ReplicationRelay {
  const state: State = { options, doors: new Map(), waiting: new Map() };
  return {
    open: (follower) => open(state, follower),
    close: (endpointId) => close(state, endpointId),
    removeStrays: async () => {
      const used = new Set([...state.doors.keys()].map((endpointId) => directoryOf(state, endpointId)));
      const names = await readdir(options.sockets).catch((): string[] => []);
      const strays = names
        .filter((name) => /^wal-[0-9a-f]{20}$/.test(name))
        .map((name) => path.join(options.sockets, name));
      await Promise.all(
        strays.filter((stray) => !used.has(stray)).map((stray) => rm(stray, { recursive: true, force: true })),
      );
    },
    primaryStarted: (timeline) => {
      for (const proceed of state.waiting.get(keyOf(timeline)) ?? []) proceed();
    },
    cut: (timeline) => {
      for (const door of state.doors.values()) {
        if (keyOf(door.follower.of) === keyOf(timeline)) for (const stream of door.streams) stream.destroy();
      }
    },
  };
}

async function open(state: State, follower: Follower): Promise<string> {
  await close(state, follower.endpointId);
  const directory = directoryOf(state, follower.endpointId);
  const password = await passwordOf(follower);
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory, { mode: 0o700 });
  const door: Door = {
    follower,
    password,
    connections: new Set(),
    streams: new Set(),
    refusals: 0,
    server: net.createServer((socket) => void admit(state, door, socket)),
  };
  const socketFile = path.join(directory, SOCKET_NAME);
  await new Promise<void>((resolve, reject) => {
    door.server.once('error', reject);
    door.server.listen(socketFile, resolve);
  });
  door.server.on('error', (error) => state.options.logger.warn({ err: error }, 'a replication relay does not listen'));
  const { owner } = follower;
  if (owner) {
    await chown(socketFile, owner.uid, owner.gid);
    await chmod(socketFile, 0o600);
    await chown(directory, 0, owner.gid);
    await chmod(directory, 0o710);
  }
  state.doors.set(follower.endpointId, door);
  const parts = {
    host: directory,
    port: '5432',
    user: 'cloud_admin',
    passfile: path.join(follower.configuration, PASSWORD_FILE),
  };
  return Object.entries(parts)
    .map(([name, value]) => `${name}='${value.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`)
    .join(' ');
}

/** As long as any other socket directory's name; see home-prepare.ts. */
function directoryOf({ options }: State, endpointId: string): string {
  return path.join(options.sockets, `wal-${createHash('sha256').update(endpointId).digest('hex').slice(0, 20)}`);
}

/** What a follower that outlived Ballast goes on using, or a new one; in the form that libpq wants. */
async function passwordOf({ configuration, owner }: Follower): Promise<string> {
  const file = path.join(configuration, PASSWORD_FILE);
  const present = await readFile(file, 'utf8').catch(() => '');
  const known = /^\*:\*:\*:\*:([A-Za-z0-9_-]{43})\n$/.exec(present)?.[1];
  if (known !== undefined) return known;
  const password = randomBytes(32).toString('base64url');
  await mkdir(configuration, { recursive: true, mode: 0o711 });
  await writeFile(file, `*:*:*:*:${password}\n`, { mode: 0o400 });
  if (owner) await chown(file, owner.uid, owner.gid);
  return password;
}

async function close(state: State, endpointId: string): Promise<void> {
  const door = state.doors.get(endpointId);
  if (!door) return;
  state.doors.delete(endpointId);
  const closed = new Promise<void>((resolve) => door.server.close(() => resolve()));
  for (const socket of door.connections) socket.destroy();
  await closed;
  await rm(directoryOf(state, endpointId), { recursive: true, force: true });
}

/** Never rejects. */
async function admit(state: State, door: Door, socket: Socket): Promise<void> {
  socket.on('error', () => undefined);
  if (door.connections.size >= MAX_CONNECTIONS) return void socket.destroy();
  door.connections.add(socket);
  socket.once('close', () => door.connections.delete(socket));
  try {
    await serve(state, door, socket);
  } catch (error) {
    const { endpointId } = door.follower;
    state.options.logger.debug({ endpointId, reason: errorMessage(error) }, 'a follower was turned away');
    socket.destroySoon();
  }
}

async function serve(state: State, door: Door, socket: Socket): Promise<void> {
  const reader = createSocketReader(socket);
  const late = setTimeout(() => socket.destroy(), AUTHENTICATE_WITHIN_MS);
  try {
    await authenticate(door, reader, socket);
  } finally {
    clearTimeout(late);
  }
  const primary = await reachPrimary(state, door, reader.closed);
  reader.closed.throwIfAborted();
  reader.release();
  socket.write(Buffer.concat([authentication(AUTHENTICATION.ok), primary.greeting]));
  connect(state, door, socket, primary.socket);
}

async function authenticate(door: Door, reader: SocketReader, socket: Socket): Promise<void> {
  const length = (await reader.bytes(4)).readUInt32BE(0);
  if (length < MIN_STARTUP_PACKET_BYTES || length > MAX_STARTUP_PACKET_BYTES) {
    throw new ProtocolError('invalid length of startup packet');
  }
  const packet = parseStartupPacket(await reader.bytes(length - 4));
  const isReplication = packet.kind === 'startup' && packet.parameters.get('replication') === 'true';
  if (!isReplication) throw refused(socket, 'only WAL is to be had here');
  socket.write(authentication(AUTHENTICATION.cleartext));
  const { type, body } = await reader.message(MAX_MESSAGE_BYTES);
  if (type !== FRONTEND.password) throw new ProtocolError('expected a password message');
  const [given, wanted] = [parsePassword(body), door.password].map((text) =>
    createHash('sha256').update(text).digest(),
  ) as [Buffer, Buffer];
  if (!timingSafeEqual(given, wanted)) throw refused(socket, 'password authentication failed');
}

function refused(socket: Socket, text: string): Error {
  socket.write(errorResponse({ severity: 'FATAL', code: '28P01', message: text }));
  return new Error(text);
}

interface Primary {
  socket: Socket;
  /** ParameterStatus, BackendKeyData and ReadyForQuery. */
  greeting: Buffer;
}

/** Waits as long as it takes. Rejects when the follower goes away. */
async function reachPrimary(state: State, door: Door, gone: AbortSignal): Promise<Primary> {
  const { of, endpointId } = door.follower;
  for (;;) {
    gone.throwIfAborted();
    const address = state.options.findPrimary(of);
    if (!address) {
      await primaryStarts(state, of, gone);
      continue;
    }
    try {
      return await logIn(address, await state.options.secret(), endpointId);
    } catch (error) {
      state.options.logger.debug({ endpointId, reason: errorMessage(error) }, 'the primary gives no WAL yet');
    }
    await sleep(RETRY_MS, undefined, { signal: gone }).catch(() => undefined);
  }
}

function primaryStarts({ waiting }: State, timeline: TimelineRef, gone: AbortSignal): Promise<void> {
  const key = keyOf(timeline);
  return new Promise((resolve) => {
    const those = waiting.get(key) ?? new Set();
    waiting.set(key, those);
    const proceed = (): void => {
      gone.removeEventListener('abort', proceed);
      those.delete(proceed);
      if (those.size === 0 && waiting.get(key) === those) waiting.delete(key);
      resolve();
    };
    those.add(proceed);
    gone.addEventListener('abort', proceed, { once: true });
    if (gone.aborted) proceed();
  });
}

async function logIn(address: ComputeAddress, secret: string, applicationName: string): Promise<Primary> {
  const socket = net.connect(path.join(address.socketDirectory, `.s.PGSQL.${address.port}`));
  socket.on('error', () => undefined);
  const late = setTimeout(() => socket.destroy(), LOGIN_WITHIN_MS);
  try {
    const reader = createSocketReader(socket);
    socket.write(
      startupMessage([
        ['user', 'cloud_admin'],
        ['replication', 'true'],
        ['application_name', applicationName],
      ]),
    );
    const greeting = await converse(reader, socket, secret);
    reader.release();
    return { socket, greeting };
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    clearTimeout(late);
  }
}

async function converse(reader: SocketReader, socket: Socket, secret: string): Promise<Buffer> {
  const scram = createScramClient((challenge) => keysOfSecret(secret, challenge));
  const greeting: Buffer[] = [];
  for (;;) {
    const { type, body } = await reader.message(MAX_MESSAGE_BYTES);
    if (type === BACKEND.error) throw new Error(parseErrorFields(body).message);
    if (type !== BACKEND.authentication) {
      greeting.push(message(type, body));
      if (type === BACKEND.readyForQuery) return Buffer.concat(greeting);
      continue;
    }
    const data = body.toString('latin1', 4);
    switch (body.readInt32BE(0)) {
      case AUTHENTICATION.ok:
        break;
      case AUTHENTICATION.sasl:
        socket.write(saslInitialResponse(SCRAM_SHA_256, scram.first()));
        break;
      case AUTHENTICATION.saslContinue:
        socket.write(saslResponse(scram.final(data)));
        break;
      case AUTHENTICATION.saslFinal:
        if (!scram.verify(data)) throw new Error('the primary does not know the secret');
        break;
      default:
        throw new Error('the primary asks for another kind of authentication');
    }
  }
}

/** Both ends share one fate: whatever ends a stream, the follower asks for the next one. */
function connect(state: State, door: Door, follower: Socket, primary: Socket): void {
  door.streams.add(primary);
  primary.once('close', () => {
    door.streams.delete(primary);
    follower.destroySoon();
  });
  follower.once('close', () => primary.destroy());
  if (follower.destroyed) return void primary.destroy();
  let begunAtMs: number | undefined;
  primary.once('close', () => {
    if (begunAtMs !== undefined) noteStream(state, door, performance.now() - begunAtMs);
  });
  const framer = new MessageFramer((type) => type === FRONTEND.query, MAX_MESSAGE_BYTES);
  follower.on('data', (chunk: Buffer) => {
    try {
      for (const frame of framer.push(chunk)) {
        if (frame.kind === 'message' && isStart(frame.raw)) begunAtMs = performance.now();
        const isFull = !primary.write(frame.kind === 'bytes' ? frame.bytes : checked(frame.raw));
        if (isFull) follower.pause();
      }
    } catch {
      follower.destroy();
    }
  });
  primary.on('drain', () => follower.resume());
  follower.resume();
  primary.pipe(follower);
}

const isStart = (raw: Buffer): boolean => raw.includes('START_REPLICATION');

function noteStream({ options }: State, door: Door, lastedMs: number): void {
  door.refusals = lastedMs < STREAM_AT_LEAST_MS ? door.refusals + 1 : 0;
  if (door.refusals === LOST_AFTER_REFUSALS) options.onLost(door.follower.endpointId);
}

function checked(raw: Buffer): Buffer {
  const text = raw.toString('latin1', HEADER_BYTES, raw.length - 1);
  if (raw.at(-1) !== 0 || !ALLOWED_COMMAND.test(text)) throw new ProtocolError('not a command of a follower');
  return raw;
}
