import { websocketDriver } from './drivers/serverless-websocket.ts';
import { conform } from './suite.ts';

conform(websocketDriver);
