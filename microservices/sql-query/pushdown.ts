/**
 * Aggregations that the query's engine does instead of sql-algorithm (docs/decisions/0024): the states of count, sum, average, min and
 * max per group, in the form in which stewards' answers are pooled, so that the answer is the same, bit for bit.
 *
 * Only where nothing could tell the difference: every column of the result is a granted column of a type that is exact in SQL, each
 * of its values is what is declared, and the statement reads nothing sensitive, so that rows would reach sql-algorithm unchanged.
 * In any other case, and whatever goes wrong, the rows themselves are sent.
 *
 * Here is what holds for every engine. `pushdown-sqlite.ts` and `pushdown-duckdb.ts` have the SQL of each,
 * `pushdown-documents.ts` the documents that the states travel in.
 */
import { cellAsJson } from "../../lib/algorithms/cell-json.ts";
import {
  planGroupings,
  ROWS,
  type Grouping,
  type GroupingPlan,
  type ValueColumn,
} from "../../lib/algorithms/grouping-plan.ts";
import type { CellValue, FieldSpec, FieldType } from "../../lib/data/field-types.ts";
import { AppError } from "../../lib/errors.ts";
import type { DataRequest } from "../../lib/model/data-request.ts";
import { StateDocuments, type GroupState } from "./pushdown-documents.ts";

/** What of a question is about algorithms. */
export interface PushedQuestion {
  readonly algorithm: string;
  readonly algorithmColumns?: DataRequest["algorithmColumns"] | undefined;
  readonly algorithmParameters?: DataRequest["algorithmParameters"] | undefined;
}

/** So that no row could be over its own limit. */
export const MOST_TEXT_BYTES = 16 * 1024;
/** Algorithms whose states come out of SQL exactly. */
const PUSHED = new Set(["count", "sum", "average", "min", "max"]);
/** Each is a pass over the data. */
const MOST_GROUPINGS = 3;

/** What a question asks of these columns, if states can say it; fails, as `planGroupings` does, where it is not to be answered at all. */
export function pushablePlan(fields: readonly FieldSpec[], question: PushedQuestion): GroupingPlan | undefined {
  if (fields.some(({ type }) => type.kind === "timestamp")) return undefined;
  const plan = planGroupings(fields, question);
  if (plan.algorithms.some(({ name }) => !PUSHED.has(name)) || plan.groupings.length > MOST_GROUPINGS) return undefined;
  const isExact = plan.groupings.every(
    ({ groupColumns, valueColumns }) =>
      groupColumns.every(({ type }) => type.kind !== "float") &&
      valueColumns.every(
        ({ type, algorithms }) => type.kind !== "float" || algorithms.every(({ name }) => name === "count"),
      ),
  );
  return isExact ? plan : undefined;
}

/** How an engine groups and aggregates the columns of one result, and what the values mean that it gives. */
export interface PushedSource<Value> {
  /** The result, as it stands in FROM. */
  readonly from: string;
  /** The number of rows that the way of the rows would refuse; of no rows it may be null. */
  readonly misfits: string;
  /** A group column's value. */
  key(name: string): string;
  /** What of a group column makes a group. */
  groupBy(name: string): string;
  /** The values of a column that {@link PushedSource.aggregated} takes, as many for each. */
  aggregates(column: ValueColumn): readonly string[];
  /** What was selected for a group column of this type. */
  cell(type: FieldType, value: Value): CellValue;
  /** What was selected for a value column of this type. */
  aggregated(type: FieldType, values: readonly Value[]): Aggregated;
}

/** What is known of a column in a group. */
export interface Aggregated {
  /** Values that are not null. */
  readonly count: bigint;
  /** Of a type that has sums; in the unit of its cells. */
  readonly sum: bigint;
  readonly min: CellValue;
  readonly max: CellValue;
}

/** A row of {@link PushedGroups.select}: misfits, rows, the group's values, and the aggregates of its columns. */
type AggregateRow<Value> = readonly [misfits: bigint | null, rows: bigint, ...values: Value[]];

/** Turns what an engine selects for a plan into documents. */
export class PushedGroups<Value> {
  readonly #plan: GroupingPlan;
  readonly #source: PushedSource<Value>;
  readonly #mostRows: number;
  readonly #documents: StateDocuments;
  /** Behind the groups so far, per grouping. */
  readonly #rows: number[];

  constructor(plan: GroupingPlan, source: PushedSource<Value>, mostRows: number) {
    this.#plan = plan;
    this.#source = source;
    this.#mostRows = mostRows;
    this.#documents = new StateDocuments(plan);
    this.#rows = plan.groupings.map(() => 0);
  }

  /** The statement for one grouping. */
  select({ groupColumns, valueColumns }: Grouping): string {
    const { from, misfits } = this.#source;
    const keys = groupColumns.map(({ name }) => this.#source.key(name));
    const values = valueColumns.flatMap((column) => (column.name === ROWS ? [] : this.#source.aggregates(column)));
    const groups = groupColumns.map(({ name }) => this.#source.groupBy(name));
    const groupBy = groups.length === 0 ? "" : `GROUP BY ${groups.join(", ")}`;
    return `SELECT ${[misfits, "count(*)", ...keys, ...values].join(", ")} FROM ${from} ${groupBy}`;
  }

  /**
   * Takes a row of a grouping's statement; `index` is its place in the plan. False for what the way of the rows must answer: misfits,
   * too many rows, more groups than are held.
   */
  take(index: number, row: readonly unknown[]): boolean {
    const [misfits, count, ...values] = row as AggregateRow<Value>;
    const rows = (this.#rows[index] ?? 0) + Number(count);
    this.#rows[index] = rows;
    // Of no rows at all there is no sum.
    if ((misfits ?? 0n) !== 0n || rows > this.#mostRows) return false;
    const grouping = this.#plan.groupings[index];
    if (grouping === undefined) throw new AppError("internal", `A plan has no grouping ${String(index)}.`);
    return this.#documents.add(this.#group(index, grouping, count, values));
  }

  /** All documents, once every row was taken; none where there are no groups. */
  end(): readonly string[] {
    return this.#documents.end();
  }

  #group(index: number, grouping: Grouping, rows: bigint, values: readonly Value[]): GroupState {
    const { groupColumns, valueColumns } = grouping;
    const cells = groupColumns.map(({ type }, place) => cellAsJson(this.#source.cell(type, values[place] as Value)));
    let at = cells.length;
    const states = valueColumns.map((column) => {
      if (column.name === ROWS) return { count: Number(rows), states: [rows.toString()] };
      const end = at + this.#source.aggregates(column).length;
      const state = this.#source.aggregated(column.type, values.slice(at, end));
      at = end;
      return { count: Number(state.count), states: column.algorithms.map(({ name }) => stateOf(name, state)) };
    });
    return [index, rows.toString(), cells, states];
  }
}

function stateOf(algorithm: string, { count, sum, min, max }: Aggregated): unknown {
  if (algorithm === "count") return count.toString();
  if (algorithm === "min") return cellAsJson(min);
  if (algorithm === "max") return cellAsJson(max);
  return { n: count.toString(), sum: sum.toString() };
}
