/**
 * Connections that have not authenticated yet: so many at once, and shared out fairly. When there is no room, the
 * address that has the most of them gives up its oldest for a newcomer from elsewhere; its own newcomers are refused.
 * So a flood from one address keeps nobody else out.
 */
import { addressGroup } from './address-rules.ts';

export interface Crowd {
  /** Undefined: there is no room. `dismiss` is called at most once, when it has to go for somebody else. */
  enter(address: string, dismiss: () => void): Place | undefined;
}

export interface Place {
  /** It has turned out to be somebody else's connection. */
  move(address: string): void;
  /** Again is harmless. */
  leave(): void;
}

interface Entry {
  group: string;
  dismiss: () => void;
}

export function createCrowd(limits: { maxUnauthenticated: number }): Crowd {
  /** By address, oldest first. */
  const groups = new Map<string, Set<Entry>>();
  let size = 0;
  const add = (entry: Entry) => {
    const group = groups.get(entry.group) ?? new Set();
    groups.set(entry.group, group.add(entry));
    size += 1;
  };
  const remove = (entry: Entry) => {
    const group = groups.get(entry.group);
    if (!group?.delete(entry)) return;
    size -= 1;
    if (group.size === 0) groups.delete(entry.group);
  };
  /** True: there is room now for one more of that group. */
  const makeRoom = (group: string): boolean => {
    if (size < limits.maxUnauthenticated) return true;
    const largest = [...groups.values()].reduce((a, b) => (b.size > a.size ? b : a), new Set<Entry>());
    if ((groups.get(group)?.size ?? 0) + 1 >= largest.size) return false;
    const [oldest] = largest;
    remove(oldest!);
    oldest!.dismiss();
    return true;
  };
  return {
    enter(address, dismiss) {
      const entry: Entry = { group: addressGroup(address), dismiss };
      if (!makeRoom(entry.group)) return undefined;
      add(entry);
      return {
        move(moved) {
          if (!groups.get(entry.group)?.has(entry)) return;
          remove(entry);
          entry.group = addressGroup(moved);
          add(entry);
        },
        leave: () => remove(entry),
      };
    },
  };
}
