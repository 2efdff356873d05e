/**
 * What a behaviour asks of a driver. An adapter (drivers/) passes each call on to the driver's own call for it, and hands
 * back what that gives, as it is. A driver that has nothing of the kind leaves the method out and its name out of `can`.
 */
import type { Path, Target } from './paths.ts';

export interface Statement {
  /** Parameters are $1, $2, ... in this order, each once. */
  text: string;
  values?: readonly unknown[];
}

export interface Heard {
  channel: string;
  payload: string;
}

export interface Session {
  /** One statement in the driver's usual way. What comes back is the driver's: rows, columns, command, count. */
  query(text: string, values?: readonly unknown[]): Promise<unknown>;
  close(): Promise<void>;
  /** Several statements in one text. */
  script?(text: string): Promise<unknown>;
  /** A statement that the driver prepares once under this name and then only executes. */
  prepared?(name: string, statement: Statement): Promise<unknown>;
  /** All are sent before the first answer is awaited. One outcome for each. */
  pipeline?(statements: readonly Statement[]): Promise<Settled[]>;
  /** Rows in batches of at most `size`, by the driver's cursor; `batches` ends the reading early. */
  cursor?(statement: Statement, size: number, batches?: number): Promise<unknown[][]>;
  copyIn?(text: string, chunks: readonly Buffer[]): Promise<unknown>;
  copyOut?(text: string): Promise<Buffer>;
  /** COPY FROM STDIN that the client gives up after these chunks. */
  copyInGivenUp?(text: string, chunks: readonly Buffer[]): Promise<unknown>;
  /** What it gives tells what has been heard so far. */
  listen?(channel: string): Promise<() => Promise<readonly Heard[]>>;
  /** All notices so far. */
  notices?(): Promise<unknown>;
  /** Cancels what runs in this session now. */
  cancel?(): Promise<void>;
  /** The socket goes, without a word. */
  destroy?(): void;
  /** The driver's own transactions: all statements or none. */
  transaction?(statements: readonly Statement[], options?: TransactionOptions): Promise<unknown>;
  /** What the driver offers beyond SQL text, in its own words, on the tables of behaviours/builders.ts. */
  builder?(): Promise<unknown>;
}

/** `session`: what one statement does to the session, the next one finds. `startup`: sessions may ask for settings. */
export type Capability = Exclude<keyof Session, 'query' | 'close'> | 'session' | 'startup';

export interface TransactionOptions {
  isolation?: 'read uncommitted' | 'read committed' | 'repeatable read' | 'serializable';
  readOnly?: boolean;
}

export type Settled = { answer: unknown } | { error: unknown };

export interface OpenOptions {
  applicationName?: string;
  /** Settings of the startup packet's `options`, as `-c name=value`. */
  settings?: Record<string, string>;
  /** Others than the target's. */
  password?: string;
  database?: string;
}

export interface Driver {
  name: string;
  /** Beside the direct connection to plain Postgres, which every driver has. */
  paths: readonly Path[];
  can(path: Path): readonly Capability[];
  open(target: Target, options?: OpenOptions): Promise<Session>;
  /** Says why the driver cannot run on this machine; undefined when it can. */
  missing?: string;
  /** Of the list, for drivers that stand on others which run all of it. */
  only?: RegExp;
  /** By behaviour: what the driver itself cannot do, with plain Postgres either, and why. */
  cannot?: Readonly<Record<string, string>>;
  /** After all tests. */
  stop?(): Promise<void>;
}

export async function settle(work: Promise<unknown>): Promise<Settled> {
  try {
    return { answer: await work };
  } catch (error) {
    return { error };
  }
}
