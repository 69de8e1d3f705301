/** histogram: how many values lie in each bin. */
import { Type } from "@sinclair/typebox";
import type { CellValue, FieldType } from "../data/field-types.ts";
import { AppError } from "../errors.ts";
import type { Binning } from "./binning.ts";
import { compareRows } from "./cell-order.ts";
import { binningFor } from "./histogram-bins.ts";
import { isNumeric, isTime } from "./moments.ts";
import { checkState } from "./state-check.ts";
import type { Algorithm, Bin, Json, Summary, SummaryContext } from "./summary.ts";

const State = Type.Record(Type.String({ maxLength: 800 }), Type.String({ pattern: "^[0-9]{1,30}$" }));

/** Counts per bin; exact. What lies outside the request's bins is counted in bins without a start or without an end. */
export const histogram: Algorithm = {
  name: "histogram",
  description:
    "Number of values per bin: the bins of algorithmParameters.histogram ({bins}, {width, origin} or {unit}), otherwise a " +
    "fixed grid.",
  mergeable: true,
  shape: "bins",
  accepts: (type) => isNumeric(type) || isTime(type),
  acceptsInWords: "integer, decimal, float, date and timestamp",
  resultType: (type) => (isTime(type) ? type : { kind: "float" }),
  start: (context) => new HistogramSummary(context),
};

class HistogramSummary implements Summary {
  readonly type: FieldType;
  readonly #binning: Binning;
  readonly #claimRow: () => void;
  readonly #counts = new Map<string, bigint>();

  constructor(context: SummaryContext) {
    this.type = context.type;
    this.#binning = binningFor(context.type, context.parameters.histogram);
    this.#claimRow = () => context.claimRow();
  }

  add(value: CellValue): void {
    if (value !== null) this.#count(this.#binning.keyOf(value), 1n);
  }

  merge(other: HistogramSummary): void {
    for (const [key, count] of other.#counts) this.#count(key, count);
  }

  finish(): readonly Bin[] {
    return [...this.#counts]
      .map(([key, count]) => {
        const [start, end] = this.#ends(key);
        return { start, end, count };
      })
      .sort((a, b) => compareRows([a.start, a.end], [b.start, b.end]));
  }

  toJson(minimumCount: number): Json {
    const shown = [...this.#counts].filter(([, count]) => count >= minimumCount);
    return Object.fromEntries(shown.sort().map(([key, count]) => [key, count.toString()]));
  }

  load(json: unknown): void {
    for (const [key, count] of Object.entries(checkState(State, "The state of a histogram", json))) {
      this.#ends(key);
      this.#count(key, BigInt(count));
    }
  }

  #ends(key: string): readonly [CellValue, CellValue] {
    const ends = this.#binning.ends(key);
    if (ends === undefined)
      throw new AppError("data_invalid", "The state of a histogram has a bin that does not exist.");
    return ends;
  }

  #count(key: string, count: bigint): void {
    const before = this.#counts.get(key);
    if (before === undefined) this.#claimRow();
    this.#counts.set(key, (before ?? 0n) + count);
  }
}
