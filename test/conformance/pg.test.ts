import { pgDriver } from './drivers/pg.ts';
import { conform } from './suite.ts';

conform(pgDriver);
