/**
 * One end of a connection in memory: what is written to it is kept for the test to read.
 */
import type { Wire } from '../../src/proxy/pooler/wire.ts';

export class FakeWire implements Wire {
  written: Buffer[] = [];
  paused = false;
  destroyed = false;
  ended = false;
  writableLength = 0;
  readonly onDestroy: () => void;
  constructor(onDestroy: () => void = () => undefined) {
    this.onDestroy = onDestroy;
  }
  write(bytes: Buffer): boolean {
    // What the pooler passes on may be overwritten after the call.
    this.written.push(Buffer.from(bytes));
    return true;
  }
  end(bytes?: Buffer): void {
    if (bytes) this.written.push(bytes);
    this.ended = true;
  }
  pause(): void {
    this.paused = true;
  }
  resume(): void {
    this.paused = false;
  }
  destroy(): void {
    if (this.destroyed) return;
    this.destroyed = true;
    this.onDestroy();
  }
}
