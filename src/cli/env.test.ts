import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { quote } from './env.ts';

test.each(['plain', 'http://localhost:8080/api/v2', 'it\'s $HOME `id` "x"', '', '/a b/c'])(
  'the shell reads %j back',
  (text) => {
    const { stdout } = spawnSync('sh', ['-c', `printf %s ${quote(text)}`], { encoding: 'utf8' });
    expect(stdout).toBe(text);
  },
);
