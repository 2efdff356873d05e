/**
 * What `GET /metrics` answers, parsed: strict about the text format, so that a line no scraper would take is an error.
 */
const LINE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (-?[0-9.]+(?:e[+-]?\d+)?|[+-]Inf|Nan)$/;
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)/y;

export interface Sample {
  name: string;
  labels: Readonly<Record<string, string>>;
  value: number;
}

export interface Scrape {
  samples: readonly Sample[];
  /** By metric: counter, gauge, histogram. */
  types: ReadonlyMap<string, string>;
  /** The sum of all samples of that name that have these labels; 0 where there is none. */
  value(name: string, labels?: Readonly<Record<string, string>>): number;
}

export function parseMetrics(text: string): Scrape {
  const samples: Sample[] = [];
  const types = new Map<string, string>();
  for (const line of text.split('\n')) {
    const type = /^# TYPE (\S+) (counter|gauge|histogram|summary|untyped)$/.exec(line);
    if (type) types.set(type[1]!, type[2]!);
    if (type || line === '' || line.startsWith('# HELP ')) continue;
    const match = LINE.exec(line);
    if (!match) throw new Error(`no line of the text format: ${line}`);
    samples.push({ name: match[1]!, labels: parseLabels(match[2] ?? ''), value: Number(match[3]) });
  }
  for (const { name } of samples) {
    const metric = name.replace(/_(bucket|sum|count)$/, '');
    if (!types.has(name) && !types.has(metric)) throw new Error(`${name} has no type`);
  }
  return {
    samples,
    types,
    value: (name, labels = {}) =>
      samples
        .filter((one) => one.name === name && Object.entries(labels).every(([key, value]) => one.labels[key] === value))
        .reduce((sum, one) => sum + one.value, 0),
  };
}

function parseLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  LABEL.lastIndex = 0;
  while (LABEL.lastIndex < text.length) {
    const match = LABEL.exec(text);
    if (!match) throw new Error(`no labels: ${text}`);
    labels[match[1]!] = match[2]!;
  }
  return labels;
}

/** Throws unless the answer is 200. */
export async function scrape(apiPort: number, key: string): Promise<Scrape> {
  const response = await fetch(`http://localhost:${apiPort}/metrics`, { headers: { authorization: `Bearer ${key}` } });
  if (response.status !== 200) throw new Error(`/metrics answered ${response.status}`);
  return parseMetrics(await response.text());
}
