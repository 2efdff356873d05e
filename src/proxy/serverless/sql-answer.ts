/**
 * Turns what Postgres answers into the JSON text of the response, message by message: rows are never held in another
 * form, and the whole never grows beyond its limit.
 */
import { HEADER_BYTES } from '../../postgres/wire/messages.ts';
import { Refusal } from '../refusal.ts';
import { asString, encoderOf } from './types.ts';
import type { Encoder } from './types.ts';
import { ANSWER, parseErrorMessage, parseRowDescription, parseTag } from './sql-messages.ts';
import type { Field } from './sql-messages.ts';

/** An ErrorResponse to a query. */
export class QueryFailed extends Error {
  /** By field letter of the protocol. */
  readonly fields: ReadonlyMap<string, string>;

  constructor(fields: ReadonlyMap<string, string>) {
    super(fields.get('M') ?? '');
    this.fields = fields;
  }
}

export class ResponseTooLarge extends Error {
  constructor(maxBytes: number) {
    super(`response is too large (max is ${maxBytes} bytes)`);
  }
}

export interface AnswerOptions {
  rawText: boolean;
  /** By query. */
  arrayModes: readonly boolean[];
  maxBytes: number;
  /** Called once when there are more bytes of rows than `largeBytes`. */
  largeBytes: number;
  onLarge: () => void;
}

export interface Answer {
  /** Takes a whole message. Throws ResponseTooLarge, or Refusal for what cannot be done over HTTP. */
  take(type: number, raw: Buffer): void;
  /** The first error of the pipeline. */
  readonly failure: QueryFailed | undefined;
  /** A command tag said that roles were changed. */
  readonly rolesChanged: boolean;
  /** JSON of the result of each query that has ended. */
  readonly results: readonly string[];
}

export function createAnswer({ rawText, arrayModes, maxBytes, largeBytes, onLarge }: AnswerOptions): Answer {
  const results: string[] = [];
  let failure: QueryFailed | undefined;
  let rolesChanged = false;
  let sizeBytes = 0;
  let result = createResult(rawText, arrayModes[0] === true);
  const end = (tag: string) => {
    results.push(result.json(tag));
    result = createResult(rawText, arrayModes[results.length] === true);
  };
  return {
    take(type, raw) {
      switch (type) {
        case ANSWER.dataRow:
          sizeBytes += raw.length;
          if (sizeBytes > maxBytes) throw new ResponseTooLarge(maxBytes);
          if (sizeBytes > largeBytes && sizeBytes - raw.length <= largeBytes) onLarge();
          return result.row(raw);
        case ANSWER.rowDescription:
          return result.describe(parseRowDescription(raw));
        case ANSWER.commandComplete: {
          const tag = parseTag(raw);
          if (tag.endsWith(' ROLE')) rolesChanged = true;
          return end(tag);
        }
        case ANSWER.emptyQuery:
          return end('');
        case ANSWER.error:
          failure ??= new QueryFailed(parseErrorMessage(raw));
          return;
        case ANSWER.copyIn:
        case ANSWER.copyOut:
        case ANSWER.copyBoth:
          throw new Refusal('COPY from or to the client is not available over HTTP', { code: '0A000' });
      }
    },
    get failure() {
      return failure;
    },
    get rolesChanged() {
      return rolesChanged;
    },
    results,
  };
}

function createResult(rawText: boolean, arrayMode: boolean) {
  let fieldsJson = '';
  let keys: string[] = [];
  let encoders: Encoder[] = [];
  let rows = '';
  return {
    describe(fields: readonly Field[]) {
      fieldsJson = fields.map(fieldJson).join(',');
      keys = fields.map(({ name }, index) => `${index === 0 ? '' : ','}${arrayMode ? '' : `${JSON.stringify(name)}:`}`);
      encoders = fields.map(({ typeId }) => (rawText ? asString : encoderOf(typeId)));
    },
    row(raw: Buffer) {
      let text = '';
      let at = HEADER_BYTES + 2;
      for (let column = 0; column < keys.length; column += 1) {
        const length = raw.readInt32BE(at);
        at += 4;
        text += keys[column];
        if (length < 0) {
          text += 'null';
          continue;
        }
        text += encoders[column]!(raw.toString('utf8', at, at + length));
        at += length;
      }
      const whole = arrayMode ? `[${text}]` : `{${text}}`;
      rows += rows === '' ? whole : `,${whole}`;
    },
    json(tag: string): string {
      const words = tag.split(' ');
      const [command] = words;
      // INSERT says an object id before the count.
      const count = command === 'INSERT' ? words[2] : words[1];
      const rowCount = count !== undefined && /^\d+$/.test(count) ? count : 'null';
      return (
        `{"fields":[${fieldsJson}],"rows":[${rows}],"command":${JSON.stringify(command)},` +
        `"rowCount":${rowCount},"rowAsArray":${arrayMode}}`
      );
    },
  };
}

function fieldJson(field: Field): string {
  return (
    `{"name":${JSON.stringify(field.name)},"dataTypeID":${field.typeId},"tableID":${field.tableId},` +
    `"columnID":${field.columnNumber},"dataTypeSize":${field.typeSize},` +
    `"dataTypeModifier":${field.typeModifier},"format":"text"}`
  );
}
