/**
 * Samples and how they are printed: n, p50, p95, beside the floor of the same run, and whether the bar is met.
 * A figure: { name, unit, samples, floor?: { name, samples }, bar?: { atMost | atLeast, of: 'floor' | 'value' }, note? }.
 */

export function quantile(samples, p) {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(p * sorted.length) - 1))];
}

/** Ratio of the medians, or undefined without a floor. */
export function ratio(figure) {
  if (figure.floor === undefined) return undefined;
  return quantile(figure.samples, 0.5) / quantile(figure.floor.samples, 0.5);
}

/** `ok`, `over`, or undefined where there is no bar. */
export function verdict(figure) {
  const { bar } = figure;
  if (bar === undefined) return undefined;
  const value = bar.of === 'value' ? quantile(figure.samples, 0.5) : ratio(figure);
  const met = bar.atMost !== undefined ? value <= bar.atMost : value >= bar.atLeast;
  return met ? 'ok' : 'over';
}

export function printFigure(figure) {
  const parts = [describe(figure.samples, figure.unit)];
  if (figure.floor !== undefined) {
    parts.push(`floor (${figure.floor.name}) ${describe(figure.floor.samples, figure.unit)}`);
    parts.push(`${number(ratio(figure))} x floor`);
  }
  if (figure.bar !== undefined) {
    const { bar } = figure;
    const limit = bar.atMost !== undefined ? `<= ${bar.atMost}` : `>= ${bar.atLeast}`;
    parts.push(`bar ${limit}${bar.of === 'value' ? ` ${figure.unit}` : ' x floor'}: ${verdict(figure)}`);
  }
  if (figure.note !== undefined) parts.push(figure.note);
  process.stdout.write(`${figure.name}\n    ${parts.join('\n    ')}\n`);
}

function describe(samples, unit) {
  return `n=${samples.length} p50 ${number(quantile(samples, 0.5))} p95 ${number(quantile(samples, 0.95))} ${unit}`;
}

function number(value) {
  if (value >= 1000) return value.toFixed(0);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** Milliseconds that the work took. */
export async function timed(work) {
  const begun = process.hrtime.bigint();
  await work();
  return Number(process.hrtime.bigint() - begun) / 1e6;
}

/** Product and floor in turn, so that what disturbs the machine disturbs both; the first round of each is thrown away. */
export async function inTurn(rounds, product, floor) {
  const samples = [];
  const floorSamples = [];
  for (let round = 0; round <= rounds; round++) {
    const floorMs = await floor(round);
    const productMs = await product(round);
    if (round === 0) continue;
    floorSamples.push(floorMs);
    samples.push(productMs);
  }
  return { samples, floorSamples };
}
