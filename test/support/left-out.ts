/**
 * BALLAST_TEST_WITHOUT names what CI could not install because a registry could not be reached: it is left out, and CI
 * says so. Everywhere else what is missing is a skipped test.
 */
const WITHOUT = new Set((process.env['BALLAST_TEST_WITHOUT'] ?? '').toLowerCase().split(' '));

/** By the first word of the driver's name: psycopg, jdbc, prisma. */
export function isLeftOut(name: string): boolean {
  return WITHOUT.has(name.toLowerCase().split(' ')[0]!);
}
