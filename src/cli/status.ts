/**
 * `ballast status`: whether Ballast runs, where, on what pool, and what its projects are and weigh. Exit code 0 when it
 * runs, 1 when it does not. Asks the API as any client would; of many projects it shows the newest.
 */
import { statfs } from 'node:fs/promises';
import type { Home } from '../home.ts';
import { openApi } from './api.ts';
import type { Api } from './api.ts';
import { formatBytes, print, printJson, table } from './print.ts';
import { readRunning } from './running.ts';
import type { RunningFacts } from './running.ts';

interface ProjectStatus {
  id: string;
  name: string;
  pgVersion: number;
  branches: number;
  computes: { active: number; total: number };
  /** Sum of the branches' logical sizes; what is shared counts for each. */
  logicalBytes: number;
}

interface Status {
  running: boolean;
  dataDir: string;
  pool: { path: string; totalBytes: number; freeBytes: number };
  facts?: RunningFacts;
  projectCount?: number;
  projects?: ProjectStatus[];
}

interface ProjectItem {
  id: string;
  name: string;
  pg_version: number;
}

const SHOWN_PROJECTS = 50;
const PAGE = 400;
const PARALLEL = 8;

export async function showStatus(home: Home, options: { json: boolean }): Promise<number> {
  const status = await readStatus(home);
  if (options.json) printJson(status);
  else print(formatStatus(status, home));
  return status.running ? 0 : 1;
}

async function readStatus(home: Home): Promise<Status> {
  const base = { dataDir: home.dataDir, pool: await poolSpace(home.pool) };
  const facts = await readRunning(home);
  if (facts === undefined) return { running: false, ...base };
  const api = await openApi(home);
  const all = await allProjects(api);
  const shown = all.slice(0, SHOWN_PROJECTS);
  return { running: true, ...base, facts, projectCount: all.length, projects: await detail(api, shown) };
}

async function poolSpace(pool: string): Promise<Status['pool']> {
  try {
    const { bsize, blocks, bavail } = await statfs(pool);
    return { path: pool, totalBytes: blocks * bsize, freeBytes: bavail * bsize };
  } catch {
    return { path: pool, totalBytes: 0, freeBytes: 0 };
  }
}

async function allProjects(api: Api): Promise<ProjectItem[]> {
  const projects: ProjectItem[] = [];
  let cursor: string | undefined;
  for (;;) {
    const query = cursor === undefined ? '' : `&cursor=${encodeURIComponent(cursor)}`;
    const page = await api.get<{ projects: ProjectItem[]; pagination?: { cursor?: string } }>(
      `/projects?limit=${PAGE}${query}`,
    );
    projects.push(...page.projects);
    const next = page.pagination?.cursor;
    if (page.projects.length < PAGE || next === undefined || next === cursor) return projects;
    cursor = next;
  }
}

async function detail(api: Api, projects: readonly ProjectItem[]): Promise<ProjectStatus[]> {
  const found: ProjectStatus[] = [];
  for (let start = 0; start < projects.length; start += PARALLEL) {
    const batch = projects.slice(start, start + PARALLEL);
    found.push(...(await Promise.all(batch.map((project) => projectStatus(api, project)))));
  }
  return found;
}

async function projectStatus(api: Api, project: ProjectItem): Promise<ProjectStatus> {
  const [{ branches }, { endpoints }] = await Promise.all([
    api.get<{ branches: { logical_size?: number }[] }>(`/projects/${project.id}/branches?limit=10000`),
    api.get<{ endpoints: { current_state: string }[] }>(`/projects/${project.id}/endpoints`),
  ]);
  return {
    id: project.id,
    name: project.name,
    pgVersion: project.pg_version,
    branches: branches.length,
    computes: {
      active: endpoints.filter((endpoint) => endpoint.current_state === 'active').length,
      total: endpoints.length,
    },
    logicalBytes: branches.reduce((sum, branch) => sum + (branch.logical_size ?? 0), 0),
  };
}

function formatStatus(status: Status, home: Home): string {
  const { facts, pool } = status;
  const space =
    pool.totalBytes === 0 ? 'not there yet' : `${formatBytes(pool.freeBytes)} free of ${formatBytes(pool.totalBytes)}`;
  if (facts === undefined) {
    return ['Ballast is not running', `Data      ${home.dataDir}`, `Pool      ${pool.path}, ${space}`].join('\n');
  }
  const lines = [
    `Ballast ${facts.version} is running (pid ${facts.pid}, since ${facts.startedAt})`,
    `API       ${facts.apiUrl}`,
    `Postgres  ${facts.pgHost}:${facts.pgPort}`,
    `Data      ${home.dataDir}`,
    `Pool      ${pool.path}, clone mode ${facts.cloneMode} (${facts.fileSystem}), ${space}`,
    `API key   ${home.apiKeyFile}`,
    '',
  ];
  const projects = status.projects ?? [];
  const count = status.projectCount ?? 0;
  if (count === 0) return [...lines, 'No projects yet'].join('\n');
  const rows = projects.map((project) => [
    project.id,
    project.name,
    String(project.pgVersion),
    String(project.branches),
    `${project.computes.active} of ${project.computes.total}`,
    formatBytes(project.logicalBytes),
  ]);
  lines.push(table(['PROJECT', 'NAME', 'PG', 'BRANCHES', 'ACTIVE COMPUTES', 'LOGICAL SIZE'], rows));
  if (count > projects.length) lines.push(`... and ${count - projects.length} more projects`);
  return lines.join('\n');
}
