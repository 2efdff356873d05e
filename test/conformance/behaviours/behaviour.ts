/**
 * A behaviour: a few steps in one or more sessions, and what was seen. The same steps run against plain Postgres and
 * through each path of Ballast; what is seen must be the same.
 */
import type pg from 'pg';
import type { Capability, OpenOptions, Session } from '../session.ts';
import type { Target } from '../paths.ts';

export interface Stage {
  target: Target;
  /** A session of the driver; closed when the behaviour has ended. */
  open(options?: OpenOptions): Promise<Session>;
  /** Looks on from outside, always on a direct connection, with the same role. */
  admin: pg.Client;
  /** Does the calling itself; the answer or the error is what was seen. */
  seen(work: Promise<unknown>): Promise<unknown>;
}

export interface Behaviour {
  name: string;
  /** Run before by `admin`, in an empty schema `conform`, which is not in anybody's search path. */
  setup?: string;
  needs?: readonly Capability[];
  run(stage: Stage): Promise<unknown>;
}

/** One statement per name, one after another in one session, each seen for itself. */
export function statements(
  name: string,
  texts: Readonly<Record<string, string | readonly [text: string, ...values: unknown[]]>>,
  setup?: string,
): Behaviour {
  return {
    name,
    ...(setup !== undefined && { setup }),
    run: async ({ open, seen }) => {
      const session = await open();
      const all: Record<string, unknown> = {};
      for (const [key, statement] of Object.entries(texts)) {
        const [text, ...values] = typeof statement === 'string' ? [statement] : statement;
        all[key] = await seen(values.length === 0 ? session.query(text) : session.query(text, values));
      }
      return all;
    },
  };
}
