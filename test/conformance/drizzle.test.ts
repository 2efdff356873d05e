import { drizzleDrivers } from './drivers/drizzle.ts';
import { conform } from './suite.ts';

conform(...drizzleDrivers);
