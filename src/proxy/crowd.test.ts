import { expect, test } from 'vitest';
import { createCrowd } from './crowd.ts';

function crowdOf(maxUnauthenticated: number) {
  const crowd = createCrowd({ maxUnauthenticated });
  const dismissed: string[] = [];
  return { dismissed, enter: (address: string, name = address) => crowd.enter(address, () => dismissed.push(name)) };
}

test('a flood from one address makes room for everybody else, oldest first', () => {
  const { enter, dismissed } = crowdOf(5);
  for (let i = 0; i < 5; i += 1) expect(enter('192.0.2.1', `flood ${i}`)).toBeDefined();
  expect(enter('192.0.2.1', 'one more')).toBeUndefined();
  expect(enter('192.0.2.2')).toBeDefined();
  expect(enter('192.0.2.3')).toBeDefined();
  expect(dismissed).toEqual(['flood 0', 'flood 1']);
});

test('the same network of IPv6 is one address', () => {
  const { enter, dismissed } = crowdOf(4);
  for (let i = 0; i < 4; i += 1) enter(`2001:db8::${i}`);
  expect(enter('2001:db8::ffff')).toBeUndefined();
  expect(enter('2001:db8:0:1::1')).toBeDefined();
  expect(dismissed).toEqual(['2001:db8::0']);
});

test('where all have as many as the newcomer would have, it is refused', () => {
  const { enter, dismissed } = crowdOf(3);
  for (const address of ['a', 'b', 'c']) enter(address);
  expect(enter('d')).toBeUndefined();
  expect(dismissed).toEqual([]);
});

test('places are given up once, and can turn out to be somebody else’s', () => {
  const { enter, dismissed } = crowdOf(3);
  const places = [enter('balancer', '1')!, enter('balancer', '2')!, enter('balancer', '3')!];
  places[0]!.move('192.0.2.1');
  places[1]!.leave();
  places[1]!.leave();
  expect(enter('192.0.2.1', '4')).toBeDefined();
  expect(enter('192.0.2.1', '5')).toBeUndefined();
  expect(enter('192.0.2.9', '6')).toBeDefined();
  expect(dismissed).toEqual(['1']);
  // It has no place any more.
  places[0]!.move('elsewhere');
  places[0]!.leave();
  places[2]!.move('192.0.2.1');
  expect(enter('192.0.2.8', '7')).toBeDefined();
  expect(dismissed).toEqual(['1', '4']);
});
