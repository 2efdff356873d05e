/**
 * Where a running Ballast's messages go: all of them as JSON lines into `<data-dir>/log/ballast.log`; warnings and errors
 * also as one short line each on the terminal. The file is set aside at start and while running once it is large (one
 * older file is kept), and opened anew on SIGHUP, for logrotate.
 */
import { renameSync, statSync } from 'node:fs';
import path from 'node:path';
import { pino } from 'pino';
import type { Home } from '../home.ts';
import { createLogger } from '../lib/log.ts';
import type { Logger } from '../lib/log.ts';

export interface TerminalLog {
  logger: Logger;
  file: string;
  /** From now on only the file gets lines: the terminal is told otherwise. */
  quiet(): void;
  /** Opens the file anew, as after logrotate moved it. */
  reopen(): void;
  /** Sets the file aside when it has become large. */
  rotate(): void;
  /** Writes out what is still in memory. */
  flush(): void;
}

interface LogLine {
  level: number;
  time: number;
  msg?: string;
  err?: { message?: string };
}

const ROTATE_AT_BYTES = 32 * 1024 * 1024;
const WARN = 40;
const ERROR = 50;

export function openTerminalLog(home: Home, level: string, warn: (line: string) => void): TerminalLog {
  const file = path.join(home.log, 'ballast.log');
  setAsideWhenLarge(file);
  const destination = pino.destination({ dest: file, sync: false, mode: 0o600 });
  let isQuiet = false;
  const terminal = { write: (line: string) => void (isQuiet || warn(formatLogLine(line))) };
  const streams = pino.multistream([
    { level: 'trace', stream: destination },
    { level: 'warn', stream: terminal },
  ]);
  return {
    logger: createLogger({ level, destination: streams }),
    file,
    quiet: () => void (isQuiet = true),
    reopen: () => destination.reopen(),
    rotate: () => {
      if (setAsideWhenLarge(file)) destination.reopen();
    },
    flush: () => {
      try {
        destination.flushSync();
      } catch {
        // The file was not open yet, so nothing had been logged for longer than a moment.
      }
    },
  };
}

/** `12:03:04 warning: what happened: its cause`. */
export function formatLogLine(json: string): string {
  const line = JSON.parse(json) as LogLine;
  const time = new Date(line.time).toISOString().slice(11, 19);
  const level = line.level >= ERROR ? 'error' : line.level >= WARN ? 'warning' : 'info';
  const text = [line.msg, line.err?.message].filter((part) => part !== undefined && part !== '').join(': ');
  return `${time} ${level}: ${text}`;
}

function setAsideWhenLarge(file: string): boolean {
  const sizeBytes = statSync(file, { throwIfNoEntry: false })?.size ?? 0;
  if (sizeBytes < ROTATE_AT_BYTES) return false;
  renameSync(file, `${file}.1`);
  return true;
}
