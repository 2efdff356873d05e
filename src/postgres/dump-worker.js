/**
 * The thread that pg_dump (compiled to WebAssembly) runs in. Its libpq reads and writes synchronously; the socket
 * belongs to the main thread (dump.ts). What it writes is posted there; when an answer is due it sleeps on `arrivals`
 * until the answer is whole. Plain JavaScript: Node starts this file as it is, from src/ and from dist/.
 *
 * workerData: { arrivals: Int32Array that counts messages, port: MessagePort, args: string[] }
 * Posts { sql } or { error } to its parent.
 */
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { pgDump } from '@electric-sql/pglite-tools/pg_dump';

const { arrivals, port, args } = workerData;
/** Password, SASL, SASLContinue: libpq answers these. */
const ASKS_BACK = new Set([3, 10, 11]);
/** Query, Sync, function call, password or SASL message: the server answers these. */
const WANTS_ANSWER = new Set(['Q', 'S', 'F', 'p']);

let isStarted = false;
let written = Buffer.alloc(0);

/** True when what libpq has written so far ends with a whole message and the server owes an answer. */
function answerIsDue(bytes) {
  written = Buffer.concat([written, bytes]);
  let due = false;
  for (;;) {
    const header = isStarted ? 1 : 0;
    if (written.length < header + 4) break;
    const length = header + written.readInt32BE(header);
    if (written.length < length) break;
    due = !isStarted || due || WANTS_ANSWER.has(String.fromCharCode(written[0]));
    isStarted = true;
    written = written.subarray(length);
  }
  return due && written.length === 0;
}

/** Whether these whole messages end the answer. */
function endsAnswer(messages) {
  let ends = false;
  for (let at = 0; at < messages.length; at += 1 + messages.readInt32BE(at + 1)) {
    const type = String.fromCharCode(messages[at]);
    ends = type === 'Z' || (type === 'R' && ASKS_BACK.has(messages.readInt32BE(at + 5)));
  }
  return ends;
}

/** The length of the whole messages at the beginning of `bytes`. */
function wholeMessages(bytes) {
  let end = 0;
  while (bytes.length >= end + 5) {
    const next = end + 1 + bytes.readInt32BE(end + 1);
    if (next > bytes.length) break;
    end = next;
  }
  return end;
}

/** Everything up to the end of the answer, or up to the end of the connection. */
function readAnswer() {
  const answer = [];
  let rest = Buffer.alloc(0);
  for (;;) {
    const before = Atomics.load(arrivals, 0);
    const parts = [rest];
    let closed = false;
    for (let m = receiveMessageOnPort(port); m; m = receiveMessageOnPort(port)) {
      if (m.message === null) closed = true;
      else parts.push(m.message);
    }
    const bytes = Buffer.concat(parts);
    const whole = bytes.subarray(0, wholeMessages(bytes));
    rest = bytes.subarray(whole.length);
    if (whole.length > 0) answer.push(whole);
    if (closed || endsAnswer(whole)) return Buffer.concat(answer);
    Atomics.wait(arrivals, 0, before);
  }
}

const connection = {
  // pgDump asks for the search path of a PGlite before and after; there is none here.
  query: async () => ({ rows: [{ search_path: '' }] }),
  exec: async () => [],
  execProtocolRawStream(bytes, { onRawData }) {
    const copy = Buffer.from(bytes);
    port.postMessage(copy);
    if (answerIsDue(copy)) onRawData(new Uint8Array(readAnswer()));
  },
};

try {
  const file = await pgDump({ pg: connection, args });
  parentPort.postMessage({ sql: await file.text() });
} catch (error) {
  parentPort.postMessage({ error: String(error?.message ?? error) });
}
