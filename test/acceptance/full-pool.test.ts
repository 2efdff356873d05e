/**
 * A pool that fills up: new branches are refused first, with a text that says why, while writers go on; when there is no
 * room at all writers get clear errors; no acknowledged row is lost; and all works again once there is room.
 */
import { execFileSync } from 'node:child_process';
import { rm, statfs } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast, temporaryDirectory } from '../support/ballast.ts';
import { canMountImages, mountXfsImage, type Image } from '../support/image.ts';
import { query, scalar } from '../support/sql.ts';
import { waitFor } from '../support/wait.ts';

const SIZE_BYTES = 2 * 1024 ** 3;
const MIB = 1024 ** 2;

let root: string;
let image: Image;
let ballast: Ballast;
let place: Place;
let acknowledged = 0;

beforeAll(async () => {
  if (!canMountImages) return;
  root = await temporaryDirectory(os.tmpdir());
  image = await mountXfsImage(root, SIZE_BYTES);
  ballast = await Ballast.boot({ pool: path.join(image.directory, 'pool') });
  place = await ballast.api.createProject({ name: 'squeezed' });
  await query(place.uri, 'create table ledger (n int primary key, filler text)');
}, 150_000);

afterAll(async () => {
  await ballast?.destroy();
  await image?.remove();
  if (root !== undefined) await rm(root, { recursive: true, force: true });
});

const filler = () => path.join(image.directory, 'filler');

/** Takes space from outside until only this share of the file system is free. */
async function leaveFree(share: number): Promise<void> {
  const { bsize, blocks, bavail } = await statfs(image.directory);
  const takeBytes = Math.floor(bavail * bsize - share * blocks * bsize);
  if (takeBytes > 0) execFileSync('fallocate', ['-l', String(takeBytes), `${filler()}-${Date.now()}`]);
}

const giveBack = () => execFileSync('sh', ['-c', `rm -f '${filler()}'-*`]);

async function commit(fillerBytes = 1): Promise<void> {
  await query(place.uri, 'insert into ledger values ($1, repeat(md5(random()::text), $2))', [
    acknowledged + 1,
    Math.ceil(fillerBytes / 32),
  ]);
  acknowledged += 1;
}

const branch = () =>
  ballast.api.request('POST', `/projects/${place.projectId}/branches`, { endpoints: [{ type: 'read_write' }] });

test.skipIf(!canMountImages)(
  'branches are refused first, writers later, nothing is lost (skipped without root, loop devices and mkfs.xfs)',
  async () => {
    await commit();
    const early = await branch();
    expect(early.status).toBe(201);
    await ballast.api.settle(early.body);

    await leaveFree(0.07);
    const refused = await waitFor('branches to be refused', async () => {
      const reply = await branch();
      if (reply.status !== 201) return reply;
      await ballast.api.settle(reply.body).catch(() => {});
      return undefined;
    });
    expect(refused.status).toBeGreaterThanOrEqual(400);
    expect(refused.body.message).toMatch(/space|full|room/i);
    expect(refused.text).not.toContain(image.directory);
    await commit();

    await leaveFree(0.01);
    let failure: { message: string } | undefined;
    for (let attempt = 0; attempt < 400 && failure === undefined; attempt++) {
      failure = await commit(MIB / 2).then(
        () => undefined,
        (error: Error) => error,
      );
    }
    expect(failure?.message).toMatch(/space|full|room|No space left|terminat|connection|starting up|recovery/i);
    // Reads of the API do not suffer.
    expect((await ballast.api.request('GET', `/projects/${place.projectId}`)).status).toBe(200);

    giveBack();
    const held = await waitFor(
      'the project to work again',
      async () => (await scalar(place.uri, 'select max(n) from ledger')) as number,
      {
        timeoutMs: 60_000,
        intervalMs: 250,
      },
    );
    expect(await scalar(place.uri, 'select count(*)::int from ledger')).toBe(held);
    expect(held).toBeGreaterThanOrEqual(acknowledged);
    expect(held).toBeLessThanOrEqual(acknowledged + 1);
    acknowledged = held;
    await waitFor('a write to work again', async () => {
      await commit();
      return true;
    });
    const late = await waitFor('branches to be accepted again', async () => {
      const reply = await branch();
      return reply.status === 201 ? reply : undefined;
    });
    await ballast.api.settle(late.body);
  },
);
