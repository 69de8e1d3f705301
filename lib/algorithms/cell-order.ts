/** The order of values, the same at every party: results are sorted by it, and minima and maxima follow it. */
import type { CellValue } from "../data/field-types.ts";

/**
 * Compares two values of one type: negative, 0 or positive. Null comes first; NaN after every number; -0 before 0 (as
 * totalOrder of IEEE 754), so that no placement can show; false before true; text by Unicode code points, as SQLite's
 * BINARY collation does over UTF-8.
 */
export function compareCells(a: CellValue, b: CellValue): number {
  if (a === null || b === null) return a === b ? 0 : a === null ? -1 : 1;
  if (typeof a === "string" && typeof b === "string") return compareText(a, b);
  if (typeof a === "number" && typeof b === "number") return compareFloats(a, b);
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Compares two rows value by value. */
export function compareRows(a: readonly CellValue[], b: readonly CellValue[]): number {
  for (let i = 0; i < a.length; i++) {
    const order = compareCells(a[i] ?? null, b[i] ?? null);
    if (order !== 0) return order;
  }
  return 0;
}

function compareFloats(a: number, b: number): number {
  if (a < b) return -1;
  if (a > b) return 1;
  if (a === b) return a !== 0 ? 0 : Number(Object.is(b, -0)) - Number(Object.is(a, -0));
  return Number(Number.isNaN(a)) - Number(Number.isNaN(b));
}

function compareText(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const [unitOfA, unitOfB] = [a.charCodeAt(i), b.charCodeAt(i)];
    if (unitOfA !== unitOfB) return codePointRank(unitOfA) - codePointRank(unitOfB);
  }
  return a.length - b.length;
}

/** UTF-16 puts surrogates (of code points beyond U+FFFF) before U+E000; code point order puts them last. */
function codePointRank(unit: number): number {
  if (unit < 0xd800) return unit;
  return unit < 0xe000 ? unit + 0x2000 : unit - 0x800;
}
