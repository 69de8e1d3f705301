/** What every way of binning offers. */
import type { CellValue } from "../data/field-types.ts";

/** A way to put values of one type into bins. */
export interface Binning {
  /** The key of the value's bin. */
  keyOf(value: NonNullable<CellValue>): string;
  /** Start and end of the bin with this key; undefined when no bin has it. */
  ends(key: string): readonly [CellValue, CellValue] | undefined;
}
