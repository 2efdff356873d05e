/**
 * A session of an imaginary Postgres in memory: enough of the protocol to tell whose answers are whose, and state that
 * would show if it reached another client. Commands: begin, commit, rollback, echo …, set …, show, fail; and for cancels
 * and COPY, all with a tag that says whose they are: hang …, copyin …, copyout …, notice …, name …, whoami.
 */
const HEADER = 5;

export function frame(type: string, body: Buffer | string = ''): Buffer {
  const data = typeof body === 'string' ? Buffer.from(body, 'latin1') : body;
  const bytes = Buffer.alloc(HEADER + data.length);
  bytes.write(type, 0, 'latin1');
  bytes.writeInt32BE(data.length + 4, 1);
  data.copy(bytes, HEADER);
  return bytes;
}

/** Whole messages as `type:body`. */
export function readMessages(bytes: Buffer): string[] {
  const found: string[] = [];
  for (let at = 0; at < bytes.length;) {
    const end = at + 1 + bytes.readInt32BE(at + 1);
    found.push(`${bytes.toString('latin1', at, at + 1)}:${bytes.toString('latin1', at + HEADER, end)}`);
    at = end;
  }
  return found;
}

export class FakeSession {
  setting = 'none';
  status = 'I';
  name = '';
  /** Tag of what runs until it is cancelled, or whose data are read. */
  running: string | undefined;
  /** Data of a COPY that had another tag than its command. */
  readonly strangeData: string[] = [];
  #reading = false;
  #isExtended = false;
  /** A pooled client cannot count on its settings beyond a transaction. */
  readonly #forgets: boolean;
  readonly #statements = new Map<string, string>();
  #portal: string | undefined;
  #skipping = false;
  #input: Buffer = Buffer.alloc(0);

  constructor(options: { forgets: boolean }) {
    this.#forgets = options.forgets;
  }

