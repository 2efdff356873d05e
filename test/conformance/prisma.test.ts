import { prismaDrivers } from './drivers/prisma.ts';
import { conform } from './suite.ts';

conform(...prismaDrivers);
