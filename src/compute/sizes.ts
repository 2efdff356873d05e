/**
 * What a compute unit stands for: processors, memory, connections. Everything that is sized is sized from here.
 *
 * Sizes between an endpoint's limits are multiples of 0.25. What Postgres fixes at its start follows the limits; what
 * can change while it runs follows the size of the moment (autoscale.ts).
 */
export const MIB = 1024 * 1024;
export const GIB = 1024 * MIB;

/** Smallest size, and the step between two. */
export const CU_STEP = 0.25;

const MEMORY_PER_CU_BYTES = 4 * GIB;
const PROCESSORS_PER_CU = 1;

/** max_connections by compute units; between two lines the smaller one counts. */
const CONNECTIONS_BY_CU: readonly (readonly [cu: number, connections: number])[] = [
  [0.25, 104],
  [0.5, 209],
  [1, 419],
  [2, 839],
  [3, 1258],
  [4, 1678],
  [5, 2098],
  [6, 2517],
  [7, 2937],
  [8, 3357],
  [9, 4000],
];

/** Of max_connections, kept for Ballast. */
export const RESERVED_CONNECTIONS = 7;

/** Follows min(max, 8 * min), so that a compute which may shrink does not promise what it cannot hold. */
export function maxConnections(minCu: number, maxCu: number): number {
  const cu = Math.min(maxCu, 8 * minCu);
  return CONNECTIONS_BY_CU.findLast(([from]) => from <= cu)?.[1] ?? CONNECTIONS_BY_CU[0]![1];
}

export function memoryBytesOf(cu: number): number {
  return cu * MEMORY_PER_CU_BYTES;
}

export function processorsOf(cu: number): number {
  return cu * PROCESSORS_PER_CU;
}

/** The smallest size with that many processors and that much memory, of any magnitude. */
export function sizeFor(needs: { processors: number; memoryBytes: number }): number {
  const cu = Math.max(needs.processors / PROCESSORS_PER_CU, needs.memoryBytes / MEMORY_PER_CU_BYTES);
  return Math.max(CU_STEP, Math.ceil(cu / CU_STEP) * CU_STEP);
}
