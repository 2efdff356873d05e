/**
 * Where things are in the pool. Only names; nothing here touches the disk.
 *
 *   <pool>/template/<name>/              templates (postgres/template.ts)
 *   <pool>/<project>/project.json        what the catalog says of the project; see describeProject
 *   <pool>/<project>/<timeline>/         a timeline
 *       timeline.json                    its commit record: written last, without it the directory is garbage
 *       pgdata/                          live; only this branch's compute writes it
 *       bases/<n>/{base.json,pgdata/}    immutable images; base.json is the commit record of a base
 *       wal/                             archived WAL, written by the compute's archive_command
 *   <pool>/trash/                        renamed-away garbage
 *   <pool>/reserve                       space kept for recovery
 *
 * As root, a project's and a timeline's directory belong to root and can be entered, not listed or written, by the
 * project's group: a compute reaches its own pgdata and wal, and cannot forge what Ballast believes.
 */
import path from 'node:path';
import { AppError } from '../lib/errors.ts';
import type { TimelineRef } from './types.ts';

export interface TimelineLayout {
  project: string;
  root: string;
  record: string;
  pgdata: string;
  bases: string;
  wal: string;
}

export interface PoolLayout {
  root: string;
  templates: string;
  trash: string;
  reserve: string;
}

/** Directories of the pool that are no projects. */
export const RESERVED_NAMES: ReadonlySet<string> = new Set(['template', 'trash', 'reserve', 'lost+found']);

const SAFE_NAME = /^[a-z0-9][a-z0-9-]{0,62}$/;

export function poolLayout(pool: string): PoolLayout {
  return {
    root: pool,
    templates: path.join(pool, 'template'),
    trash: path.join(pool, 'trash'),
    reserve: path.join(pool, 'reserve'),
  };
}

/** Throws AppError 'not_found' for ids that cannot be: they become path names. */
export function timelineLayout(pool: string, timeline: TimelineRef): TimelineLayout {
  const { projectId, timelineId } = timeline;
  if (!SAFE_NAME.test(projectId) || !SAFE_NAME.test(timelineId) || RESERVED_NAMES.has(projectId)) {
    throw new AppError('not_found', 'no such branch', { internal: `unsafe id ${projectId}/${timelineId}` });
  }
  const project = path.join(pool, projectId);
  const root = path.join(project, timelineId);
  return {
    project,
    root,
    record: path.join(root, 'timeline.json'),
    pgdata: path.join(root, 'pgdata'),
    bases: path.join(root, 'bases'),
    wal: path.join(root, 'wal'),
  };
}

export const DESCRIPTION_NAME = 'project.json';

/** Throws as timelineLayout. */
export function projectDescriptionFile(pool: string, projectId: string): string {
  return path.join(timelineLayout(pool, { projectId, timelineId: 'x' }).project, DESCRIPTION_NAME);
}

export const timelineKey = (timeline: TimelineRef): string => `${timeline.projectId}/${timeline.timelineId}`;

/** Of another timeline of the same project. */
export function siblingLayout(layout: TimelineLayout, timelineId: string): TimelineLayout {
  const root = path.join(layout.project, timelineId);
  const move = (place: string) => path.join(root, path.basename(place));
  return {
    project: layout.project,
    root,
    record: move(layout.record),
    pgdata: move(layout.pgdata),
    bases: move(layout.bases),
    wal: move(layout.wal),
  };
}
