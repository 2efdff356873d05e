/**
 * Makes timelines. Order of every creation: directories, clone, syncs, timeline.json last. A crash before that leaves
 * a directory that nothing vouches for; the next try, or the clean-up, throws it away.
 */
import { randomInt } from 'node:crypto';
import { chmod, chown, mkdir, writeFile } from 'node:fs/promises';
import { newSystemIdentifier } from '../postgres/control-data.ts';
import { timelineLayout } from './layout.ts';
import type { TimelineLayout } from './layout.ts';
import { cloneTemplate, materialise, materialiseStandby } from './materialise.ts';
import type { Materialised } from './materialise.ts';
import type { Parent } from './sources.ts';
import { createTimelineRecord, readTimelineRecord } from './records.ts';
import type { StoredTimeline } from './records.ts';
import { exclusively, withParent } from './state.ts';
import type { State } from './state.ts';
import type {
  ChildTimelineSpec,
  FileOwner,
  RootTimelineSpec,
  StandbyTimelineSpec,
  TimelineRecord,
  TimelineRef,
} from './types.ts';

/** Creates once: an existing timeline is the answer, a leftover is thrown away. */
function creating(
  state: State,
  spec: TimelineRef & { owner: FileOwner | undefined },
  create: (layout: TimelineLayout) => Promise<StoredTimeline>,
): Promise<TimelineRecord> {
  const layout = timelineLayout(state.layout.root, spec);
  return exclusively(state, spec, async () => {
    const existing = await readTimelineRecord(layout);
    if (existing) return existing;
    await state.pool.assertRoom();
    state.inProgress.add(layout.root);
    try {
      await state.context.discard(layout.root);
      await makeDirectories(layout, spec.owner);
      const record = await create(layout);
      await createTimelineRecord(state.durable, layout, record);
      const names = [layout.root, layout.project, state.layout.root];
      await state.pool.driver.syncNames(state.durable, 'timeline-directory', names);
      return record;
    } catch (error) {
      await state.context
        .discard(layout.root)
        .catch((again: unknown) => state.options.logger.warn({ err: again }, 'leftover'));
      throw error;
    } finally {
      state.inProgress.delete(layout.root);
    }
  });
}

export function createRoot(state: State, spec: RootTimelineSpec): Promise<TimelineRecord> {
  return creating(state, spec, async (layout) => {
    const template = await state.templates.get(spec.pgVersion);
    const systemIdentifier = newSystemIdentifier(state.now().getTime(), randomInt(2 ** 32));
    await cloneTemplate(state.context, template, layout, { systemIdentifier, owner: spec.owner });
    return {
      formatVersion: 1,
      kind: 'branch',
      projectId: spec.projectId,
      timelineId: spec.timelineId,
      pgVersion: spec.pgVersion,
      build: template.build,
      systemIdentifier: String(systemIdentifier),
      parentTimelineId: null,
      branchLsn: null,
      branchTimestamp: null,
      recovery: 'none',
      suspectSubscriptions: false,
      createdAt: state.now().toISOString(),
      template: template.name,
      replaySource: null,
      recoveryTimelineId: null,
      origin: null,
      historyStart: null,
    };
  });
}

export async function createChild(
  state: State,
  spec: ChildTimelineSpec,
  signal: AbortSignal | undefined,
): Promise<TimelineRecord> {
  const parentRef = { projectId: spec.projectId, timelineId: spec.parentTimelineId };
  return withParent(state, parentRef, signal, (parent) =>
    creating(state, spec, async (layout) => {
      const made = await materialise(state.context, parent, layout, spec);
      return childRecord(state, spec, parent, spec.kind ?? 'branch', made);
    }),
  );
}

/** Whoever runs a Postgres on it holds its lock, or else sees to it that nobody else does. */
export async function createStandby(
  state: State,
  spec: StandbyTimelineSpec,
  signal: AbortSignal | undefined,
): Promise<TimelineRecord> {
  const parentRef = { projectId: spec.projectId, timelineId: spec.parentTimelineId };
  const layout = timelineLayout(state.layout.root, spec);
  await state.pool.assertRoom();
  return withParent(state, parentRef, signal, async (parent) => {
    state.inProgress.add(layout.root);
    try {
      await state.context.discard(layout.root);
      await makeDirectories(layout, spec.owner);
      const made = await materialiseStandby(state.context, parent, layout, spec);
      const facts = { recovery: 'none', replaySource: null } as const;
      const record: StoredTimeline = { ...childRecord(state, spec, parent, 'standby', made), ...facts };
      await writeFile(layout.record, `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600 });
      return record;
    } finally {
      state.inProgress.delete(layout.root);
    }
  });
}

function childRecord(
  state: State,
  spec: TimelineRef & { parentTimelineId: string },
  parent: Parent,
  kind: StoredTimeline['kind'],
  made: Materialised,
): StoredTimeline {
  const { pgVersion, build, systemIdentifier } = parent.record;
  return {
    formatVersion: 1,
    kind,
    projectId: spec.projectId,
    timelineId: spec.timelineId,
    pgVersion,
    build,
    systemIdentifier,
    parentTimelineId: spec.parentTimelineId,
    ...made,
    createdAt: state.now().toISOString(),
    template: null,
    historyStart: null,
  };
}

/** As root, directories above a data directory are root's; the project's group may pass. See layout.ts. */
async function makeDirectories(layout: TimelineLayout, owner: FileOwner | undefined): Promise<void> {
  for (const directory of [layout.project, layout.root]) {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    if (owner) {
      await chown(directory, 0, owner.gid);
      await chmod(directory, 0o710);
    }
  }
  await mkdir(layout.bases, { mode: 0o700 });
  await mkdir(layout.wal, { mode: 0o700 });
  if (owner) {
    // Bases are cloned by processes of the owner, who may read, not change them.
    await chown(layout.bases, 0, owner.gid);
    await chmod(layout.bases, 0o710);
    await chown(layout.wal, owner.uid, owner.gid);
  }
}
