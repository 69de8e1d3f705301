/** Bins for a histogram of raw numbers. Pure. */

/** `count` values lie in [`start`, `end`), the last bin's end included. */
export interface Bin {
  readonly start: number;
  readonly end: number;
  readonly count: number;
}

const MAX_BINS = 30;
/** Narrower bins would lose their borders to rounding near the smallest doubles. */
const MIN_WIDTH = 1e-290;

/**
 * Equal bins on round borders (1, 2 or 5 times a power of ten), about √n and at most 31 of them, over all values; with
 * `groups`, the same borders for each group. Values of whole numbers get borders at whole numbers.
 */
export function binValues(values: readonly number[], isWhole: boolean): readonly Bin[] {
  const grid = gridOf(values, isWhole);
  return grid === undefined ? [] : countIn(grid, values);
}

/** As {@link binValues}, for each group on the borders of all together. */
export function binGroups(
  groups: ReadonlyMap<string, readonly number[]>,
  isWhole: boolean,
): ReadonlyMap<string, readonly Bin[]> {
  const grid = gridOf([...groups.values()].flat(), isWhole);
  return new Map([...groups].map(([name, values]) => [name, grid === undefined ? [] : countIn(grid, values)]));
}

/** Borders are multiples of `mantissa` × 10^`exponent`, beginning with the one numbered `first`. */
interface Grid {
  readonly mantissa: number;
  readonly exponent: number;
  readonly first: number;
  readonly count: number;
}

function gridOf(values: readonly number[], isWhole: boolean): Grid | undefined {
  if (values.length === 0) return undefined;
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const wanted = Math.min(MAX_BINS, Math.max(5, Math.ceil(Math.sqrt(values.length))));
  const width = Math.max(MIN_WIDTH, high > low ? (high - low) / wanted : Math.abs(low) / 10 || 1);
  const step = isWhole && width < 1 ? { mantissa: 1, exponent: 0 } : roundStep(width);
  const first = binNumber(step, low);
  const last = binNumber(step, high);
  // The highest value may lie on the last border and then needs no bin of its own.
  const isOnBorder = last > first && border(step, last) === high;
  return { ...step, first, count: last - first + (isOnBorder ? 0 : 1) };
}

function roundStep(width: number): Pick<Grid, "mantissa" | "exponent"> {
  const exponent = Math.floor(Math.log10(width));
  const mantissa = [1, 2, 5].find((candidate) => candidate * 10 ** exponent >= width);
  return mantissa === undefined ? { mantissa: 1, exponent: exponent + 1 } : { mantissa, exponent };
}

/** A border as the double nearest to its decimal form: 0.3, where 3 × 0.1 would be a little more. */
function border({ mantissa, exponent }: Pick<Grid, "mantissa" | "exponent">, number: number): number {
  return exponent < 0 ? (number * mantissa) / 10 ** -exponent : number * mantissa * 10 ** exponent;
}

/** The number of the border at or below a value. */
function binNumber(step: Pick<Grid, "mantissa" | "exponent">, value: number): number {
  const guess = Math.floor(value / border(step, 1));
  if (border(step, guess + 1) <= value) return guess + 1;
  return border(step, guess) > value ? guess - 1 : guess;
}

function countIn(grid: Grid, values: readonly number[]): readonly Bin[] {
  const counts = new Array<number>(grid.count).fill(0);
  for (const value of values) {
    const index = Math.min(grid.count - 1, binNumber(grid, value) - grid.first);
    counts[index] = (counts[index] ?? 0) + 1;
  }
  return counts.map((count, index) => ({
    start: border(grid, grid.first + index),
    end: border(grid, grid.first + index + 1),
    count,
  }));
}
