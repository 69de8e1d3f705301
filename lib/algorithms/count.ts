/** count: how many values there are. */
import { Type } from "@sinclair/typebox";
import type { CellValue, FieldType } from "../data/field-types.ts";
import { checkState } from "./state-check.ts";
import type { Algorithm, Json, Summary } from "./summary.ts";

const State = Type.String({ pattern: "^[0-9]{1,30}$" });

/** Number of values that are not null; exact. */
export const count: Algorithm = {
  name: "count",
  description: "Number of values that are not null; of `*`, the number of rows.",
  mergeable: true,
  shape: "value",
  accepts: () => true,
  acceptsInWords: "every type",
  resultType: () => ({ kind: "integer" }),
  start: ({ type }) => new CountSummary(type),
};

class CountSummary implements Summary {
  readonly type: FieldType;
  /** Exact up to 2^53, which rows added one by one do not reach. */
  #added = 0;
  #merged = 0n;

  constructor(type: FieldType) {
    this.type = type;
  }

  add(value: CellValue): void {
    if (value !== null) this.#added += 1;
  }

  merge(other: CountSummary): void {
    this.#merged += other.finish();
  }

  finish(): bigint {
    return this.#merged + BigInt(this.#added);
  }

  toJson(): Json {
    return this.finish().toString();
  }

  load(json: unknown): void {
    this.#merged = BigInt(checkState(State, "The state of a count", json));
  }
}
