/** median: the middle value, or the mean of the two middle ones. It needs all values in one place. */
import type { CellValue, FieldType } from "../data/field-types.ts";
import { AppError } from "../errors.ts";
import { addRationals, binaryParts, powerOfTen, rationalOfBinary, type Rational } from "./exact-rational.ts";
import { isNumeric, isTime, meanCell, meanType } from "./moments.ts";
import type { Algorithm, Json, Summary, SummaryContext, ValueStore } from "./summary.ts";
import { scaleOf } from "./widening.ts";

/**
 * The median. Only exact where the rows meet (decision 15): there is no summary of bounded size that gives the exact
 * median of a union (Munro, Paterson, "Selection and sorting with limited storage", 1980). NaN if there is one among the values.
 */
export const median: Algorithm = {
  name: "median",
  description: "Middle value, or the mean of the two middle ones; only where all rows meet (dataThroughTtp).",
  mergeable: false,
  shape: "value",
  accepts: (type) => isNumeric(type) || isTime(type),
  acceptsInWords: "integer, decimal, float, date and timestamp",
  resultType: meanType,
  start: (context) => new MedianSummary(context),
};

class MedianSummary implements Summary {
  readonly type: FieldType;
  readonly #values: ValueStore;
  readonly #list: number;
  #hasNaN = false;

  constructor({ type, values }: SummaryContext) {
    if (values === undefined) throw notMergeable();
    this.type = type;
    this.#values = values;
    this.#list = values.open(type);
  }

  add(value: CellValue): void {
    if (value === null) return;
    if (Number.isNaN(value)) this.#hasNaN = true;
    else this.#values.add(this.#list, value as bigint | number);
  }

  merge(): void {
    throw notMergeable();
  }

  finish(): CellValue {
    if (this.#hasNaN) return Number.NaN;
    const middle = this.#values.middle(this.#list);
    if (middle === undefined) return null;
    const [lower, upper] = middle;
    // Also what is infinite has a mean: ∞ and ∞ is ∞, −∞ and ∞ is not a number.
    if (!Number.isFinite(Number(lower)) || !Number.isFinite(Number(upper))) return Number(lower) + Number(upper);
    return meanCell(this.type, addRationals(this.#rational(lower), this.#rational(upper)), 2n);
  }

  toJson(): Json {
    throw notMergeable();
  }

  load(): void {
    throw notMergeable();
  }

  #rational(value: bigint | number): Rational {
    if (typeof value === "bigint") return { numerator: value, denominator: powerOfTen(scaleOf(this.type)) };
    const { mantissa, exponent } = binaryParts(value);
    return rationalOfBinary(mantissa, exponent);
  }
}

function notMergeable(): AppError {
  return new AppError(
    "operation_denied",
    "A median cannot be pooled without the rows. Ask for it under the archetype dataThroughTtp.",
  );
}
