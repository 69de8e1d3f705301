/**
 * Exact sums of doubles: every order of additions and every placement gives the same bits.
 *
 * Inside, an expansion: a list of doubles that do not overlap and whose sum is exact, grown by error-free
 * transformations (J. R. Shewchuk, "Adaptive Precision Floating-Point Arithmetic and Fast Robust Geometric Predicates",
 * Discrete & Computational Geometry 18, 1997, sections 2.3 and 2.4). Squares are split exactly into two doubles
 * (T. J. Dekker, "A floating-point technique for extending the available precision", Numerische Mathematik 18, 1971).
 * Values so large or small that these transformations would overflow or underflow go into a bigint instead.
 */
import { Type, type Static } from "@sinclair/typebox";
import { binaryParts, nearestDouble, rationalOfBinary, type BinaryParts, type Rational } from "./exact-rational.ts";

/** The exact, canonical JSON form: a sum is mantissa (hexadecimal) · 2^exponent, the mantissa odd or 0. */
export const ExactFloatSumJson = Type.Object(
  {
    m: Type.String({ pattern: "^-?(0|[1-9a-f][0-9a-f]*)$", maxLength: 2048 }),
    e: Type.Integer({ minimum: -2148, maximum: 2148 }),
    /** Which values that are no numbers were among the summands. */
    s: Type.Optional(Type.Array(Type.Union([Type.Literal("nan"), Type.Literal("inf"), Type.Literal("-inf")]))),
  },
  { additionalProperties: false },
);
export type ExactFloatSumJson = Static<typeof ExactFloatSumJson>;

/** Below this, 2^53 summands cannot overflow. */
const LARGEST_IN_EXPANSION = 2 ** 960;
/** Between these, the square and its rounding error are both doubles. */
const LARGEST_SQUARED = 2 ** 480;
const SMALLEST_SQUARED = 2 ** -480;
/** Dekker's splitting constant for 53 bits: 2^27 + 1. */
const SPLITTER = 134_217_729;

/** A mergeable exact sum of doubles, or of their squares. NaN and infinities take over as IEEE 754 says, in any order. */
export class ExactFloatSum {
  #expansion: number[] = [];
  /** What the expansion cannot hold: #mantissa · 2^#exponent. */
  #mantissa = 0n;
  #exponent = 0;
  #hasNaN = false;
  #hasInfinity = false;
  #hasMinusInfinity = false;

  /** Adds a value. */
  add(value: number): void {
    if (Math.abs(value) < LARGEST_IN_EXPANSION) this.#grow(value);
    else if (Number.isFinite(value)) this.#addParts(binaryParts(value).mantissa, binaryParts(value).exponent);
    else this.#addSpecial(value);
  }

  /** Adds a value's square, without rounding it. */
  addSquare(value: number): void {
    const magnitude = Math.abs(value);
    if (magnitude <= LARGEST_SQUARED && magnitude >= SMALLEST_SQUARED) {
      const square = value * value;
      this.#grow(square);
      this.#grow(squareError(value, square));
    } else if (Number.isFinite(value)) {
      const { mantissa, exponent } = binaryParts(value);
      this.#addParts(mantissa * mantissa, 2 * exponent);
    } else {
      this.#addSpecial(magnitude);
    }
  }

