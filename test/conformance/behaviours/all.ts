import { builderBehaviours } from './builders.ts';
import { copyBehaviours } from './copy.ts';
import { errorBehaviours } from './errors.ts';
import { parameterBehaviours } from './parameters.ts';
import { sessionBehaviours } from './sessions.ts';
import { sizeBehaviours } from './sizes.ts';
import { statementBehaviours } from './statements.ts';
import { transactionBehaviours } from './transactions.ts';
import { typeBehaviours } from './types.ts';

/** The one list that every driver runs. */
export const BEHAVIOURS = [
  ...typeBehaviours,
  ...parameterBehaviours,
  ...errorBehaviours,
  ...transactionBehaviours,
  ...statementBehaviours,
  ...copyBehaviours,
  ...sessionBehaviours,
  ...sizeBehaviours,
  ...builderBehaviours,
];