  /** The answer to what is whole by now. */
  feed(chunk: Buffer): Buffer {
    this.#input = Buffer.concat([this.#input, chunk]);
    return Buffer.concat(this.#work());
  }

  /** What a cancel request makes it say: nothing, when nothing is under way. */
  cancel(): Buffer {
    if (this.running === undefined) return Buffer.alloc(0);
    return Buffer.concat([...this.#stop('57014'), ...this.#work()]);
  }

  #work(): Buffer[] {
    const answers: Buffer[] = [];
    while (this.#reading || this.running === undefined) {
      if (this.#input.length < HEADER) break;
      // Garbage may claim any length: the rest of it never comes.
      const end = 1 + this.#input.readUInt32BE(1);
      if (this.#input.length < end) break;
      const type = this.#input.toString('latin1', 0, 1);
      const body = this.#input.toString('latin1', HEADER, end);
      this.#input = this.#input.subarray(end);
      if (this.#reading) answers.push(...this.#read(type, body));
      else if (!this.#skipping || type === 'S') answers.push(...this.#answer(type, body));
    }
    return answers;
  }

  #read(type: string, body: string): Buffer[] {
    if (type === 'd' && body !== this.running) this.strangeData.push(`${body} for ${this.running}`);
    if (type === 'f') return this.#stop('57014');
    if (type === 'c') return this.#ended(frame('C', 'COPY 1\0'));
    return 'dHS'.includes(type) ? [] : this.#stop('08P01');
  }

  #stop(code: string): Buffer[] {
    return this.#ended(...this.#fail(code, this.#isExtended));
  }

  #ended(...last: Buffer[]): Buffer[] {
    this.running = undefined;
    this.#reading = false;
    return this.#isExtended ? last : [...last, this.#ready()];
  }

  #answer(type: string, body: string): Buffer[] {
    const words = body.split('\0');
    switch (type) {
      case 'Q':
        this.#statements.delete('');
        return this.#simple(words[0]!);
      case 'P':
        if (words[0] !== '' && this.#statements.has(words[0]!)) return this.#fail('42P05');
        if (words[0] === '') this.#statements.delete('');
        if (words[1]!.startsWith("'")) return this.#fail('42601');
        if (words[1] === 'nonsense') return this.#fail('42601');
        this.#statements.set(words[0]!, words[1]!);
        return [frame('1')];
      case 'B':
        this.#portal = this.#statements.get(words[1]!);
        return this.#portal === undefined ? this.#fail('26000') : [frame('2')];
      case 'D':
        if (body.startsWith('P')) return [frame('n')];
        return this.#statements.has(words[0]!.slice(1)) ? [frame('t', '\0\0'), frame('n')] : this.#fail('26000');
      case 'E':
        return this.#portal === undefined ? this.#fail('34000') : this.#run(this.#portal, true);
      case 'C':
        this.#statements.delete(words[0]!.slice(1));
        return [frame('3')];
      case 'S':
        this.#skipping = false;
        this.#portal = undefined;
        return [this.#ready()];
      default:
        return [];
    }
  }

  #simple(sql: string): Buffer[] {
    const answers = this.#query(sql);
    return this.running === undefined ? [...answers, this.#ready()] : answers;
  }

  #query(sql: string): Buffer[] {
    const named = /^SET application_name = E'(.*)'$/.exec(sql);
    if (named) return this.#rename(named[1]!);
    if (sql.startsWith('SET SESSION AUTHORIZATION DEFAULT;')) {
      this.setting = 'none';
      const renamed = this.name === '' ? [] : this.#rename('');
      if (sql.endsWith('DEALLOCATE ALL')) this.#statements.clear();
      return [...renamed, frame('C', 'RESET\0'), frame('D', 'own'), frame('C', 'SELECT 1\0')];
    }
    return this.#run(sql, false);
  }

  #rename(name: string): Buffer[] {
    this.name = name;
    return [frame('S', `application_name\0${name}\0`), frame('C', 'SET\0')];
  }

  #begin(tag: string, extended: boolean, reading: boolean): void {
    this.running = tag;
    this.#reading = reading;
    this.#isExtended = extended;
  }

  #run(sql: string, extended: boolean): Buffer[] {
    const [word, argument = ''] = sql.toLowerCase().split(' ');
    if (this.status === 'E' && word !== 'commit' && word !== 'rollback') return this.#fail('25P02', extended);
    switch (word) {
      case 'begin':
        this.status = 'T';
        return [frame('C', 'BEGIN\0')];
      case 'commit':
      case 'rollback':
        this.status = 'I';
        return [frame('C', 'COMMIT\0')];
      case 'echo':
        return [frame('D', argument), frame('C', 'SELECT 1\0')];
      case 'set':
        this.setting = argument;
        return [frame('C', 'SET\0')];
      case 'show':
        return [frame('D', this.setting), frame('C', 'SHOW\0')];
      case 'hang':
        this.#begin(argument, extended, false);
        return [];
      case 'copyin':
        this.#begin(argument, extended, true);
        return [frame('G', '\0\0\0')];
      case 'copyout':
        return [frame('H', '\0\0\0'), frame('d', argument), frame('c'), frame('C', 'COPY 1\0')];
      case 'notice':
        return [frame('N', `SNOTICE\0M${argument}\0\0`), frame('C', 'SELECT 0\0')];
      case 'name':
        return this.#rename(argument);
      case 'whoami':
        return [frame('D', this.name), frame('C', 'SHOW\0')];
      case 'deallocate':
        this.#statements.clear();
        return [frame('C', 'DEALLOCATE ALL\0')];
      default:
        return this.#fail('42601', extended);
    }
  }

  #fail(code: string, extended = true): Buffer[] {
    if (extended) this.#skipping = true;
    if (this.status === 'T') this.status = 'E';
    return [frame('E', `SERROR\0VERROR\0C${code}\0Mno\0\0`)];
  }

  #ready(): Buffer {
    if (this.status === 'I' && this.#forgets) this.setting = 'none';
    return frame('Z', this.status);
  }
}
