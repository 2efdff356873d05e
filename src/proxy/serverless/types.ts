/**
 * Postgres text of a value as JSON, for answers that are not raw: booleans, small integers and floats become JSON's
 * own, json is embedded, arrays become arrays. Everything else (int8 and numeric, which JSON clients would round,
 * included) is a string.
 */

/** Gives JSON text. */
export type Encoder = (text: string) => string;

const OID = { bool: 16, int2: 21, int4: 23, json: 114, float4: 700, float8: 701, jsonb: 3802 } as const;

/** Array types that come with Postgres, by the type of their elements; those of box, whose delimiter is `;`, left out. */
const ARRAYS = new Map<number, number>([
  [1000, OID.bool],
  [1005, OID.int2],
  [1007, OID.int4],
  [1021, OID.float4],
  [1022, OID.float8],
  [199, OID.json],
  [3807, OID.jsonb],
]);
/** bytea, char, name, int8, regproc, text, oid, tid, xid, cid, xml, point … bpchar, varchar, dates, numeric, uuid, ranges. */
const PLAIN_ARRAYS = [
  143, 210, 271, 629, 651, 719, 775, 791, 1001, 1002, 1003, 1006, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 1015, 1016,
  1017, 1018, 1019, 1027, 1028, 1034, 1040, 1041, 1115, 1182, 1183, 1185, 1187, 1231, 1263, 1270, 1561, 1563, 2201,
  2207, 2208, 2209, 2210, 2211, 2949, 2951, 3221, 3643, 3644, 3645, 3735, 3770, 3905, 3907, 3909, 3911, 3913, 3927,
  4073, 4090, 4097, 4192, 5039, 6150, 6151, 6152, 6153, 6155, 6157,
];

export const asString: Encoder = (text) => JSON.stringify(text);
const asIs: Encoder = (text) => text;
const asFloat: Encoder = (text) => (/^-?\d/.test(text) ? text : JSON.stringify(text));

export function encoderOf(typeId: number): Encoder {
  const simple = simpleEncoder(typeId);
  if (simple !== undefined) return simple;
  const elementType = ARRAYS.get(typeId);
  if (elementType !== undefined) return (text) => arrayJson(text, simpleEncoder(elementType)!);
  return PLAIN_ARRAYS.includes(typeId) ? (text) => arrayJson(text, asString) : asString;
}

function simpleEncoder(typeId: number): Encoder | undefined {
  switch (typeId) {
    case OID.bool:
      return (text) => (text === 't' ? 'true' : 'false');
    case OID.int2:
    case OID.int4:
    case OID.json:
    case OID.jsonb:
      return asIs;
    case OID.float4:
    case OID.float8:
      return asFloat;
    default:
      return undefined;
  }
}

/** `{a,"b c",NULL,{…}}`, perhaps with bounds in front (`[0:2]={…}`). */
function arrayJson(literal: string, encode: Encoder): string {
  let at = literal.indexOf('{') + 1;
  const list = (): string => {
    const items: string[] = [];
    for (;;) {
      const character = literal[at];
      if (character === '}' || character === undefined) {
        at += 1;
        return `[${items.join(',')}]`;
      }
      if (character === ',') at += 1;
      else if (character === '{') {
        at += 1;
        items.push(list());
      } else if (character === '"') items.push(encode(quoted()));
      else items.push(bare());
    }
  };
  const quoted = (): string => {
    let text = '';
    for (at += 1; at < literal.length && literal[at] !== '"'; at += 1) {
      if (literal[at] === '\\') at += 1;
      text += literal[at];
    }
    at += 1;
    return text;
  };
  const bare = (): string => {
    const begin = at;
    while (at < literal.length && literal[at] !== ',' && literal[at] !== '}') at += 1;
    const text = literal.slice(begin, at);
    return text === 'NULL' ? 'null' : encode(text);
  };
  return list();
}
