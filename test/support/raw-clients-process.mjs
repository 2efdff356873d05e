/**
 * Thousands of Postgres clients in one light process, which does as its parent says: logs in, asks, counts, hangs up.
 * Plain sockets that speak as much of the protocol as that needs; a password is stretched once per salt.
 */
import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto';
import net from 'node:net';

const PROTOCOL = 196_608;
const clients = new Map();
const stretched = new Map();

const hmac = (key, text) => createHmac('sha256', key).update(text).digest();
const sha256 = (bytes) => createHash('sha256').update(bytes).digest();

function message(type, ...parts) {
  const body = Buffer.concat(parts.map((part) => (typeof part === 'number' ? int32(part) : Buffer.from(part))));
  const head = type === '' ? Buffer.alloc(0) : Buffer.from(type);
  return Buffer.concat([head, int32(body.length + 4), body]);
}

function int32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}

function saltedPassword(password, salt, iterations) {
  const key = `${salt} ${iterations} ${password}`;
  let known = stretched.get(key);
  if (!known) {
    known = pbkdf2Sync(password, Buffer.from(salt, 'base64'), iterations, 32, 'sha256');
    stretched.set(key, known);
  }
  return known;
}

/** The answer to the server's first message. */
function scramProof({ password, first, challenge }) {
  const [, nonce, salt, iterations] = /^r=([^,]+),s=([^,]+),i=(\d+)/.exec(challenge);
  const salted = saltedPassword(password, salt, Number(iterations));
  const withoutProof = `c=biws,r=${nonce}`;
  const clientKey = hmac(salted, 'Client Key');
  const signature = hmac(sha256(clientKey), `${first},${challenge},${withoutProof}`);
  const proof = Buffer.from(clientKey.map((byte, i) => byte ^ signature[i]));
  return `${withoutProof},p=${proof.toString('base64')}`;
}

/** Resolves when the client may ask; rejects with what it is told. */
function logIn({ id, port, endpoint, user, password, database }) {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ port, host: '127.0.0.1' });
    const client = { socket, waiting: undefined, lastWords: undefined };
    clients.set(id, client);
    const first = `n=,r=${randomBytes(12).toString('base64')}`;
    let received = Buffer.alloc(0);
    let isIn = false;
    let row;
    const fail = (why) => {
      clients.delete(id);
      const error = new Error(client.lastWords ?? why);
      if (isIn) client.waiting?.reject(error);
      else reject(error);
    };
    const take = (type, body) => {
      if (type === 'R') {
        const kind = body.readInt32BE(0);
        const rest = body.toString('latin1', 4);
        if (kind === 10) socket.write(message('p', 'SCRAM-SHA-256\0', Buffer.byteLength(`n,,${first}`), `n,,${first}`));
        else if (kind === 11) socket.write(message('p', scramProof({ password, first, challenge: rest })));
      } else if (type === 'E') {
        client.lastWords = body
          .toString('utf8')
          .split('\0')
          .find((field) => field.startsWith('M'))
          ?.slice(1);
      } else if (type === 'D') row = body.toString('utf8', 6);
      else if (type === 'Z' && !isIn) {
        isIn = true;
        resolve();
      } else if (type === 'Z') {
        const { waiting } = client;
        client.waiting = undefined;
        if (client.lastWords === undefined) waiting?.resolve(row);
        else waiting?.reject(new Error(client.lastWords));
      }
    };
    socket.on('data', (chunk) => {
      received = received.length === 0 ? chunk : Buffer.concat([received, chunk]);
      while (received.length >= 5 && received.length > received.readInt32BE(1)) {
        const end = received.readInt32BE(1) + 1;
        take(String.fromCharCode(received[0]), received.subarray(5, end));
        received = received.subarray(end);
      }
      if (received.length === 0) received = Buffer.alloc(0);
    });
    socket.on('error', (error) => fail(error.message));
    socket.on('close', () => fail('the connection was closed'));
    const parameters = { user, database, options: `endpoint=${endpoint}` };
    const words = Object.entries(parameters).map(([name, value]) => `${name}\0${value}\0`);
    socket.write(message('', PROTOCOL, ...words, '\0'));
  });
}

function ask(id, sql) {
  const client = clients.get(id);
  if (!client) return Promise.reject(new Error('the client is gone'));
  return new Promise((resolve, reject) => {
    client.waiting = { resolve, reject };
    client.socket.write(message('Q', `${sql}\0`));
  });
}

async function inParallel(width, jobs) {
  const results = [];
  let next = 0;
  const worker = async () => {
    while (next < jobs.length) {
      const index = next++;
      results[index] = await jobs[index]().then(
        (value) => ({ value }),
        (error) => ({ error: error.message }),
      );
    }
  };
  await Promise.all(Array.from({ length: Math.min(width, jobs.length) }, worker));
  return results;
}

async function obey({ logins, questions, width = 1, hangUp }) {
  if (logins)
    return inParallel(
      width,
      logins.map((login) => () => logIn(login)),
    );
  if (questions)
    return inParallel(
      width,
      questions.map(
        ({ id, sql }) =>
          () =>
            ask(id, sql),
      ),
    );
  if (hangUp) for (const { socket } of clients.values()) socket.end(message('X'));
  return clients.size;
}

process.on('message', ({ order, words }) => {
  void obey(words).then((answer) => process.send({ order, answer }));
});
process.on('disconnect', () => process.exit(0));
