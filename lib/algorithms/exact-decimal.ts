/** Decimal numbers of any size, exactly: what the edges of bins are compared in. */
import type { CellValue, FieldType } from "../data/field-types.ts";
import { nearestDouble, powerOfTen } from "./exact-rational.ts";

/** digits · 10^exponent. */
export interface ExactDecimal {
  readonly digits: bigint;
  readonly exponent: number;
}

/**
 * A number of this type as a decimal. A float stands for the shortest decimal that reads back as the same float, which is how
 * people see it: 0.3 is in the bin that starts at 0.3.
 */
export function decimalOfCell(type: FieldType, value: NonNullable<CellValue>): ExactDecimal {
  if (type.kind === "float") return decimalOfNumber(value as number);
  return { digits: BigInt(value), exponent: type.kind === "decimal" ? -type.scale : 0 };
}

/** A finite number as the shortest decimal that reads back as it. */
export function decimalOfNumber(value: number): ExactDecimal {
  const [mantissa = "0", exponent = "0"] = value.toExponential().split("e");
  const [whole = "0", fraction = ""] = mantissa.split(".");
  return { digits: BigInt(whole + fraction), exponent: Number(exponent) - fraction.length };
}

/** The nearest double. */
export function numberOfDecimal({ digits, exponent }: ExactDecimal): number {
  return exponent >= 0
    ? nearestDouble({ numerator: digits * powerOfTen(exponent), denominator: 1n })
    : nearestDouble({ numerator: digits, denominator: powerOfTen(-exponent) });
}

/** a + factor · b. */
export function addDecimals(a: ExactDecimal, b: ExactDecimal, factor = 1n): ExactDecimal {
  const exponent = Math.min(a.exponent, b.exponent);
  return { digits: digitsAt(a, exponent) + factor * digitsAt(b, exponent), exponent };
}

/** Negative, 0 or positive, as a is below, at or above b. */
export function compareDecimals(a: ExactDecimal, b: ExactDecimal): number {
  const { digits } = addDecimals(a, b, -1n);
  return digits < 0n ? -1 : digits > 0n ? 1 : 0;
}

/** floor(a / b) for positive b. */
export function floorDivideDecimals(a: ExactDecimal, b: ExactDecimal): bigint {
  const exponent = Math.min(a.exponent, b.exponent);
  const [dividend, divisor] = [digitsAt(a, exponent), digitsAt(b, exponent)];
  const quotient = dividend / divisor;
  return dividend < 0n && quotient * divisor !== dividend ? quotient - 1n : quotient;
}

function digitsAt(value: ExactDecimal, exponent: number): bigint {
  return value.digits * powerOfTen(value.exponent - exponent);
}
