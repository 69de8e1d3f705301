/**
 * Algorithms over groups of rows: {@link GroupedSummary}, a mergeable summary of a whole request.
 *
 * `grouping-plan.ts` resolves the request, `grouped-result.ts` lays the result out, `grouped-json.ts` writes the state
 * that leaves a steward, `pooled.ts` puts several of those together. State here: one entry per group that has occurred.
 */
import type { RecordBatch } from "apache-arrow";
import { columnReaders, type ColumnReader } from "../data/column-reader.ts";
import type { CellValue } from "../data/field-types.ts";
import { AppError } from "../errors.ts";
import type { Grouping, GroupingPlan } from "./grouping-plan.ts";
import { ROWS } from "./grouping-plan.ts";
import { SpillingValues, type SpillingValuesOptions } from "./spilling-values.ts";
import type { Summary, SummaryContext, ValueStore } from "./summary.ts";
import { convertCell } from "./widening.ts";

/** Limits of a {@link GroupedSummary}. */
export interface GroupedSummaryOptions {
  /** Groups, and bins of histograms, that there may be. Default 100,000. */
  readonly maximumGroups?: number;
  /** Summaries (groups times value columns times algorithms) that there may be: about half a KB each. Default 400,000. */
  readonly maximumSummaries?: number;
  /** Where and when the values for a median go to disk. */
  readonly spilling?: SpillingValuesOptions;
}

const DEFAULT_MAXIMUM_GROUPS = 100_000;
const DEFAULT_MAXIMUM_SUMMARIES = 400_000;

/** One group: its values of the group columns, its number of rows, and what is known of each value column. */
export interface Group {
  readonly cells: readonly CellValue[];
  rows: bigint;
  readonly columns: readonly GroupColumn[];
}

/** One value column in one group. */
export interface GroupColumn {
  /** Values that are not null; of the rows themselves, rows. */
  count: number;
  /** Whether a steward kept its values of this column back (in merged groups). */
  isPartlyWithheld: boolean;
  /** One per algorithm. */
  readonly summaries: readonly Summary[];
}

/** What was kept back because fewer rows or values than a minimum are behind it (decision 16). */
export interface Withheld {
  readonly groups: number;
  readonly bins: number;
  /** Single values in groups that are large enough: one per group, value column and algorithm. */
  readonly values: number;
}

/** Summaries of all groups of a request. `close` it whatever happens: a median may hold a temporary file. */
export class GroupedSummary {
  readonly plan: GroupingPlan;
  readonly #maximumGroups: number;
  readonly #maximumSummaries: number;
  readonly #values: SpillingValues;
  /** Per grouping, the groups by their key. */
  readonly #groups: readonly Map<string, Group>[];
  #claimedRows = 0;
  #summaryCount = 0;

