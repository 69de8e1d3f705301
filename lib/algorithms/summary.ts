/**
 * What an algorithm is: a mergeable summary (Agarwal et al., "Mergeable summaries", PODS 2012). Start one, add values,
 * merge those of other parties, finish. `registry.ts` lists the algorithms; a new one implements {@link Algorithm}.
 */
import type { CellValue, FieldType } from "../data/field-types.ts";

/** Any JSON value. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [name: string]: Json };

/** An algorithm over one column of values. */
export interface Algorithm {
  /** The name in requests and results. */
  readonly name: string;
  /** One sentence for people. */
  readonly description: string;
  /** Whether summaries of several parties pool exactly without their rows. */
  readonly mergeable: boolean;
  /** `value`: one value per group. `bins`: a list of bins with counts per group. */
  readonly shape: "value" | "bins";
  /** Whether it works on values of this type. */
  accepts(type: FieldType): boolean;
  /** In words, what it accepts; for messages. */
  readonly acceptsInWords: string;
  /** The type of its result (of the ends of bins) for values of this type. */
  resultType(type: FieldType): FieldType;
  /** An empty summary for values of this type. */
  start(context: SummaryContext): Summary;
}

/** What a summary works with. */
export interface SummaryContext {
  /** Type of the values to come. */
  readonly type: FieldType;
  /** The request's `algorithmParameters`. */
  readonly parameters: AlgorithmParameters;
  /** Where values are kept that an algorithm needs all of (median). Absent where there is no such place. */
  readonly values?: ValueStore;
  /** Counts a row of the result (a bin); fails with `result_too_large` beyond the limit. */
  claimRow(): void;
}

/** `algorithmParameters` of a request: per algorithm what it understands. */
export type AlgorithmParameters = Readonly<Record<string, unknown>>;

/** A place for values that may be more than memory should hold. */
export interface ValueStore {
  /** Opens a list of values of this type; gives its number. */
  open(type: FieldType): number;
  /** Adds a value to a list. */
  add(list: number, value: bigint | number): void;
  /** The lower and the upper middle value of a list (the same one for an odd number); undefined for an empty list. */
  middle(list: number): readonly [bigint | number, bigint | number] | undefined;
}

/** One algorithm's summary of one column in one group. Order and placement of values change nothing. */
export interface Summary {
  /** Type of the values that it takes. */
  readonly type: FieldType;
  /** Adds one value; null is ignored. */
  add(value: CellValue): void;
  /** Adds all of a summary of the same algorithm, whose type is the same or widens to this one's. */
  merge(other: Summary): void;
  /** The result: a value, or bins in order. */
  finish(): CellValue | readonly Bin[];
  /** The exact state; never rows. Bins of fewer than `minimumCount` values are left out (decision 16). */
  toJson(minimumCount: number): Json;
  /** Takes over a state of `toJson` into an empty summary; `data_invalid` if it is malformed. */
  load(json: unknown): void;
}

/** A range of a histogram with the number of values in it. */
export interface Bin {
  readonly start: CellValue;
  readonly end: CellValue;
  readonly count: bigint;
}
