/**
 * The WAL archive of a timeline: its directory `wal/`, filled by Postgres' archive_command.
 *
 * A plain shell command, so that archiving goes on while Ballast is away. The copy is a reflink where the file system
 * can, is synced and only then gets its name, so that a name in the archive is a whole segment whatever happens.
 * Never a hard link: Postgres may overwrite the original. An archived file is never replaced by a different one.
 */

/** For archive_command. `platform` decides how files are cloned and synced. */
export function archiveCommand(walDirectory: string, platform: NodeJS.Platform = process.platform): string {
  const target = `${quoteForCommand(walDirectory)}/%f`;
  const temporary = `${quoteForCommand(walDirectory)}/.%f.tmp`;
  const directory = quoteForCommand(walDirectory);
  // macOS' sync takes no names and flushes everything.
  const sync = (what: string) => (platform === 'linux' ? `sync ${what}` : 'sync');
  const clone = platform === 'linux' ? 'cp --reflink=auto' : 'cp -c';
  const rename = platform === 'linux' ? 'mv -T' : 'mv -f';
  const copy = [`${clone} %p ${temporary}`, sync(temporary), `${rename} ${temporary} ${target}`, sync(directory)];
  return `if [ -e ${target} ]; then cmp -s %p ${target}; else ${copy.join(' && ')}; fi`;
}

/** For the shell, and `%` doubled for Postgres, which would read it as a placeholder. */
export function quoteForCommand(text: string): string {
  return `'${text.replaceAll("'", `'\\''`).replaceAll('%', '%%')}'`;
}
