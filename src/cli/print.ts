/**
 * What commands print: plain text on stdout, problems on stderr.
 *
 * Texts name commands as `ballast <command>`. Who came by npm has no such program; scripts/run.mjs then says in
 * BALLAST_COMMAND what works instead, and texts are printed with that.
 */
const COMMAND = process.env['BALLAST_COMMAND'] ?? 'ballast';
const COMMAND_IN_TEXT =
  /(?<=^|[`'"(]|: {1,4}| {2}|and |or |&& |sudo )ballast (?=(start|status|doctor|env|trust|keys|pool|postgres|catalog|verify|why-awake)\b)/gm;

/** An error whose message is all the user needs. Ends the command with exit code 1 and no stack. */
export class CommandError extends Error {}

export function print(text: string): void {
  process.stdout.write(`${nameCommands(text, COMMAND)}\n`);
}

export function printProblem(text: string): void {
  process.stderr.write(`${nameCommands(text, COMMAND)}\n`);
}

/** The text with `command` where it says to run `ballast`. */
export function nameCommands(text: string, command: string): string {
  return text.replaceAll(COMMAND_IN_TEXT, `${command} `);
}

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}

/** Columns as wide as their widest cell; the last column is not padded. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [header, ...rows];
  const widths = header.map((_, column) => Math.max(...all.map((row) => (row[column] ?? '').length)));
  return all
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]!}`;
}

/** `20G`, `512M`, `1.5T` or plain bytes; powers of 1024. Throws CommandError. */
export function parseBytes(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?b)?$/i.exec(text.trim());
  if (!match) throw new CommandError(`not a size: "${text}" (write for example 20G)`);
  const power = ['', 'k', 'm', 'g', 't', 'p'].indexOf(match[2]!.toLowerCase());
  return Math.floor(Number(match[1]) * 1024 ** power);
}

/** For POSIX shells; left bare where nothing needs quoting. */
export function quote(value: string): string {
  return /^[\w@%+=:,./-]+$/.test(value) ? value : `'${value.replaceAll("'", `'\\''`)}'`;
}
