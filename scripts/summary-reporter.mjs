/**
 * Vitest reporter: names every test that was skipped or run twice, so that nothing happens silently, and leaves the counts
 * and the files that failed in .cache/test-summary.json for run.mjs. With BALLAST_CI=1 the machine is supposed to have every prerequisite, so a
 * skipped test fails the run.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { SUMMARY_FILE } from './setup.mjs';

export default class SummaryReporter {
  onTestRunEnd(modules, unhandledErrors) {
    const strict = process.env.BALLAST_CI === '1';
    const skipped = modules.flatMap((module) => named(module, 'skipped'));
    if (skipped.length > 0) {
      process.stdout.write(`\n${strict ? 'FAILED because skipped' : 'Skipped'} (${skipped.length}):\n`);
      for (const line of skipped) process.stdout.write(`  ${line}\n`);
      if (strict) process.exitCode = 1;
    }
    const retried = modules.flatMap((module) =>
      [...module.children.allTests()]
        .filter((test) => (test.diagnostic()?.retryCount ?? 0) > 0)
        .map((test) => `${module.relativeModuleId}: ${test.fullName}`),
    );
    if (retried.length > 0) {
      process.stdout.write(`\nRun again after a failure (${retried.length}):\n`);
      for (const line of retried) process.stdout.write(`  ${line}\n`);
    }
    const count = (state) => modules.reduce((sum, module) => sum + named(module, state).length, 0);
    // A file that could not be loaded has no tests that could fail.
    const broken = modules.filter(
      (module) => module.state() === 'failed' && named(module, 'failed').length === 0,
    ).length;
    const failed = count('failed') + broken + unhandledErrors.length + (strict ? skipped.length : 0);
    const failedFiles = modules
      .filter((module) => module.state() === 'failed')
      .map((module) => ({ file: module.relativeModuleId, passed: named(module, 'passed').length }));
    const summary = { passed: count('passed'), failed, failedFiles, unhandledErrors: unhandledErrors.length };
    mkdirSync(path.dirname(SUMMARY_FILE), { recursive: true });
    writeFileSync(SUMMARY_FILE, JSON.stringify(summary));
  }
}

function named(module, state) {
  return [...module.children.allTests(state)].map((test) => `${module.relativeModuleId}: ${test.fullName}`);
}