  /** Without any group: for merging. {@link GroupedSummary.start} is for adding rows. */
  constructor(plan: GroupingPlan, options: GroupedSummaryOptions = {}) {
    this.plan = plan;
    this.#maximumGroups = options.maximumGroups ?? DEFAULT_MAXIMUM_GROUPS;
    this.#maximumSummaries = options.maximumSummaries ?? DEFAULT_MAXIMUM_SUMMARIES;
    this.#values = new SpillingValues(options.spilling);
    this.#groups = plan.groupings.map(() => new Map());
    // Tried here, so that a request whose parameters do not fit fails before any row is read.
    for (const grouping of plan.groupings) startColumns(plan, grouping, { values: this.#values });
  }

  /** A summary of no rows yet. Where there are no group columns there is one group, also without rows (as in SQL). */
  static start(plan: GroupingPlan, options: GroupedSummaryOptions = {}): GroupedSummary {
    const summary = new GroupedSummary(plan, options);
    for (const [index, grouping] of plan.groupings.entries()) {
      if (grouping.groupColumns.length === 0) summary.groupAt(index, []);
    }
    return summary;
  }

  /** Names of the algorithms that do not pool without the rows. */
  get notMergeable(): readonly string[] {
    return this.plan.algorithms.filter((algorithm) => !algorithm.mergeable).map((algorithm) => algorithm.name);
  }

  /** Whether summaries of several parties pool exactly. */
  get mergeable(): boolean {
    return this.notMergeable.length === 0;
  }

  /** Adds the rows of a batch whose schema is the one that the plan was made for. */
  addBatch(batch: RecordBatch): void {
    const readers = columnReaders(batch);
    for (const [index, grouping] of this.plan.groupings.entries()) {
      this.#addRows(index, grouping, readers, batch.numRows);
    }
  }

  /**
   * Adds all of another summary, whose plan has the same names and the same or narrower types. In any order and grouping
   * of merges the result is the same, bit for bit.
   */
  merge(other: GroupedSummary): void {
    for (const index of this.plan.groupings.keys()) {
      for (const group of other.groupsOf(index)) this.mergeGroup(index, group, other.plan);
    }
  }

  /** Adds all of one group of a summary with that plan; see {@link GroupedSummary.merge}. */
  mergeGroup(index: number, group: Group, plan: GroupingPlan): void {
    const columns = this.plan.groupings[index]?.groupColumns ?? [];
    const types = plan.groupings[index]?.groupColumns ?? [];
    const cells = columns.map((column, i) =>
      convertCell(types[i]?.type ?? column.type, column.type, group.cells[i] ?? null),
    );
    mergeInto(this.groupAt(index, cells), group);
  }

  /** The groups of a grouping, in order of their appearance. */
  groupsOf(grouping: number): Iterable<Group> {
    return this.#groups[grouping]?.values() ?? [];
  }

  /** The group with these values, which is made if it is new; `result_too_large` beyond the limit. */
  groupAt(index: number, cells: readonly CellValue[]): Group {
    const groups = this.#groups[index];
    const grouping = this.plan.groupings[index];
    if (groups === undefined || grouping === undefined)
      throw new AppError("internal", `There is no grouping ${index}.`);
    const normal = cells.map(withoutMinusZero);
    const key = groupKey(normal);
    let group = groups.get(key);
    if (group === undefined) {
      this.#claimRow();
      this.#claimSummaries(grouping.valueColumns.reduce((count, column) => count + column.algorithms.length, 0));
      group = { cells: normal, rows: 0n, columns: this.#startColumns(grouping) };
      groups.set(key, group);
    }
    return group;
  }

  /** Gives up what a median holds. Idempotent. */
  close(): void {
    this.#values.close();
  }

  #addRows(index: number, grouping: Grouping, readers: readonly ColumnReader[], rowCount: number): void {
    const keys = grouping.groupColumns.map((column) => readerNamed(readers, column.name));
    const values = grouping.valueColumns.map((column) =>
      column.name === ROWS ? everyRow : readerNamed(readers, column.name),
    );
    const only = keys.length === 0 ? this.groupAt(index, []) : undefined;
    for (let row = 0; row < rowCount; row++) {
      const group =
        only ??
        this.groupAt(
          index,
          keys.map((key) => key.get(row)),
        );
      group.rows += 1n;
      for (let column = 0; column < values.length; column++) {
        const value = values[column]?.get(row) ?? null;
        const target = group.columns[column];
        if (value === null || target === undefined) continue;
        target.count += 1;
        for (const summary of target.summaries) summary.add(value);
      }
    }
  }

  #startColumns(grouping: Grouping): Group["columns"] {
    return startColumns(this.plan, grouping, { values: this.#values, claimRow: () => this.#claimRow() });
  }

  #claimSummaries(count: number): void {
    this.#summaryCount += count;
    if (this.#summaryCount <= this.#maximumSummaries) return;
    throw new AppError(
      "result_too_large",
      `The result has more than ${this.#maximumSummaries} values (groups times value columns times algorithms). Group by ` +
        "fewer columns or by coarser values, or ask for fewer algorithms or value columns.",
      { details: { limit: this.#maximumSummaries } },
    );
  }

  #claimRow(): void {
    this.#claimedRows += 1;
    if (this.#claimedRows <= this.#maximumGroups) return;
    throw new AppError(
      "result_too_large",
      `The result has more than ${this.#maximumGroups} groups${hasBins(this.plan) ? " and bins" : ""}. Group by fewer columns or by ` +
        `coarser values${hasBins(this.plan) ? ", or ask for wider bins" : ""}.`,
      { details: { limit: this.#maximumGroups } },
    );
  }
}

/** The value columns of one group, without values yet. */
export function startColumns(
  plan: GroupingPlan,
  grouping: Grouping,
  { values, claimRow = () => undefined }: { readonly values?: ValueStore; readonly claimRow?: () => void },
): Group["columns"] {
  return grouping.valueColumns.map(({ type, algorithms }) => {
    const context: SummaryContext = { type, parameters: plan.parameters, claimRow, ...(values ? { values } : {}) };
    const summaries = algorithms.map((algorithm) => algorithm.start(context));
    return { count: 0, isPartlyWithheld: false, summaries };
  });
}

/** Whether a group is too small to be shown. A minimum of 1 shows also the group of no rows that a sum over nothing is. */
export function isWithheld(group: Group, minimumGroupSize: number): boolean {
  return minimumGroupSize > 1 && group.rows < minimumGroupSize;
}

/**
 * Whether a column of a group has too few values for any result over them to be shown: a query can make a column that is
 * null for all but one of the rows of a large group. Of no values at all, the results (0, null) are shown.
 */
export function isColumnWithheld({ count, isPartlyWithheld }: GroupColumn, minimumGroupSize: number): boolean {
  return count === 0 ? isPartlyWithheld : count < minimumGroupSize;
}

/** Whether the result has a row per bin instead of one per group. */
export function hasBins(plan: GroupingPlan): boolean {
  return plan.algorithms.some((algorithm) => algorithm.shape === "bins");
}

const everyRow = { get: (): CellValue => 1n };

function mergeInto(target: Group, source: Group): void {
  target.rows += source.rows;
  for (const [place, column] of target.columns.entries()) {
    const from = source.columns[place];
    column.count += from?.count ?? 0;
    column.isPartlyWithheld ||= from?.isPartlyWithheld ?? false;
    for (const [which, summary] of column.summaries.entries()) {
      const other = from?.summaries[which];
      if (other === undefined) throw new AppError("internal", "Two summaries that do not belong together were merged.");
      summary.merge(other);
    }
  }
}

function readerNamed(readers: readonly ColumnReader[], name: string): ColumnReader {
  const reader = readers.find((candidate) => candidate.name === name);
  if (reader === undefined) throw new AppError("column_unknown", `A batch lacks the column "${name}".`);
  return reader;
}

/** 0 and -0 are equal, so they are one group. */
function withoutMinusZero(value: CellValue): CellValue {
  return Object.is(value, -0) ? 0 : value;
}

/** A text that is the same for the same values only: of each value its length and its text. */
function groupKey(cells: readonly CellValue[]): string {
  if (cells.length === 1) return cells[0] === null ? "" : `=${String(cells[0])}`;
  let key = "";
  for (const cell of cells) {
    const text = String(cell);
    key += cell === null ? "-" : `${text.length}:${text}`;
  }
  return key;
}
