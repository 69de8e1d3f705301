/**
 * What algorithms must answer, computed over all rows at once in fractions of big integers. Written without anything of
 * lib/algorithms, so that the two do not share their errors.
 */

/** A column's type, as a data set declares it. */
export type OracleType =
  | { readonly type: "integer" | "float" | "text" | "boolean" | "date" | "timestamp" }
  | { readonly type: "decimal"; readonly scale: number };

/** Integer: bigint; decimal: bigint in units of 10^-scale; date: `yyyy-mm-dd`; timestamp: bigint of microseconds. */
export type OracleValue = bigint | number | string | boolean | null;

/** A fraction; the denominator is positive. */
export interface Fraction {
  readonly n: bigint;
  readonly d: bigint;
}

/** A cell of a JSON answer. */
export type JsonCell = string | number | boolean | null;

/** A right answer: the very value, or a number that may be off by 1e-9 of itself. */
export type Expected =
  { readonly exactly: OracleValue; readonly type: OracleType } | { readonly near: number; readonly isInstant: boolean };

const INTEGER: OracleType = { type: "integer" };
const RELATIVE_ERROR = 1e-9;

/** The answer of an algorithm of one value over a column's values, nulls among them. */
export function expectedValue(algorithm: string, type: OracleType, column: readonly OracleValue[]): Expected {
  const values = column.filter((value) => value !== null);
  const none: Expected = { exactly: null, type };
  switch (algorithm) {
    case "count":
      return { exactly: BigInt(values.length), type: INTEGER };
    case "min":
    case "max":
      return { exactly: extreme(values, algorithm === "min" ? -1 : 1), type };
    case "sum": {
      if (values.length === 0) return none;
      if (type.type !== "float") return { exactly: values.reduce<bigint>((sum, v) => sum + (v as bigint), 0n), type };
      return { near: toNumber(sumOf(type, values)), isInstant: false };
    }
    case "average": {
      if (values.length === 0) return none;
      return { near: toNumber(over(sumOf(type, values), values.length)), isInstant: isTime(type) };
    }
    case "variance":
    case "standardDeviation": {
      if (values.length < 2) return none;
      const variance = varianceOf(type, values);
      return { near: algorithm === "variance" ? toNumber(variance) : squareRoot(variance), isInstant: false };
    }
    case "median": {
      if (values.length === 0) return none;
      const sorted = values.map((value) => fractionOf(type, value)).sort((a, b) => sign(minus(a, b)));
      const [low, high] = [sorted[(sorted.length - 1) >> 1], sorted[sorted.length >> 1]] as [Fraction, Fraction];
      return { near: toNumber(over(plus(low, high), 2)), isInstant: isTime(type) };
    }
    default:
      throw new Error(`The oracle does not know the algorithm ${algorithm}.`);
  }
}

/** Why a cell of a JSON answer is not what is expected; undefined when it is. */
export function differenceFrom(expected: Expected, cell: JsonCell | undefined): string | undefined {
  if ("exactly" in expected) {
    const found = cell === null || cell === undefined ? cell : readCell(expected.type, cell);
    return Object.is(found, expected.exactly) ? undefined : `${String(cell)} instead of ${String(expected.exactly)}`;
  }
  const found = expected.isInstant ? Number(microsecondsOf(String(cell))) : Number(cell);
  const limit = Math.max(Math.abs(expected.near) * RELATIVE_ERROR, expected.isInstant ? 1 : Number.MIN_VALUE);
  const isNear = cell !== null && (found === expected.near || Math.abs(found - expected.near) <= limit);
  return isNear ? undefined : `${String(cell)} instead of about ${String(expected.near)}`;
}

/** The value that a cell of a JSON answer stands for. */
export function readCell(type: OracleType, cell: JsonCell): OracleValue {
  if (cell === null) return null;
  switch (type.type) {
    case "integer":
      return BigInt(cell);
    case "decimal": {
      const text = typeof cell === "number" ? cell.toFixed(type.scale) : String(cell);
      const [whole = "", fraction = ""] = text.split(".");
      return BigInt(whole.replace("-", "") + fraction.padEnd(type.scale, "0")) * (text.startsWith("-") ? -1n : 1n);
    }
    case "float":
      return Number(cell) + 0;
    case "timestamp":
      return microsecondsOf(String(cell));
    case "text":
    case "boolean":
    case "date":
      return cell;
  }
}

/** Microseconds since 1970 of an RFC 3339 instant in UTC. */
export function microsecondsOf(text: string): bigint {
  const [seconds = "", fraction = ""] = text.replace("Z", "").split(".");
  return BigInt(Date.parse(`${seconds}Z`)) * 1000n + BigInt(fraction.padEnd(6, "0"));
}

