/** Pools the summaries of several data stewards: the answer over the union of their rows, without a row leaving. */
import type { RecordBatch, Schema } from "apache-arrow";
import type { FieldSpec } from "../data/field-types.ts";
import { AppError } from "../errors.ts";
import { finishGrouped } from "./grouped-result.ts";
import { checkGroupedJson, groupsOfJson, planOfJson, type GroupedSummaryJson } from "./grouped-json.ts";
import { GroupedSummary, type GroupedSummaryOptions } from "./grouped.ts";
import { algorithmsFor, ROWS, type GroupingPlan, type PlannedColumn } from "./grouping-plan.ts";
import { typeInWords, widenTypes } from "./widening.ts";

/** One steward's summary as it came. */
export interface SummaryPart {
  readonly provider: string;
  /** JSON value of a summary; not yet checked. */
  readonly summary: unknown;
}

/** What is to be said about a pooled answer. */
export interface PoolingNotes {
  /** Who is in it, in order of the names. */
  readonly providers: readonly string[];
  /** Groups, bins and values kept back, by the stewards and here together. */
  readonly withheldGroups: number;
  readonly withheldBins: number;
  readonly withheldValues: number;
  readonly withheldGroupsByProvider: Readonly<Record<string, number>>;
  /** Algorithms of the request that only the stewards' own answers have, because they do not pool without rows. */
  readonly notPooled: readonly string[];
}

/** A pooled answer; without rows, fields and schema when nothing that was asked for pools. */
export interface PooledAnswer {
  readonly result?: {
    readonly fields: readonly FieldSpec[];
    readonly schema: Schema;
    readonly batches: readonly RecordBatch[];
  };
  readonly notes: PoolingNotes;
}

/**
 * Merges the parts, exactly and independent of their order. Each steward's minimum group size has been applied to its part;
 * `minimumGroupSize` applies to the pooled groups. Fails with `data_invalid` (and the party) for a malformed part,
 * `type_mismatch` for columns whose types do not widen, `result_too_large` beyond the number of groups.
 */
export function poolSummaries(
  parts: readonly SummaryPart[],
  minimumGroupSize = 1,
  options: GroupedSummaryOptions = {},
): PooledAnswer {
  const sorted = [...parts].sort((a, b) => (a.provider < b.provider ? -1 : 1));
  const documents = sorted.map(({ provider, summary }) => ({
    provider,
    json: ofParty(provider, () => checkGroupedJson(summary)),
  }));
  const [first] = documents;
  if (first === undefined) throw new AppError("invalid_argument", "There are no summaries to pool.");
  for (const { provider, json } of documents) checkSameRequest(provider, first.json, json);
  const notes: PoolingNotes = {
    providers: documents.map(({ provider }) => provider),
    withheldGroups: sumOf(documents, ({ json }) => json.withheldGroups),
    withheldBins: sumOf(documents, ({ json }) => json.withheldBins),
    withheldValues: sumOf(documents, ({ json }) => json.withheldValues),
    withheldGroupsByProvider: Object.fromEntries(
      documents.map(({ provider, json }) => [provider, json.withheldGroups]),
    ),
    notPooled: first.json.notMergeable,
  };
  if (first.json.algorithms.length === 0) return { notes };
  const { withheld, ...result } = mergeAll(documents, minimumGroupSize, options);
  return {
    result,
    notes: {
      ...notes,
      withheldGroups: notes.withheldGroups + withheld.groups,
      withheldBins: notes.withheldBins + withheld.bins,
      withheldValues: notes.withheldValues + withheld.values,
    },
  };
}

interface Document {
  readonly provider: string;
  readonly json: GroupedSummaryJson;
}

function mergeAll(documents: readonly Document[], minimumGroupSize: number, options: GroupedSummaryOptions) {
  // Not `start`: the group of all rows, withheld by every steward, must not appear as one of no rows.
  const pooled = new GroupedSummary(widenedPlan(documents), options);
  try {
    for (const { provider, json } of documents) ofParty(provider, () => mergeDocument(pooled, json));
    return finishGrouped(pooled, minimumGroupSize);
  } finally {
    pooled.close();
  }
}

/** Group by group, so that beside the document and the whole nothing is held. */
function mergeDocument(pooled: GroupedSummary, json: GroupedSummaryJson): void {
  const plan = planOfJson(json);
  for (const { index, group } of groupsOfJson(json, plan)) pooled.mergeGroup(index, group, plan);
}

/** The plan whose types take the values of all parts. */
function widenedPlan(documents: readonly Document[]): GroupingPlan {
  const plans = documents.map(({ provider, json }) => ({ provider, plan: ofParty(provider, () => planOfJson(json)) }));
  const [first, ...others] = plans;
  if (first === undefined) throw new AppError("invalid_argument", "There are no summaries to pool.");
  const widened = (column: PlannedColumn, of: (plan: GroupingPlan) => PlannedColumn | undefined): PlannedColumn =>
    others.reduce((sofar, { provider, plan }) => widenColumn(sofar, of(plan) ?? sofar, provider), column);
  const groupings = first.plan.groupings.map((grouping, g) => ({
    groupColumns: grouping.groupColumns.map((column, i) =>
      widened(column, (plan) => plan.groupings[g]?.groupColumns[i]),
    ),
    valueColumns: grouping.valueColumns
      .map((column, i) => widened(column, (plan) => plan.groupings[g]?.valueColumns[i]))
      .map(({ name, type }) => ({ name, type, algorithms: algorithmsFor({ name, type }, first.plan.algorithms) })),
  }));
  return { ...first.plan, groupings };
}

function widenColumn(column: PlannedColumn, other: PlannedColumn, provider: string): PlannedColumn {
  if (other.isTypeUnknown) return column;
  if (column.isTypeUnknown) return other;
  const type = widenTypes(column.type, other.type);
  if (type !== undefined) return { name: column.name, type };
  throw new AppError(
    "type_mismatch",
    `The column "${column.name === ROWS ? "rows" : column.name}" is ${typeInWords(other.type)} at ${provider} but ` +
      `${typeInWords(column.type)} elsewhere, so the answers cannot be pooled. CAST it to one type in the query.`,
    { party: provider, details: { column: column.name } },
  );
}

/** All parts answer the same request. */
function checkSameRequest(provider: string, first: GroupedSummaryJson, json: GroupedSummaryJson): void {
  if (requestOf(first) === requestOf(json)) return;
  throw new AppError("data_invalid", `The summary of ${provider} answers another request than the others.`, {
    party: provider,
  });
}

function requestOf(json: GroupedSummaryJson): string {
  const groupings = json.groupings.map(({ groupColumns, valueColumns }) => [
    groupColumns.map(({ name }) => name),
    valueColumns.map(({ name }) => name),
  ]);
  return JSON.stringify([json.algorithms, json.notMergeable, json.parameters, groupings]);
}

function ofParty<Value>(provider: string, work: () => Value): Value {
  try {
    return work();
  } catch (error) {
    throw error instanceof AppError ? error.withParty(provider) : error;
  }
}

function sumOf<Item>(items: readonly Item[], numberOf: (item: Item) => number): number {
  return items.reduce((sum, item) => sum + numberOf(item), 0);
}
