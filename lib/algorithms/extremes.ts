/** min and max: the smallest and the largest value, by the order of `cell-order.ts`. */
import type { CellValue, FieldType } from "../data/field-types.ts";
import { CellJson, cellAsJson, cellFromJson } from "./cell-json.ts";
import { compareCells } from "./cell-order.ts";
import { checkState } from "./state-check.ts";
import type { Algorithm, Json, Summary } from "./summary.ts";
import { convertCell } from "./widening.ts";

/** The smallest value; exact. A NaN among the values is the result. */
export const min = extreme("min", "Smallest value; of text by Unicode code points, false before true.", -1);
/** The largest value; exact. A NaN among the values is the result. */
export const max = extreme("max", "Largest value; of text by Unicode code points, false before true.", 1);

function extreme(name: string, description: string, sign: 1 | -1): Algorithm {
  return {
    name,
    description,
    mergeable: true,
    shape: "value",
    accepts: () => true,
    acceptsInWords: "every type",
    resultType: (type) => type,
    start: ({ type }) => new ExtremeSummary(type, sign),
  };
}

class ExtremeSummary implements Summary {
  readonly type: FieldType;
  readonly #sign: 1 | -1;
  #best: CellValue = null;

  constructor(type: FieldType, sign: 1 | -1) {
    this.type = type;
    this.#sign = sign;
  }

  add(value: CellValue): void {
    if (value !== null && (this.#best === null || this.#wins(value))) this.#best = value;
  }

  merge(other: ExtremeSummary): void {
    this.add(convertCell(other.type, this.type, other.#best));
  }

  finish(): CellValue {
    return this.#best;
  }

  toJson(): Json {
    return cellAsJson(this.#best);
  }

  load(json: unknown): void {
    this.#best = cellFromJson(this.type, checkState(CellJson, "The state of an extreme", json));
  }

  #wins(value: CellValue): boolean {
    if (Number.isNaN(this.#best)) return false;
    return Number.isNaN(value) || compareCells(value, this.#best) * this.#sign > 0;
  }
}
