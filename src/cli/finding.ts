/**
 * What a check of `ballast doctor` gets and gives.
 */
import type { Config } from '../config.ts';
import type { Home } from '../home.ts';
import type { RunningFacts } from './running.ts';

export interface Finding {
  name: string;
  level: 'ok' | 'warn' | 'fail';
  text: string;
  /** The command that mends it. */
  fix?: string;
}

export interface DoctorContext {
  config: Config;
  home: Home;
  running: RunningFacts | undefined;
  /** Who asks, and would run Ballast. */
  uid: number;
}
