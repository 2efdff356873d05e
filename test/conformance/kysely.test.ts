import { kyselyDriver } from './drivers/kysely.ts';
import { conform } from './suite.ts';

conform(kyselyDriver);
