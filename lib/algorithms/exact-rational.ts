/**
 * Exact rational numbers as pairs of bigints, and their correctly rounded doubles.
 *
 * Sums and moments stay exact until the very end; only the last step rounds, once, so no order of additions can show.
 */

/** numerator / denominator, denominator > 0; not necessarily in lowest terms. */
export interface Rational {
  readonly numerator: bigint;
  readonly denominator: bigint;
}

/** A finite double taken apart: mantissa · 2^exponent, exactly. */
export interface BinaryParts {
  readonly mantissa: bigint;
  readonly exponent: number;
}

const SMALLEST_EXPONENT = -1074;
const MANTISSA_BITS = 53;
const bytes = new DataView(new ArrayBuffer(8));

/** Takes a finite double apart (IEEE 754 binary64). */
export function binaryParts(value: number): BinaryParts {
  bytes.setFloat64(0, value);
  const bits = bytes.getBigUint64(0);
  const biased = Number((bits >> 52n) & 0x7ffn);
  const fraction = bits & 0xfffffffffffffn;
  const magnitude = biased === 0 ? fraction : fraction | (1n << 52n);
  return { mantissa: bits >> 63n === 1n ? -magnitude : magnitude, exponent: Math.max(biased, 1) - 1075 };
}

/** mantissa · 2^exponent as a fraction. */
export function rationalOfBinary(mantissa: bigint, exponent: number): Rational {
  return exponent >= 0
    ? { numerator: mantissa << BigInt(exponent), denominator: 1n }
    : { numerator: mantissa, denominator: 1n << BigInt(-exponent) };
}

/** a + b. */
export function addRationals(a: Rational, b: Rational): Rational {
  if (a.denominator === b.denominator) {
    return { numerator: a.numerator + b.numerator, denominator: a.denominator };
  }
  return {
    numerator: a.numerator * b.denominator + b.numerator * a.denominator,
    denominator: a.denominator * b.denominator,
  };
}

/** The double nearest to a fraction, ties to even; infinite beyond the range of doubles, subnormal below it. */
export function nearestDouble({ numerator, denominator }: Rational): number {
  if (numerator === 0n) return 0;
  const magnitude = numerator < 0n ? -numerator : numerator;
  const unit = Math.max(floorLog2(magnitude, denominator) - (MANTISSA_BITS - 1), SMALLEST_EXPONENT);
  const rounded = divideToEven(shiftLeft(magnitude, -unit), shiftLeft(denominator, unit));
  const result = timesPowerOfTwo(Number(rounded), unit);
  return numerator < 0n ? -result : result;
}

/** The square root of a fraction ≥ 0 as a double: rounded twice, so within 1 unit in the last place. */
export function squareRoot({ numerator, denominator }: Rational): number {
  if (numerator === 0n) return 0;
  // An even power of two taken out keeps the fraction within the range of doubles.
  const half = Math.floor(floorLog2(numerator, denominator) / 2);
  const fraction = { numerator: shiftLeft(numerator, -2 * half), denominator: shiftLeft(denominator, 2 * half) };
  return timesPowerOfTwo(Math.sqrt(nearestDouble(fraction)), half);
}

/** Quotient rounded to the nearest integer, ties to even; the divisor is positive. */
export function divideToEven(dividend: bigint, divisor: bigint): bigint {
  const negative = dividend < 0n;
  const magnitude = negative ? -dividend : dividend;
  const quotient = magnitude / divisor;
  const twiceRest = (magnitude - quotient * divisor) * 2n;
  const up = twiceRest > divisor || (twiceRest === divisor && (quotient & 1n) === 1n);
  const rounded = up ? quotient + 1n : quotient;
  return negative ? -rounded : rounded;
}

/** 10^power as a bigint. */
export function powerOfTen(power: number): bigint {
  return 10n ** BigInt(power);
}

/** Shifts left by a positive count; a negative one leaves the number alone, as the other side of a fraction is shifted. */
function shiftLeft(value: bigint, count: number): bigint {
  return count > 0 ? value << BigInt(count) : value;
}

/** floor(log2(numerator / denominator)), both positive. */
function floorLog2(numerator: bigint, denominator: bigint): number {
  const guess = bitLength(numerator) - bitLength(denominator);
  return shiftLeft(numerator, -guess) >= shiftLeft(denominator, guess) ? guess : guess - 1;
}

function bitLength(value: bigint): number {
  const hex = value.toString(16);
  return hex.length * 4 - Math.clz32(Number.parseInt(hex[0] ?? "0", 16)) + 28;
}

/** value · 2^exponent; in two steps where 2^exponent itself has no normal double. */
function timesPowerOfTwo(value: number, exponent: number): number {
  if (exponent < -1022) return value * 2 ** -1022 * 2 ** (exponent + 1022);
  if (exponent > 1023) return value * 2 ** 1023 * 2 ** (exponent - 1023);
  return value * 2 ** exponent;
}
