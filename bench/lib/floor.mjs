/**
 * What no control plane can beat: the bare clone of a data directory (`cp -a --reflink`) and a bare Postgres, the same
 * binary on the same data on the same file system, to its first row over a Unix socket.
 *
 * The data is the product's own parent, copied once while it slept, with host-based authentication set to trust.
 */
import { execFile, spawn } from 'node:child_process';
import { chownSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import { timed } from './stats.mjs';

const run = promisify(execFile);
const RETRY_MS = 1;

/**
 * `compute` is computeOf() of the parent while it ran; the parent must be suspended now.
 * `reflink` is what cp is told: 'always' where the pool can, else 'never'.
 */
export async function bareFloor(directory, compute, at, reflink) {
  const root = path.join(directory, 'floor');
  rmSync(root, { recursive: true, force: true });
  mkdirSync(root, { recursive: true });
  chownSync(root, compute.uid, compute.uid);
  const source = path.join(root, 'source');
  await run('cp', ['-a', `--reflink=${reflink}`, compute.dataDirectory, source]);
  // recovery.signal would be there on a parent that never ran, and the floor is a plain start.
  rmSync(path.join(source, 'recovery.signal'), { force: true });
  let number = 0;

  const clone = async () => {
    const target = path.join(root, `clone-${(number += 1)}`);
    await run('cp', ['-a', `--reflink=${reflink}`, source, target]);
    return target;
  };

  const startToFirstRow = (dataDirectory) => startBare(root, compute, at, dataDirectory);

  return {
    /** Milliseconds of clone + start + first row. */
    async branch() {
      let target;
      let stop;
      const ms = await timed(async () => {
        target = await clone();
        stop = await startToFirstRow(target);
      });
      await stop();
      rmSync(target, { recursive: true, force: true });
      return ms;
    },
    /** Milliseconds of the clone alone. */
    async clone() {
      let target;
      const ms = await timed(async () => {
        target = await clone();
      });
      rmSync(target, { recursive: true, force: true });
      return ms;
    },
    /** Milliseconds of a start + first row on one directory that sleeps between the calls. */
    async wake() {
      const target = path.join(root, 'sleeper');
      if (!existsSync(target)) await run('cp', ['-a', `--reflink=${reflink}`, source, target]);
      let stop;
      const ms = await timed(async () => {
        stop = await startToFirstRow(target);
      });
      await stop();
      return ms;
    },
    /** Milliseconds until each of `count` directories has been started, so many at a time, and has given a row. */
    async wakeMany(count, width) {
      const targets = [];
      for (let n = 0; n < count; n++) {
        const place = path.join(root, `place-${n}`);
        mkdirSync(place, { recursive: true });
        chownSync(place, compute.uid, compute.uid);
        const target = path.join(root, `one-of-many-${n}`);
        if (!existsSync(target)) await run('cp', ['-a', `--reflink=${reflink}`, source, target]);
        targets.push({ place, target });
      }
      const stops = [];
      let next = 0;
      const worker = async () => {
        while (next < targets.length) {
          const { place, target } = targets[next++];
          stops.push(await startBare(place, compute, at, target));
        }
      };
      const ms = await timed(() => Promise.all(Array.from({ length: width }, worker)));
      await Promise.all(stops.map((stop) => stop()));
      return ms;
    },
    remove: () => rmSync(root, { recursive: true, force: true }),
  };
}

/**
 * Starts a bare Postgres on a data directory and waits for one row; gives a function that stops it. Its socket lies in
 * `root`, which the compute's user can enter.
 */
export async function startBare(root, compute, at, dataDirectory, settings = []) {
  const hba = path.join(root, 'hba.conf');
  writeFileSync(hba, 'local all all trust\n', { mode: 0o644 });
  const all = [
    `unix_socket_directories=${root}`,
    'listen_addresses=',
    `hba_file=${hba}`,
    'archive_mode=off',
    'logging_collector=off',
    'shared_buffers=16MB',
    'ssl=off',
    ...settings,
  ];
  const args = ['-D', dataDirectory, ...all.flatMap((setting) => ['-c', setting])];
  const own = process.getuid?.() === 0 ? { uid: compute.uid, gid: compute.uid } : {};
  const child = spawn(compute.executable, args, { env: compute.env, cwd: dataDirectory, stdio: 'ignore', ...own });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  await firstRow(root, at, () => child.exitCode);
  return async () => {
    child.kill('SIGINT');
    await ended;
  };
}

async function firstRow(socketDirectory, at, exitCode) {
  for (;;) {
    if (exitCode() !== null) throw new Error(`the bare Postgres ended with ${exitCode()}`);
    const session = new pg.Client({ host: socketDirectory, port: 5432, user: at.role, database: at.database });
    session.on('error', () => {});
    try {
      await session.connect();
      await session.query('select 1');
      await session.end();
      return;
    } catch {
      await session.end().catch(() => {});
      await pause(RETRY_MS);
    }
  }
}
