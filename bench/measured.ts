/**
 * Numbers of a measurement and what is said of them: the median with its spread. What is compared is measured turn by turn in one
 * run, so that whatever else the machine does meets all of it alike (docs/decisions/0026).
 */

/** Several values of one quantity. */
export interface Measured {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  /** How many values. */
  readonly n: number;
}

/** Sums values up; of none it fails, since nothing was measured then. */
export function summarize(values: readonly number[]): Measured {
  if (values.length === 0) throw new Error("Nothing was measured: there are no values to summarize.");
  const sorted = [...values].sort((a, b) => a - b);
  return { median: quantile(sorted, 0.5), min: sorted[0] ?? 0, max: sorted.at(-1) ?? 0, n: sorted.length };
}

/** The value below which the fraction `q` (0 to 1) of the values lies: the nearest of them, for the median the mean of the two in the middle. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  if (q === 0.5 && sorted.length % 2 === 0) {
    const middle = sorted.length / 2;
    return ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
  }
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(q * sorted.length) - 1))] ?? 0;
}

/**
 * Measures several things turn by turn, each as often as asked for: A B C A B C. The order turns around at every second round, so
 * that none always runs behind the same other one.
 *
 * @param things name to what is done once; it resolves with its figure.
 */
export async function inTurns<Name extends string, Figure>(
  rounds: number,
  things: Readonly<Record<Name, () => Promise<Figure>>>,
): Promise<Record<Name, Figure[]>> {
  const names = Object.keys(things) as Name[];
  const figures = Object.fromEntries(names.map((name) => [name, [] as Figure[]])) as Record<Name, Figure[]>;
  for (let round = 0; round < rounds; round += 1) {
    for (const name of round % 2 === 0 ? names : names.toReversed()) figures[name].push(await things[name]());
  }
  return figures;
}

/** Ratios of two series that were measured in turns: of each round one. */
export function ratios(ours: readonly number[], baseline: readonly number[]): Measured {
  return summarize(ours.map((value, round) => value / (baseline[round] ?? Number.NaN)));
}

/** Seconds that work takes. */
export async function secondsOf(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}
