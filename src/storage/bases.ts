/**
 * Bases: immutable images of a timeline from which the past and the present of a running parent are rebuilt.
 *
 * A hot base is taken between pg_backup_start and pg_backup_stop on one session and holds the backup_label; a base at
 * rest is a clone after a clean shutdown. A root's template is a base too, for free, until enough WAL has been written.
 * Replay runs at some 400 MB/s and writes anew what it touches, so a base serves while less than 16 MB of WAL follow it;
 * then a newer one is worth it.
 *
 * Locking: whoever clones from a base holds the timeline's base lock shared; making and removing holds it exclusive.
 */
import { chmod, chown, mkdir, readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Durable } from '../lib/durable.ts';
import { AppError } from '../lib/errors.ts';
import { formatLsn, parseLsn } from '../lib/lsn.ts';
import { readControlData } from '../postgres/control-data.ts';
import type { ControlData } from '../postgres/control-data.ts';
import type { Templates } from '../postgres/template.ts';
import type { CloneDriver } from './clone-driver.ts';
import type { TimelineLayout } from './layout.ts';
import { readBases, readProjectRecords, writeBaseRecord } from './records.ts';
import type { Base, BaseRecord, ReplaySourceRef, StoredTimeline } from './records.ts';
import type { FileOwner, LivePostgres } from './types.ts';

export const BASE_SERVES_BYTES = 16n * 1024n * 1024n;

const CONTROL_FILE_TRIES = 5;

export interface BaseContext {
  driver: CloneDriver;
  durable: Durable;
  templates: Templates;
  now: () => Date;
  /** Renames away and removes. */
  discard: (directory: string) => Promise<void>;
}

/** Something to replay onto: a base of the timeline itself, or the template of its root. */
export interface ReplaySource {
  dataDirectory: string;
  kind: 'hot' | 'rest';
  startLsn: bigint;
  stopLsn: bigint;
  ref: ReplaySourceRef;
  /** Of a seed: what its own WAL, which reaches to stopLsn, is to be read along; see BaseRecord. */
  seed: BaseRecord['seed'];
}

/** Where the WAL of a base must begin at the earliest, when another one could be taken at `lsn` instead. */
export const nearEnough = (lsn: bigint): bigint => lsn - BASE_SERVES_BYTES;

/** The newest that can serve the point. Undefined: none, or none that begins at `notBefore` or later. */
export async function pickBase(
  context: BaseContext,
  layout: TimelineLayout,
  record: StoredTimeline,
  point: { lsn: bigint; timelineId: number; notBefore?: bigint | undefined },
): Promise<ReplaySource | undefined> {
  const reachable = (base: Base) =>
    record.historyStart === null || parseLsn(base.stopLsn) >= parseLsn(record.historyStart);
  const bases = (await readBases(layout)).filter(
    (base) => reachable(base) && (base.seed || base.timelineId === point.timelineId),
  );
  const own = bases.map((base) => fromBase(base, record.timelineId));
  const candidates = [...own.toReversed(), ...(await fromTemplate(context, record, point.timelineId))];
  const serves = (base: ReplaySource) => point.notBefore === undefined || base.startLsn >= point.notBefore;
  return candidates.find((base) => base.stopLsn <= point.lsn && serves(base));
}

function fromBase(base: Base, timelineId: string): ReplaySource {
  const { dataDirectory, kind, number, seed } = base;
  const ref = { kind: 'base', timelineId, number } as const;
  return { dataDirectory, kind, startLsn: parseLsn(base.startLsn), stopLsn: parseLsn(base.stopLsn), ref, seed };
}

async function fromTemplate(context: BaseContext, record: StoredTimeline, timelineId: number): Promise<ReplaySource[]> {
  // The WAL behind it is gone.
  if (record.historyStart !== null) return [];
  const template = record.template === null ? undefined : await context.templates.find(record.template);
  if (!template || template.timelineId !== timelineId) return [];
  const startLsn = parseLsn(template.redoLsn);
  return [
    {
      dataDirectory: template.dataDirectory,
      kind: 'rest',
      startLsn,
      stopLsn: startLsn,
      ref: { kind: 'template', name: template.name },
      seed: undefined,
    },
  ];
}

