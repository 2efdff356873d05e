/**
 * Vitest reporter: names every test that was skipped, so that nothing is left out silently.
 * With BALLAST_CI=1 the machine is supposed to have every prerequisite, and a skipped test fails the run.
 */
export default class SkippedReporter {
  onTestRunEnd(modules) {
    const skipped = modules.flatMap((module) =>
      [...module.children.allTests('skipped')].map((test) => `${module.relativeModuleId}: ${test.fullName}`),
    );
    if (skipped.length === 0) return;
    const strict = process.env.BALLAST_CI === '1';
    process.stdout.write(`\n${strict ? 'FAILED because skipped' : 'Skipped'} (${skipped.length}):\n`);
    for (const line of skipped) process.stdout.write(`  ${line}\n`);
    if (strict) process.exitCode = 1;
  }
}
