/**
 * Lookups that gather: while one query is under way, keys that are asked for wait and go into the next query together.
 * A lone caller is served at once; under load a single session serves everybody with a fraction of the queries.
 * Nothing is remembered: every answer comes from a query that began after it was asked for.
 */

/** `load` returns what it found by key; keys that are missing there are answered with undefined. */
export function createBatchedLookup<Value>(
  load: (keys: readonly string[]) => Promise<ReadonlyMap<string, Value>>,
  maxKeys = 200,
): (key: string) => Promise<Value | undefined> {
  interface Waiter {
    key: string;
    resolve: (value: Value | undefined) => void;
    reject: (error: unknown) => void;
  }
  let waiting: Waiter[] = [];
  let loading = false;

  const serve = async (batch: readonly Waiter[]): Promise<void> => {
    try {
      const found = await load([...new Set(batch.map((waiter) => waiter.key))]);
      for (const { key, resolve } of batch) resolve(found.get(key));
    } catch (error) {
      for (const { reject } of batch) reject(error);
    }
  };
  const run = async (): Promise<void> => {
    loading = true;
    while (waiting.length > 0) {
      const batch = waiting.slice(0, maxKeys);
      waiting = waiting.slice(maxKeys);
      await serve(batch);
    }
    loading = false;
  };

  return (key) =>
    new Promise((resolve, reject) => {
      waiting.push({ key, resolve, reject });
      if (!loading) void run();
    });
}
