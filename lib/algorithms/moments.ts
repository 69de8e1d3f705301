/**
 * sum, average, variance and standard deviation, out of exact sums of the values and of their squares.
 *
 * Nothing is rounded before the last step: integers, decimals, dates and timestamps are summed as bigints, floats by
 * {@link ExactFloatSum}. The variance is (n·Σx² − (Σx)²) / (n·(n − 1)) over fractions, so the cancellation that makes this
 * formula useless in floating point (Chan, Golub, LeVeque, "Algorithms for computing the sample variance", The American
 * Statistician 37, 1983) does not arise.
 */
import { Type } from "@sinclair/typebox";
import type { CellValue, FieldType } from "../data/field-types.ts";
import { AppError } from "../errors.ts";
import { addRationals, divideToEven, nearestDouble, powerOfTen, squareRoot, type Rational } from "./exact-rational.ts";
import { ExactFloatSum, ExactFloatSumJson } from "./exact-sum.ts";
import { checkState } from "./state-check.ts";
import type { Algorithm, Json, Summary } from "./summary.ts";
import { scaleOf } from "./widening.ts";

const MICROSECONDS_PER_DAY = 86_400_000_000n;

/** Sum; exact for integers and decimals, rounded once for floats. The sum of nothing is null, as in SQL. */
export const sum: Algorithm = {
  name: "sum",
  description: "Sum of the values; null when there are none.",
  mergeable: true,
  shape: "value",
  accepts: isNumeric,
  acceptsInWords: "integer, decimal and float",
  resultType: (type) => (type.kind === "decimal" ? { kind: "decimal", precision: 38, scale: type.scale } : type),
  start: ({ type }) => new MomentsSummary(type, 1, finishSum),
};

/** Arithmetic mean, rounded once; of dates and timestamps a timestamp. */
export const average: Algorithm = {
  name: "average",
  description: "Arithmetic mean of the values; of dates and timestamps, an instant.",
  mergeable: true,
  shape: "value",
  accepts: (type) => isNumeric(type) || isTime(type),
  acceptsInWords: "integer, decimal, float, date and timestamp",
  resultType: meanType,
  start: ({ type }) => new MomentsSummary(type, 1, finishAverage),
};

/** Sample variance (divided by n − 1); null for fewer than two values. */
export const variance: Algorithm = {
  name: "variance",
  description: "Sample variance (divided by n − 1); null for fewer than two values.",
  mergeable: true,
  shape: "value",
  accepts: isNumeric,
  acceptsInWords: "integer, decimal and float",
  resultType: () => ({ kind: "float" }),
  start: ({ type }) => new MomentsSummary(type, 2, (moments) => finishVariance(moments, nearestDouble)),
};

/** Square root of the sample variance; null for fewer than two values. */
export const standardDeviation: Algorithm = {
  name: "standardDeviation",
  description: "Sample standard deviation (divided by n − 1); null for fewer than two values.",
  mergeable: true,
  shape: "value",
  accepts: isNumeric,
  acceptsInWords: "integer, decimal and float",
  resultType: () => ({ kind: "float" }),
  start: ({ type }) => new MomentsSummary(type, 2, (moments) => finishVariance(moments, squareRoot)),
};

/** Whether numbers are added up as such: integer, decimal, float. */
export function isNumeric(type: FieldType): boolean {
  return type.kind === "integer" || type.kind === "decimal" || type.kind === "float";
}

/** Whether it is a date or a timestamp. */
export function isTime(type: FieldType): boolean {
  return type.kind === "date" || type.kind === "timestamp";
}

/** The type of a mean of such values. */
export function meanType(type: FieldType): FieldType {
  return isTime(type) ? { kind: "timestamp" } : { kind: "float" };
}

/** A mean as a value of {@link meanType}: `total` is in the unit of the type's values, unscaled. */
export function meanCell(type: FieldType, total: Rational, count: bigint): CellValue {
  const { numerator } = total;
  const denominator = total.denominator * count;
  if (!isTime(type)) return nearestDouble({ numerator, denominator });
  return divideToEven(type.kind === "date" ? numerator * MICROSECONDS_PER_DAY : numerator, denominator);
}

/** The exact sum of values of any numeric types, or of their squares. */
interface ExactTotal {
  readonly count: bigint;
  readonly sum: Rational;
  readonly squares: Rational;
  /** NaN or an infinity when one of the values decides so. */
  readonly special: number | undefined;
}

function finishSum({ count: n, sum: total, special }: ExactTotal, type: FieldType): CellValue {
  if (n === 0n) return null;
  if (type.kind === "float") return special ?? nearestDouble(total);
  return (total.numerator * powerOfTen(scaleOf(type))) / total.denominator;
}

