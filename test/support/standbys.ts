/**
 * The whole engine below the catalog, as main.ts composes it: real storage, a supervisor, and the wire between them.
 */
import { randomBytes } from 'node:crypto';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import type { SupervisorOptions } from '../../src/compute/supervisor.ts';
import { createSupervisor } from '../../src/compute/supervisor.ts';
import type { ComputeSpec, Supervisor } from '../../src/compute/types.ts';
import type { Home } from '../../src/home.ts';
import { silentLogger } from '../../src/lib/log.ts';
import type { Logger } from '../../src/lib/log.ts';
import { createLiveTimelines } from '../../src/live-timelines.ts';
import { prepareExtensions } from '../../src/postgres/extensions.ts';
import { createInstallations } from '../../src/postgres/installations.ts';
import { createStorage } from '../../src/storage/storage.ts';
import type { FileOwner, Storage } from '../../src/storage/types.ts';
import { makeHome, testConfig, UID } from './computes.ts';

export const PROJECT = 'quiet-river-12345678';

export interface WholeEngine {
  home: Home;
  owner: FileOwner | undefined;
  secret: string;
  storage: Storage;
  supervisor: Supervisor;
  /** Another supervisor over the same directories, as after a restart of Ballast. */
  anotherSupervisor(options?: Partial<SupervisorOptions>): Supervisor;
  /** A new project root and the spec of its read-write endpoint. */
  root(name: string, major: number, overrides?: Partial<ComputeSpec>): Promise<ComputeSpec>;
  /** A read replica of it. */
  replica(name: string, primary: ComputeSpec, overrides?: Partial<ComputeSpec>): ComputeSpec;
  close(): Promise<void>;
}

export async function openWholeEngine(options: { pool?: string; logger?: Logger } = {}): Promise<WholeEngine> {
  const logger = options.logger ?? silentLogger();
  const root = await mkdtemp(path.join(os.tmpdir(), 'ballast-whole-'));
  await chmod(root, 0o711);
  const owner = process.getuid?.() === 0 ? { uid: UID, gid: UID } : undefined;
  const made = await makeHome(root);
  const home = options.pool === undefined ? made : { ...made, pool: options.pool };
  const secret = randomBytes(32).toString('base64url');
  await writeFile(path.join(home.secrets, 'cloud-admin'), secret, { mode: 0o600 });
  const installations = createInstallations({ home, config: testConfig, logger, prepareExtensions });
  const live = createLiveTimelines(home);
  const storage = await createStorage({ home, installations, logger, findLivePostgres: live.find });
  const supervisors: Supervisor[] = [];
  const anotherSupervisor = (more: Partial<SupervisorOptions> = {}) => {
    const supervisor = live.watch(createSupervisor({ home, storage, installations, logger, ...more }));
    supervisors.push(supervisor);
    return supervisor;
  };
  return {
    home,
    owner,
    secret,
    storage,
    anotherSupervisor,
    supervisor: anotherSupervisor(),
    root: async (name, pgVersion, overrides = {}) => {
      const timeline = { projectId: PROJECT, timelineId: `br-${name}` };
      await storage.createRootTimeline({ ...timeline, pgVersion, owner });
      const size = { minCu: 0.25, maxCu: 0.25, pgSettings: {}, preloadLibraries: [], logicalReplication: false };
      return { endpointId: `ep-${name}`, timeline, pgVersion, owner, ...size, ...overrides };
    },
    replica: (name, primary, overrides = {}) => ({
      ...primary,
      endpointId: `ep-${name}`,
      timeline: { projectId: PROJECT, timelineId: `ep-${name}` },
      standby: {
        of: primary.timeline,
        point: { kind: 'head' },
        primary: { minCu: primary.minCu, maxCu: primary.maxCu, pgSettings: {} },
      },
      ...overrides,
    }),
    close: async () => {
      // Adoption finds whatever a test left running.
      const last = anotherSupervisor();
      await last.adopt();
      for (const supervisor of supervisors) await supervisor.stopAll();
      await rm(root, { recursive: true, force: true });
    },
  };
}
