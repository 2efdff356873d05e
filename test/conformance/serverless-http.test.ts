import { httpDriver } from './drivers/serverless-http.ts';
import { conform } from './suite.ts';

conform(httpDriver);