  /** Adds all of another sum. */
  merge(other: ExactFloatSum): void {
    for (const part of other.#expansion) this.#grow(part);
    this.#addParts(other.#mantissa, other.#exponent);
    this.#hasNaN ||= other.#hasNaN;
    this.#hasInfinity ||= other.#hasInfinity;
    this.#hasMinusInfinity ||= other.#hasMinusInfinity;
  }

  /** NaN or an infinity when the summands decide so; undefined when the sum is a number. */
  get special(): number | undefined {
    if (this.#hasNaN || (this.#hasInfinity && this.#hasMinusInfinity)) return Number.NaN;
    if (this.#hasInfinity) return Number.POSITIVE_INFINITY;
    return this.#hasMinusInfinity ? Number.NEGATIVE_INFINITY : undefined;
  }

  /** The exact sum of the finite summands. */
  toRational(): Rational {
    const { mantissa, exponent } = this.#canonical();
    return rationalOfBinary(mantissa, exponent);
  }

  /** The sum, rounded once. */
  toNumber(): number {
    return this.special ?? nearestDouble(this.toRational());
  }

  toJson(): ExactFloatSumJson {
    const { mantissa, exponent } = this.#canonical();
    const specials: ("nan" | "inf" | "-inf")[] = [];
    if (this.#hasNaN) specials.push("nan");
    if (this.#hasInfinity) specials.push("inf");
    if (this.#hasMinusInfinity) specials.push("-inf");
    return { m: mantissa.toString(16), e: exponent, ...(specials.length > 0 ? { s: specials } : {}) };
  }

  /** The sum that a JSON form (checked against its schema) stands for. */
  static fromJson(json: ExactFloatSumJson): ExactFloatSum {
    const sum = new ExactFloatSum();
    const negative = json.m.startsWith("-");
    const magnitude = BigInt(`0x${negative ? json.m.slice(1) : json.m}`);
    sum.#addParts(negative ? -magnitude : magnitude, json.e);
    sum.#hasNaN = json.s?.includes("nan") ?? false;
    sum.#hasInfinity = json.s?.includes("inf") ?? false;
    sum.#hasMinusInfinity = json.s?.includes("-inf") ?? false;
    return sum;
  }

  /** Shewchuk's GROW-EXPANSION, leaving out zeros. */
  #grow(value: number): void {
    const expansion = this.#expansion;
    let carried = value;
    let kept = 0;
    for (let i = 0; i < expansion.length; i++) {
      const part = expansion[i] as number;
      const sum = carried + part;
      // FAST-TWO-SUM: what rounding lost, exactly, if the larger magnitude comes first.
      const error = Math.abs(carried) < Math.abs(part) ? carried - (sum - part) : part - (sum - carried);
      if (error !== 0) expansion[kept++] = error;
      carried = sum;
    }
    if (carried !== 0) expansion[kept++] = carried;
    expansion.length = kept;
  }

  #addParts(mantissa: bigint, exponent: number): void {
    ({ mantissa: this.#mantissa, exponent: this.#exponent } = added(
      this.#mantissa,
      this.#exponent,
      mantissa,
      exponent,
    ));
  }

  #addSpecial(value: number): void {
    if (Number.isNaN(value)) this.#hasNaN = true;
    else if (value > 0) this.#hasInfinity = true;
    else this.#hasMinusInfinity = true;
  }

  /** The one form of this value, whatever order it came about in. */
  #canonical(): BinaryParts {
    let total: BinaryParts = { mantissa: this.#mantissa, exponent: this.#exponent };
    for (const part of this.#expansion) {
      const { mantissa, exponent } = binaryParts(part);
      total = added(total.mantissa, total.exponent, mantissa, exponent);
    }
    if (total.mantissa === 0n) return { mantissa: 0n, exponent: 0 };
    const zeros = trailingZeros(total.mantissa);
    return { mantissa: total.mantissa >> BigInt(zeros), exponent: total.exponent + zeros };
  }
}

/** The sum of two numbers mantissa · 2^exponent, at the smaller exponent. */
function added(mantissa: bigint, exponent: number, otherMantissa: bigint, otherExponent: number): BinaryParts {
  if (otherMantissa === 0n) return { mantissa, exponent };
  if (mantissa === 0n) return { mantissa: otherMantissa, exponent: otherExponent };
  return exponent <= otherExponent
    ? { mantissa: mantissa + (otherMantissa << BigInt(otherExponent - exponent)), exponent }
    : { mantissa: otherMantissa + (mantissa << BigInt(exponent - otherExponent)), exponent: otherExponent };
}

/** value² − square, exactly, where `square` is value² as rounded (Dekker 1971; Shewchuk 1997, TWO-PRODUCT). */
function squareError(value: number, square: number): number {
  const carry = SPLITTER * value;
  const high = carry - (carry - value);
  const low = value - high;
  return low * low - (square - high * high - 2 * (high * low));
}

/** How many zero bits the number ends with; the number is not 0. */
function trailingZeros(value: bigint): number {
  const lowest = value & -value;
  return lowest.toString(16).length * 4 - 4 + Math.log2(Number.parseInt(lowest.toString(16)[0] ?? "1", 16));
}
