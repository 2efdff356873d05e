import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { CommandError, formatBytes, nameCommands, parseBytes, quote, table } from './print.ts';

test('sizes are read as people write them', () => {
  expect(parseBytes('20G')).toBe(20 * 1024 ** 3);
  expect(parseBytes('1.5 MiB')).toBe(1.5 * 1024 ** 2);
  expect(parseBytes('512m')).toBe(512 * 1024 ** 2);
  expect(parseBytes('4096')).toBe(4096);
  for (const text of ['', 'G', '-1G', '1Q', '1e3']) expect(() => parseBytes(text), text).toThrow(CommandError);
});

test('sizes are written short', () => {
  expect(formatBytes(0)).toBe('0 B');
  expect(formatBytes(1536)).toBe('1.5 KiB');
  expect(formatBytes(300 * 1024 ** 3)).toBe('300 GiB');
});

test('columns line up', () => {
  expect(
    table(
      ['ID', 'NAME'],
      [
        ['1', 'a'],
        ['100', 'b'],
      ],
    ),
  ).toBe('ID   NAME\n1    a\n100  b');
});

test('commands are named as the user can type them', () => {
  const named = (text: string) => nameCommands(text, 'npm run ballast --');
  expect(named('start it with `ballast start`')).toBe('start it with `npm run ballast -- start`');
  expect(named('mend: ballast postgres install 16')).toBe('mend: npm run ballast -- postgres install 16');
  expect(named("sh -c 'apt-get install xfsprogs && ballast pool create --size 1G'")).toBe(
    "sh -c 'apt-get install xfsprogs && npm run ballast -- pool create --size 1G'",
  );
  expect(named('14     -        ballast postgres install 14')).toBe(
    '14     -        npm run ballast -- postgres install 14',
  );
  expect(named('Ballast starting, ballast keys are kept')).toBe('Ballast starting, ballast keys are kept');
});

test.each(['plain', 'http://localhost:8080/api/v2', 'it\'s $HOME `id` "x"', '', '/a b/c'])(
  'the shell reads %j back',
  (text) => {
    const { stdout } = spawnSync('sh', ['-c', `printf %s ${quote(text)}`], { encoding: 'utf8' });
    expect(stdout).toBe(text);
  },
);
