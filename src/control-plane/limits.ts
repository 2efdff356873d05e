/**
 * How much of everything there may be. Figures are those of Neon's largest plan where it has one.
 */
export const LIMITS = {
  projects: 10_000,
  branchesPerProject: 5_000,
  rolesPerBranch: 500,
  databasesPerBranch: 500,
  manualSnapshots: 100,
  backupScheduleItems: 10,
  apiKeys: 10_000,
  allowedIps: 1_000,
  jwksPerProject: 50,
  /** Each takes a walsender of its primary, which has 40. */
  readOnlyEndpointsPerBranch: 30,
  pgSettings: 200,
  maxComputeUnits: 56,
  historyRetentionSeconds: 2_592_000,
  /** 16 TiB; what a branch may hold is really up to the pool. */
  branchLogicalSizeBytes: 16 * 2 ** 40,
} as const;
