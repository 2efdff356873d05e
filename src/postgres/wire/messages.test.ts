/** The codec against any bytes in any pieces: what comes out is what went in, and nothing but ProtocolError is thrown. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  MessageFramer,
  authenticationSasl,
  backendKeyData,
  errorResponse,
  message,
  negotiateProtocolVersion,
  parseErrorFields,
  parsePassword,
  parseSaslInitialResponse,
  saslInitialResponse,
} from './messages.ts';
import { ProtocolError, cancelRequest, parseStartupPacket, startupMessage } from './startup.ts';

const bytes = (maxLength = 300) => fc.uint8Array({ maxLength }).map((array) => Buffer.from(array));
const withoutNul = fc.string().filter((text) => !text.includes('\0'));

function pieces(stream: Buffer, cuts: readonly number[]): Buffer[] {
  const ends = [...new Set(cuts.map((cut) => cut % (stream.length + 1))), stream.length].sort((a, b) => a - b);
  let start = 0;
  return ends.map((end) => {
    const piece = stream.subarray(start, end);
    start = end;
    return piece;
  });
}

describe('startup packets', () => {
  test('a StartupMessage is read as it was written', () => {
    fc.assert(
      fc.property(
        fc.dictionary(
          withoutNul.filter((name) => name !== ''),
          withoutNul,
        ),
        (parameters) => {
          const packet = parseStartupPacket(startupMessage(Object.entries(parameters)).subarray(4));
          expect(packet).toEqual({
            kind: 'startup',
            major: 3,
            minor: 0,
            parameters: new Map(Object.entries(parameters)),
          });
        },
      ),
    );
  });

  test('encryption and cancel requests', () => {
    const code = (value: number) => {
      const packet = Buffer.alloc(4);
      packet.writeUInt32BE(value);
      return packet;
    };
    expect(parseStartupPacket(code(80877103))).toEqual({ kind: 'ssl' });
    expect(parseStartupPacket(code(80877104))).toEqual({ kind: 'gssenc' });
    const secretKey = Buffer.from('secret key of protocol 3.2');
    expect(parseStartupPacket(cancelRequest(-5, secretKey).subarray(4))).toEqual({
      kind: 'cancel',
      processId: -5,
      secretKey,
    });
    expect(parseStartupPacket(code(2 << 16))).toMatchObject({ kind: 'startup', major: 2, minor: 0 });
  });

  test.each([
    ['without terminator', '\0\x03\0\0user\0a\0'],
    ['with a name without value', '\0\x03\0\0user\0'],
    ['with bytes behind its end', '\0\x03\0\0user\0a\0\0more'],
    ['that is too short', '\0\x03'],
  ])('refuses one %s', (_title, packet) => {
    expect(() => parseStartupPacket(Buffer.from(packet, 'latin1'))).toThrow(ProtocolError);
  });

  test('any bytes are a packet or a ProtocolError', () => {
    const packets = fc.oneof(
      bytes(),
      bytes().map((body) => Buffer.concat([Buffer.from([0, 3, 0, 0]), body])),
    );
    fc.assert(
      fc.property(packets, (packet) => {
        try {
          parseStartupPacket(packet);
        } catch (error) {
          expect(error).toBeInstanceOf(ProtocolError);
        }
      }),
    );
  });
});

describe('messages', () => {
  test('have the layout of the protocol', () => {
    expect(authenticationSasl(['A', 'B']).toString('latin1')).toBe('R\0\0\0\x0d\0\0\0\x0aA\0B\0\0');
    expect(backendKeyData(1, Buffer.from([0, 0, 0, 2])).toString('latin1')).toBe('K\0\0\0\x0c\0\0\0\x01\0\0\0\x02');
    expect(negotiateProtocolVersion(['_pq_.x']).toString('latin1')).toBe('v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0');
  });

  test('an ErrorResponse says what it was given, and cannot be broken by a NUL', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        const raw = errorResponse({ severity: 'ERROR', code: 'XX000', message: `x${text}` });
        expect(raw.readInt32BE(1)).toBe(raw.length - 1);
        expect(parseErrorFields(raw.subarray(5))).toEqual({
          severity: 'ERROR',
          code: 'XX000',
          message: `x${text.replaceAll('\0', '')}`,
        });
      }),
    );
  });

  test('SASL and password messages are read as written; anything else is a ProtocolError', () => {
    const raw = saslInitialResponse('SCRAM-SHA-256', 'n,,n=,r=x');
    expect(parseSaslInitialResponse(raw.subarray(5))).toEqual({ mechanism: 'SCRAM-SHA-256', data: 'n,,n=,r=x' });
    expect(parsePassword(Buffer.from('geheim\0'))).toBe('geheim');
    fc.assert(
      fc.property(bytes(), (body) => {
        for (const parse of [parseSaslInitialResponse, parsePassword]) {
          try {
            parse(body);
          } catch (error) {
            expect(error).toBeInstanceOf(ProtocolError);
          }
        }
      }),
    );
  });
});

describe('MessageFramer', () => {
  const WANTED = 0x51;
  const stream = fc.array(fc.record({ type: fc.constantFrom(WANTED, 0x50, 0x64), body: bytes() }), { maxLength: 12 });

  test('passes every byte on in order and cuts out what was wanted, however the stream arrives', () => {
    fc.assert(
      fc.property(stream, fc.array(fc.nat()), (messages, cuts) => {
        const all = Buffer.concat(messages.map(({ type, body }) => message(type, body)));
        const framer = new MessageFramer((type) => type === WANTED, 1_000);
        const frames = pieces(all, cuts).flatMap((piece) => framer.push(piece));
        expect(Buffer.concat(frames.map((frame) => (frame.kind === 'bytes' ? frame.bytes : frame.raw)))).toEqual(all);
        const whole = frames.flatMap((frame) => (frame.kind === 'message' ? [frame.raw] : []));
        const wanted = messages.filter(({ type }) => type === WANTED).map(({ type, body }) => message(type, body));
        expect(whole).toEqual(wanted);
      }),
    );
  });

  test('refuses a wanted message beyond the limit before it is there, and lets any other through', () => {
    const header = (type: number) => Buffer.from([type, 0x7f, 0xff, 0xff, 0xff]);
    const framer = new MessageFramer((type) => type === WANTED, 1_000);
    expect(framer.push(header(0x64))).toHaveLength(1);
    expect(framer.push(Buffer.alloc(10))).toHaveLength(1);
    expect(() => new MessageFramer((type) => type === WANTED, 1_000).push(header(WANTED))).toThrow(ProtocolError);
  });

  test('any bytes are frames or a ProtocolError', () => {
    fc.assert(
      fc.property(fc.array(bytes(40)), (chunks) => {
        const framer = new MessageFramer((type) => type % 2 === 0, 100);
        try {
          for (const chunk of chunks) framer.push(chunk);
        } catch (error) {
          expect(error).toBeInstanceOf(ProtocolError);
        }
      }),
    );
  });
});