/** A number, or an instant in microseconds, as a fraction. */
export function fractionOf(type: OracleType, value: OracleValue): Fraction {
  switch (type.type) {
    case "integer":
    case "timestamp":
      return { n: value as bigint, d: 1n };
    case "decimal":
      return { n: value as bigint, d: 10n ** BigInt(type.scale) };
    case "date":
      return { n: BigInt(Date.parse(`${value as string}T00:00:00Z`)) * 1000n, d: 1n };
    case "float":
      return fractionOfDouble(value as number);
    case "text":
    case "boolean":
      throw new Error(`A ${type.type} is no number.`);
  }
}

/** a + b. */
export function plus(a: Fraction, b: Fraction): Fraction {
  return { n: a.n * b.d + b.n * a.d, d: a.d * b.d };
}

/** a − b. */
export function minus(a: Fraction, b: Fraction): Fraction {
  return plus(a, { n: -b.n, d: b.d });
}

/** Negative, 0 or positive. */
export function sign({ n }: Fraction): number {
  return n < 0n ? -1 : n > 0n ? 1 : 0;
}

/** The nearest double, or one beside it. */
export function toNumber({ n, d }: Fraction): number {
  if (n === 0n) return 0;
  const magnitude = n < 0n ? -n : n;
  // 80 bits of the quotient are more than a double has.
  let power = bits(magnitude) - bits(d) - 80;
  const quotient = power < 0 ? (magnitude << BigInt(-power)) / d : magnitude / (d << BigInt(power));
  let result = Number(quotient);
  for (; power > 0; power -= Math.min(power, 500)) result *= 2 ** Math.min(power, 500);
  for (; power < 0; power += Math.min(-power, 500)) result /= 2 ** Math.min(-power, 500);
  return n < 0n ? -result : result;
}

function sumOf(type: OracleType, values: readonly OracleValue[]): Fraction {
  return values.reduce<Fraction>((sum, value) => reduced(plus(sum, fractionOf(type, value))), { n: 0n, d: 1n });
}

/** Two passes: the mean, then the squares of the distances from it. */
function varianceOf(type: OracleType, values: readonly OracleValue[]): Fraction {
  const mean = over(sumOf(type, values), values.length);
  const squares = values.reduce<Fraction>(
    (sum, value) => {
      const { n, d } = minus(fractionOf(type, value), mean);
      return reduced(plus(sum, { n: n * n, d: d * d }));
    },
    { n: 0n, d: 1n },
  );
  return over(squares, values.length - 1);
}

function squareRoot({ n, d }: Fraction): number {
  if (n === 0n) return 0;
  // √(n/d) with about 70 bits: the integer root of n·4^shift/d, times 2^-shift.
  const shift = 70 - ((bits(n) - bits(d)) >> 1);
  const scaled = shift >= 0 ? (n << BigInt(2 * shift)) / d : n / (d << BigInt(-2 * shift));
  let root = 1n << BigInt((bits(scaled) >> 1) + 1);
  for (;;) {
    const next = (root + scaled / root) >> 1n;
    if (next >= root) break;
    root = next;
  }
  return toNumber(shift >= 0 ? { n: root, d: 1n << BigInt(shift) } : { n: root << BigInt(-shift), d: 1n });
}

function extreme(values: readonly OracleValue[], direction: 1 | -1): OracleValue {
  return values.reduce((best, value) => (best === null || compare(value, best) * direction > 0 ? value : best), null);
}

/** Of values of one type that are not null; text by its UTF-8 bytes. */
function compare(a: OracleValue, b: OracleValue): number {
  if (typeof a === "string") return Buffer.compare(Buffer.from(a), Buffer.from(b as string));
  return (a as bigint) < (b as bigint) ? -1 : a === b ? 0 : 1;
}

function isTime({ type }: OracleType): boolean {
  return type === "date" || type === "timestamp";
}

function over({ n, d }: Fraction, divisor: number): Fraction {
  return { n, d: d * BigInt(divisor) };
}

/** Denominators that are powers of two would grow without end. */
function reduced({ n, d }: Fraction): Fraction {
  let [a, b] = [n < 0n ? -n : n, d];
  while (b !== 0n) [a, b] = [b, a % b];
  return a <= 1n ? { n, d } : { n: n / a, d: d / a };
}

/** By doubling until it is whole: every finite double is a whole number over a power of two. */
function fractionOfDouble(value: number): Fraction {
  let [whole, exponent] = [value, 0];
  while (!Number.isInteger(whole)) [whole, exponent] = [whole * 2, exponent + 1];
  return { n: BigInt(whole), d: 1n << BigInt(exponent) };
}

function bits(value: bigint): number {
  return value.toString(2).length;
}
