/**
 * Makes the API document of this server: the published one of the pinned npm package @neondatabase/api-client, plus
 * openapi/newer-operations.yaml, plus the deviations of openapi/overlay.yaml, as one JSON file.
 *
 *   node scripts/extract-contract.mjs [file]      default: .cache/contract/document.json
 *
 * The build writes dist/contract/document.json; development and tests use the cache, made anew when an input changed.
 * Nothing of the package is committed.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const cached = path.join(root, '.cache', 'contract', 'document.json');
const inputs = {
  published: path.join(
    path.dirname(createRequire(import.meta.url).resolve('@neondatabase/api-client/package.json')),
    'public-v2-for-users.gen.yaml',
  ),
  newer: path.join(root, 'openapi', 'newer-operations.yaml'),
  overlay: path.join(root, 'openapi', 'overlay.yaml'),
};

/** Writes the document to `file` and returns its path. */
export function extractContract(file = cached) {
  const read = (name) => parse(readFileSync(inputs[name], 'utf8'), { maxAliasCount: -1 });
  const document = read('published');
  addNewer(document, read('newer'));
  for (const deviation of read('overlay')) applyDeviation(document, deviation);
  document['x-made-from'] = fingerprint();
  mkdirSync(path.dirname(file), { recursive: true });
  // Several test workers may do this at once: each renames a whole file into place.
  const temporary = `${file}.${process.pid}.tmp`;
  writeFileSync(temporary, JSON.stringify(document));
  renameSync(temporary, file);
  return file;
}

/** The cached document, made first when it is missing or made from other inputs. Returns its path. */
export function ensureContract() {
  const fresh = existsSync(cached) && JSON.parse(readFileSync(cached, 'utf8'))['x-made-from'] === fingerprint();
  return fresh ? cached : extractContract();
}

/** Of contents, not times: npm gives every file of a package the same old date. */
function fingerprint() {
  const hash = createHash('sha256');
  for (const file of [...Object.values(inputs), fileURLToPath(import.meta.url)]) hash.update(readFileSync(file));
  return hash.digest('hex');
}

function addNewer(document, newer) {
  for (const [section, target] of [
    [newer.paths, document.paths],
    [newer.components.schemas, document.components.schemas],
  ]) {
    for (const [name, value] of Object.entries(section)) {
      if (Object.hasOwn(target, name))
        throw new Error(`the published document has ${name} by now: remove it from openapi/newer-operations.yaml`);
      target[name] = value;
    }
  }
}

function applyDeviation(document, deviation) {
  if (!deviation.reason) throw new Error(`the deviation at ${deviation.at} gives no reason`);
  const keys = deviation.at
    .slice(1)
    .split('/')
    .map((key) => key.replaceAll('~1', '/').replaceAll('~0', '~'));
  const last = keys.pop();
  const parent = keys.reduce((value, key) => value?.[key], document);
  const present = parent !== undefined && Object.hasOwn(parent, last);
  if (parent === undefined || (!present && !('set' in deviation)))
    throw new Error(`openapi/overlay.yaml: nothing at ${deviation.at}`);
  if ('set' in deviation) parent[last] = deviation.set;
  else if ('merge' in deviation) Object.assign(parent[last], deviation.merge);
  else if ('append' in deviation) parent[last].push(...deviation.append);
  else if (deviation.remove === true) delete parent[last];
  else throw new Error(`the deviation at ${deviation.at} says neither set, merge, append nor remove`);
}

if (process.argv[1] !== undefined && path.resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  console.log(extractContract(process.argv[2] === undefined ? undefined : path.resolve(process.argv[2])));
}
