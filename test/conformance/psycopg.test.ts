import { psycopgDriver } from './drivers/psycopg.ts';
import { conform } from './suite.ts';

conform(psycopgDriver);
