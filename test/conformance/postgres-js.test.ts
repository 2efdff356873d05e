import { postgresJsDriver } from './drivers/postgres-js.ts';
import { conform } from './suite.ts';

conform(postgresJsDriver);
