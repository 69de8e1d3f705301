/** Where several parties meet: one type for columns whose types differ, without losing anything (decision 14). */
import type { CellValue, FieldType } from "../data/field-types.ts";
import { AppError } from "../errors.ts";
import { powerOfTen } from "./exact-rational.ts";

const MAXIMUM_DIGITS = 38;
/** The digits of the largest 64-bit integer. */
const INTEGER_DIGITS = 19;

/** A type in words: `decimal(10, 2)`, `integer`. */
export function typeInWords(type: FieldType): string {
  return type.kind === "decimal" ? `decimal(${type.precision}, ${type.scale})` : type.kind;
}

/** Whether both are the same type. */
export function isSameType(a: FieldType, b: FieldType): boolean {
  return typeInWords(a) === typeInWords(b);
}

/**
 * The type that takes the values of both: integers widen to floats and to decimals, decimals to the larger scale within
 * 38 digits. Undefined when there is none.
 */
export function widenTypes(a: FieldType, b: FieldType): FieldType | undefined {
  if (isSameType(a, b)) return a;
  const kinds = new Set([a.kind, b.kind]);
  if (kinds.has("integer") && kinds.has("float")) return { kind: "float" };
  if (kinds.has("decimal") && (kinds.size === 1 || kinds.has("integer"))) return widenDecimals(a, b);
  return undefined;
}

/** A value of type `from` as a value of type `to`, exactly; `type_mismatch` when a number cannot be held. */
export function convertCell(from: FieldType, to: FieldType, value: CellValue): CellValue {
  if (value === null || isSameType(from, to)) return value;
  if (from.kind === "integer" && to.kind === "float") return exactDouble(value as bigint);
  const digits = scaleOf(to) - scaleOf(from);
  if (to.kind === "decimal" && (from.kind === "decimal" || from.kind === "integer") && digits >= 0) {
    return exactDecimal((value as bigint) * powerOfTen(digits), to);
  }
  throw new AppError("type_mismatch", `A ${typeInWords(from)} cannot become a ${typeInWords(to)}.`);
}

/** Digits after the point: the scale of a decimal, 0 of everything else. */
export function scaleOf(type: FieldType): number {
  return type.kind === "decimal" ? type.scale : 0;
}

function widenDecimals(a: FieldType, b: FieldType): FieldType | undefined {
  const scale = Math.max(scaleOf(a), scaleOf(b));
  const precision = Math.max(wholeDigits(a), wholeDigits(b)) + scale;
  // A column of 64-bit integers rarely uses all its digits: a value that does not fit is refused when it comes.
  if (a.kind === "integer" || b.kind === "integer") {
    return { kind: "decimal", precision: Math.min(precision, MAXIMUM_DIGITS), scale };
  }
  return precision > MAXIMUM_DIGITS ? undefined : { kind: "decimal", precision, scale };
}

function wholeDigits(type: FieldType): number {
  return type.kind === "decimal" ? type.precision - type.scale : INTEGER_DIGITS;
}

function exactDouble(value: bigint): number {
  const double = Number(value);
  if (BigInt(double) === value) return double;
  throw new AppError(
    "type_mismatch",
    "An integer of more than 53 bits meets floating-point numbers and would be changed. CAST the column to one type " +
      "in the query.",
  );
}

function exactDecimal(unscaled: bigint, type: FieldType & { kind: "decimal" }): bigint {
  const limit = powerOfTen(type.precision);
  if (unscaled < limit && unscaled > -limit) return unscaled;
  throw new AppError(
    "type_mismatch",
    `A number does not fit into ${typeInWords(type)}. CAST the column to one type in the query.`,
  );
}