function finishAverage({ count: n, sum: total, special }: ExactTotal, type: FieldType): CellValue {
  if (n === 0n) return null;
  return special ?? meanCell(type, total, n);
}

function finishVariance(total: ExactTotal, root: (value: Rational) => number): CellValue {
  const { count: n, sum: first, squares, special } = total;
  if (n < 2n) return null;
  if (special !== undefined) return Number.NaN;
  const square = { numerator: -(first.numerator ** 2n), denominator: first.denominator ** 2n };
  const spread = addRationals({ numerator: squares.numerator * n, denominator: squares.denominator }, square);
  return root({ numerator: spread.numerator, denominator: spread.denominator * n * (n - 1n) });
}

const State = Type.Object(
  {
    n: Type.String({ pattern: "^[0-9]{1,30}$" }),
    /** Sums of whole numbers, in units of 10^-scale and 10^(-2·scale). */
    sum: Type.String({ pattern: "^-?[0-9]{1,200}$" }),
    squares: Type.Optional(Type.String({ pattern: "^[0-9]{1,400}$" })),
    floatSum: Type.Optional(ExactFloatSumJson),
    floatSquares: Type.Optional(ExactFloatSumJson),
  },
  { additionalProperties: false },
);

type Finish = (total: ExactTotal, type: FieldType) => CellValue;

/** Exact count, sum and (for degree 2) sum of squares. */
class MomentsSummary implements Summary {
  readonly type: FieldType;
  readonly #degree: 1 | 2;
  readonly #finish: Finish;
  readonly #isFloat: boolean;
  #count = 0n;
  #sum = 0n;
  #squares = 0n;
  /** Only floats have them: a hundred thousand groups of integers need not carry empty ones. */
  readonly #floatSum: ExactFloatSum | undefined;
  readonly #floatSquares: ExactFloatSum | undefined;

  constructor(type: FieldType, degree: 1 | 2, finish: Finish) {
    this.type = type;
    this.#degree = degree;
    this.#finish = finish;
    this.#isFloat = type.kind === "float";
    this.#floatSum = this.#isFloat ? new ExactFloatSum() : undefined;
    this.#floatSquares = this.#isFloat && degree === 2 ? new ExactFloatSum() : undefined;
  }

  add(value: CellValue): void {
    if (value === null) return;
    this.#count += 1n;
    if (this.#isFloat) this.#addFloat(value as number);
    else this.#addWhole(typeof value === "number" ? BigInt(value) : (value as bigint));
  }

  merge(other: MomentsSummary): void {
    const digits = scaleOf(this.type) - scaleOf(other.type);
    if (digits < 0) throw new AppError("internal", "A summary was merged into one of a smaller scale.");
    const factor = powerOfTen(digits);
    this.#count += other.#count;
    this.#sum += other.#sum * factor;
    this.#squares += other.#squares * factor * factor;
    if (other.#floatSum) this.#floatSum?.merge(other.#floatSum);
    if (other.#floatSquares) this.#floatSquares?.merge(other.#floatSquares);
  }

  finish(): CellValue {
    const unit = powerOfTen(scaleOf(this.type));
    return this.#finish(
      {
        count: this.#count,
        sum: withFloats({ numerator: this.#sum, denominator: unit }, this.#floatSum),
        squares: withFloats({ numerator: this.#squares, denominator: unit * unit }, this.#floatSquares),
        special: this.#floatSum?.special,
      },
      this.type,
    );
  }

  toJson(): Json {
    return {
      n: this.#count.toString(),
      sum: this.#sum.toString(),
      ...(this.#degree === 2 ? { squares: this.#squares.toString() } : {}),
      ...(this.#floatSum ? { floatSum: this.#floatSum.toJson() } : {}),
      ...(this.#floatSquares ? { floatSquares: this.#floatSquares.toJson() } : {}),
    };
  }

  load(json: unknown): void {
    const state = checkState(State, "The state of a sum", json);
    this.#count = BigInt(state.n);
    this.#sum = BigInt(state.sum);
    this.#squares = BigInt(state.squares ?? "0");
    if (state.floatSum) this.#floatSum?.merge(ExactFloatSum.fromJson(state.floatSum));
    if (state.floatSquares) this.#floatSquares?.merge(ExactFloatSum.fromJson(state.floatSquares));
  }

  #addFloat(value: number): void {
    this.#floatSum?.add(value);
    this.#floatSquares?.addSquare(value);
  }

  #addWhole(value: bigint): void {
    this.#sum += value;
    if (this.#degree === 2) this.#squares += value * value;
  }
}

function withFloats(whole: Rational, floats: ExactFloatSum | undefined): Rational {
  return floats ? addRationals(whole, floats.toRational()) : whole;
}
