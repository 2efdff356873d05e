import { jdbcDriver } from './drivers/jdbc.ts';
import { conform } from './suite.ts';

conform(jdbcDriver);
