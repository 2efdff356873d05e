/**
 * Identifiers in the shapes that clients match on: `adjective-noun-NNNNNNNN` and `<prefix>-adjective-noun-<8 alnum>`.
 */
import { randomBytes, randomInt, randomUUID } from 'node:crypto';

const ADJECTIVES =
  'amber ancient autumn bitter black blue bold broad broken calm cold cool crimson curly damp dark dawn delicate divine dry empty falling fancy flat floral fragrant frosty gentle green hidden holy icy jolly late lingering little lively long lucky misty morning muddy mute nameless noisy odd old orange patient plain polished proud purple quiet rapid raspy red restless rough round royal shiny shrill shy silent small snowy soft solitary sparkling spring square steep still summer super sweet throbbing tight tiny twilight wandering weathered white wild winter wispy withered yellow young'.split(
    ' ',
  );
const NOUNS =
  'art band bar base bird block boat bonus bread breeze brook bush butterfly cake cell cherry cloud credit darkness dawn dew disk dream dust feather field fire firefly flower fog forest frog frost glade glitter grass hall hat haze heart hill king lab lake leaf limit math meadow mode moon morning mountain mouse mud night paper pine poetry pond queen rain recipe resonance rice river salad scene sea shadow shape silence sky smoke snow snowflake sound star sun sunset surf term thunder tooth tree truth union unit violet voice water waterfall wave wildflower wind wood'.split(
    ' ',
  );
const ALPHANUMERICS = 'abcdefghijklmnopqrstuvwxyz0123456789';

function pick(words: readonly string[]): string {
  return words[randomInt(words.length)]!;
}

function alphanumerics(length: number): string {
  // 252 = 7 * 36: rejecting the rest keeps each character equally likely.
  let text = '';
  while (text.length < length) {
    for (const byte of randomBytes(length * 2)) {
      if (byte < 252 && text.length < length) text += ALPHANUMERICS[byte % 36];
    }
  }
  return text;
}

const words = () => `${pick(ADJECTIVES)}-${pick(NOUNS)}`;
const digits = () => String(randomInt(10_000_000, 100_000_000));

export const newProjectId = (): string => `${words()}-${digits()}`;
export const newOrganizationId = (): string => `org-${words()}-${digits()}`;
export const newBranchId = (): string => `br-${words()}-${alphanumerics(8)}`;
export const newEndpointId = (): string => `ep-${words()}-${alphanumerics(8)}`;
export const newSnapshotId = (): string => `snap-${words()}-${alphanumerics(8)}`;
/** For the timeline that a branch gets by being restored; its first one has the branch's id. */
export const newTimelineId = (): string => `tl-${words()}-${alphanumerics(8)}`;
export const newUuid = (): string => randomUUID();

/** 357 bits; `napi_` is the prefix by which clients and secret scanners know a key. */
export const newApiKey = (): string => `napi_${alphanumerics(64)}`;

/** 71 bits behind the prefix that Neon's generated passwords carry. */
export const newPassword = (): string => `npg_${alphanumerics(14)}`;