/** Clones a running timeline. The caller holds the base lock exclusively. */
export async function takeHotBase(
  context: BaseContext,
  layout: TimelineLayout,
  live: LivePostgres,
  options: { major: number; owner: FileOwner | undefined },
): Promise<void> {
  await assertNoTablespaces(layout.pgdata);
  const { number, directory, dataDirectory } = await nextBase(layout);
  const [start, stop] =
    options.major >= 15 ? ['pg_backup_start', 'pg_backup_stop'] : ['pg_start_backup', 'pg_stop_backup'];
  const startArguments = options.major >= 15 ? `'ballast', true` : `'ballast', true, false`;
  const stopArguments = options.major >= 15 ? 'false' : 'false, false';
  const facts = await live.session(async (query) => {
    const startLsn = await query(`select pg_catalog.${start}(${startArguments})`);
    const control = await cloneLive(context, layout, dataDirectory, options.owner);
    const stopped = await query(`select lsn, labelfile from pg_catalog.${stop}(${stopArguments})`);
    return { startLsn: startLsn[0]![0]!, control, stopLsn: stopped[0]![0]!, label: stopped[0]![1]! };
  });
  const label = path.join(dataDirectory, 'backup_label');
  await writeFile(label, facts.label, { mode: 0o600 });
  if (options.owner) await chown(label, options.owner.uid, options.owner.gid);
  await context.driver.sync(context.durable, dataDirectory, [label]);
  await finishBase(context, layout, directory, {
    number,
    kind: 'hot',
    timelineId: facts.control.timelineId,
    startLsn: formatLsn(startOf(facts.label) ?? parseLsn(facts.startLsn)),
    stopLsn: facts.stopLsn,
  });
}

/** `START WAL LOCATION: 0/2000028 (file …)`: where replay really begins. */
function startOf(label: string): bigint | undefined {
  const match = /^START WAL LOCATION: ([0-9A-F]+\/[0-9A-F]+)/m.exec(label);
  return match ? parseLsn(match[1]!) : undefined;
}

/** A copy of pg_control may be torn where the file system does not clone at once; its checksum tells. */
async function cloneLive(
  context: BaseContext,
  layout: TimelineLayout,
  target: string,
  owner: FileOwner | undefined,
): Promise<ControlData> {
  const rules = { asItIs: false, backupLabel: false };
  await context.driver.cloneData(layout.pgdata, target, { rules, live: true, owner });
  for (let tried = 1; ; tried += 1) {
    try {
      return await readControlData(target);
    } catch (error) {
      if (tried === CONTROL_FILE_TRIES) throw error;
      await context.driver.cloneFile(controlFile(layout.pgdata), controlFile(target));
    }
  }
}

const controlFile = (dataDirectory: string) => path.join(dataDirectory, 'global', 'pg_control');

/**
 * Clones a timeline at rest. After a crash its files hold changes up to the end of its WAL, `stopLsn`.
 * The caller keeps its Postgres from starting and holds the base lock exclusively.
 */
export async function takeRestBase(
  context: BaseContext,
  layout: TimelineLayout,
  facts: { control: ControlData; stopLsn: bigint },
  owner: FileOwner | undefined,
): Promise<void> {
  const { control, stopLsn } = facts;
  await assertNoTablespaces(layout.pgdata);
  const { number, directory, dataDirectory } = await nextBase(layout);
  const rules = { asItIs: false, backupLabel: false };
  await context.driver.cloneData(layout.pgdata, dataDirectory, { rules, live: false, owner });
  await context.driver.sync(context.durable, dataDirectory, []);
  await finishBase(context, layout, directory, {
    number,
    kind: 'rest',
    timelineId: control.timelineId,
    startLsn: formatLsn(control.redoLsn),
    stopLsn: formatLsn(stopLsn),
  });
}

/** A directory without base.json is a leftover; its number is not used again. */
export async function nextBase(
  layout: TimelineLayout,
): Promise<{ number: number; directory: string; dataDirectory: string }> {
  const numbers = (await readdir(layout.bases)).filter((name) => /^\d+$/.test(name)).map(Number);
  const number = Math.max(0, ...numbers) + 1;
  const directory = path.join(layout.bases, String(number));
  await mkdir(directory, { mode: 0o700 });
  // The owner, whose processes do the cloning, may pass: the directory above is closed to everybody else.
  await chmod(directory, 0o711);
  return { number, directory, dataDirectory: path.join(directory, 'pgdata') };
}

export async function finishBase(
  context: BaseContext,
  layout: TimelineLayout,
  directory: string,
  facts: Omit<BaseRecord, 'formatVersion' | 'createdAt'> & { createdAt?: string },
): Promise<void> {
  await writeBaseRecord(context.durable, directory, {
    formatVersion: 1,
    createdAt: context.now().toISOString(),
    ...facts,
  });
  await context.driver.syncNames(context.durable, 'base', [layout.bases]);
}

/** Those from which a child that has yet to recover may have to be made again. */
export async function basesInUse(layout: TimelineLayout): Promise<Set<number>> {
  const timelineId = path.basename(layout.root);
  const records = await readProjectRecords(layout);
  const sources = records.map((record) =>
    record.kind === 'branch' && record.recovery === 'replay' ? record.replaySource : null,
  );
  const numbers = sources.flatMap((source) =>
    source?.kind === 'base' && source.timelineId === timelineId ? [source.number] : [],
  );
  return new Set(numbers);
}

/** Tenants cannot make tablespaces; a data directory that has one cannot be cloned by cloning it alone. */
export async function assertNoTablespaces(dataDirectory: string): Promise<void> {
  if ((await readdir(path.join(dataDirectory, 'pg_tblspc'))).length > 0) {
    throw new AppError('unprocessable', 'branches with tablespaces cannot be copied');
  }
}
