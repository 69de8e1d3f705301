/** The exact state of a {@link GroupedSummary} as JSON: what leaves a steward so that answers can be pooled. */
import { Type, type Static } from "@sinclair/typebox";
import { AppError } from "../errors.ts";
import { CellJson, cellAsJson, cellFromJson, FieldTypeJson } from "./cell-json.ts";
import { isWithheld, startSummaries, type Group, type GroupedSummary } from "./grouped.ts";
import { algorithmsFor, type GroupingPlan, type PlannedColumn, type ValueColumn } from "./grouping-plan.ts";
import { algorithmsNamed } from "./registry.ts";
import { checkState } from "./state-check.ts";

const ColumnJson = Type.Object(
  { name: Type.String(), type: FieldTypeJson, isTypeUnknown: Type.Optional(Type.Literal(true)) },
  { additionalProperties: false },
);

/** The document. Groups and bins below the minimum size are not in it, only their number. */
export const GroupedSummaryJson = Type.Object(
  {
    version: Type.Literal(1),
    algorithms: Type.Array(Type.String(), { maxItems: 20 }),
    /** Algorithms of the request that cannot be pooled, and are therefore not in the document. */
    notMergeable: Type.Array(Type.String(), { maxItems: 20 }),
    parameters: Type.Record(Type.String(), Type.Unknown()),
    groupings: Type.Array(
      Type.Object(
        { groupColumns: Type.Array(ColumnJson), valueColumns: Type.Array(ColumnJson) },
        { additionalProperties: false },
      ),
      { maxItems: 1000 },
    ),
    minimumGroupSize: Type.Integer({ minimum: 1 }),
    withheldGroups: Type.Integer({ minimum: 0 }),
    withheldBins: Type.Integer({ minimum: 0 }),
    /** Per group: place of its grouping, number of rows, values of the group columns, states per value column and algorithm. */
    groups: Type.Array(
      Type.Tuple([
        Type.Integer({ minimum: 0 }),
        Type.String({ pattern: "^[0-9]{1,30}$" }),
        Type.Array(CellJson),
        Type.Array(Type.Array(Type.Unknown())),
      ]),
    ),
  },
  { additionalProperties: false },
);
export type GroupedSummaryJson = Static<typeof GroupedSummaryJson>;

/** Writes the state down, without groups and bins of fewer than `minimumGroupSize` rows. */
export function groupedToJson(summary: GroupedSummary, minimumGroupSize: number): GroupedSummaryJson {
  const plan = summary.plan;
  let withheldGroups = 0;
  let withheldBins = 0;
  const groups: GroupedSummaryJson["groups"] = [];
  for (const [index, grouping] of plan.groupings.entries()) {
    for (const group of summary.groupsOf(index)) {
      if (isWithheld(group, minimumGroupSize)) {
        withheldGroups += 1;
        continue;
      }
      withheldBins += binsBelow(group, minimumGroupSize);
      const states = grouping.valueColumns.map((column, place) => columnStates(column, group, place, minimumGroupSize));
      groups.push([index, group.rows.toString(), group.cells.map(cellAsJson), states]);
    }
  }
  return {
    version: 1,
    algorithms: plan.algorithms.filter(({ mergeable }) => mergeable).map(({ name }) => name),
    notMergeable: [...summary.notMergeable],
    parameters: { ...plan.parameters },
    groupings: plan.groupings.map((grouping) => ({
      groupColumns: grouping.groupColumns.map(columnToJson),
      valueColumns: grouping.valueColumns.map(columnToJson),
    })),
    minimumGroupSize,
    withheldGroups,
    withheldBins,
    groups,
  };
}

/** Checks a document that came from elsewhere; `data_invalid` says where it is malformed. */
export function checkGroupedJson(json: unknown): GroupedSummaryJson {
  return checkState(GroupedSummaryJson, "A summary", json);
}

/** The plan behind a document. `data_invalid` when its algorithms and columns do not belong together. */
export function planOfJson(json: GroupedSummaryJson): GroupingPlan {
  try {
    const algorithms = algorithmsNamed(json.algorithms.join(","));
    if (algorithms.some(({ mergeable }) => !mergeable)) throw new AppError("data_invalid", "it cannot be pooled");
    const groupings = json.groupings.map(({ groupColumns, valueColumns }) => ({
      groupColumns,
      valueColumns: valueColumns.map((column) => ({ ...column, algorithms: algorithmsFor(column, algorithms) })),
    }));
    return { algorithms, parameters: json.parameters, groupings };
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new AppError("data_invalid", `A summary has algorithms that do not fit its columns: ${why}`, {
      cause: error,
    });
  }
}

/** A group out of a document, and the place of its grouping. */
export interface LoadedGroup {
  readonly index: number;
  readonly group: Group;
}

/** The groups of a checked document, one at a time, for merging. `data_invalid` when their states are malformed. */
export function* groupsOfJson(json: GroupedSummaryJson, plan: GroupingPlan): Generator<LoadedGroup> {
  const seen = plan.groupings.map(() => new Set<string>());
  for (const [place, [index, rows, cells, states]] of json.groups.entries()) {
    const grouping = plan.groupings[index];
    const key = JSON.stringify(cells);
    if (grouping === undefined || cells.length !== grouping.groupColumns.length || seen[index]?.has(key)) {
      throw malformedGroup(place);
    }
    seen[index]?.add(key);
    const group: Group = {
      cells: grouping.groupColumns.map((column, i) => cellFromJson(column.type, cells[i] ?? null)),
      rows: BigInt(rows),
      summaries: startSummaries(plan, grouping, {}),
    };
    loadStates(group, states, place);
    yield { index, group };
  }
}

function loadStates(group: Group, states: readonly (readonly unknown[])[], place: number): void {
  if (states.length !== group.summaries.length) throw malformedGroup(place);
  for (const [column, summaries] of group.summaries.entries()) {
    const columnOf = states[column] ?? [];
    if (columnOf.length !== summaries.length) throw malformedGroup(place);
    for (const [which, summary] of summaries.entries()) summary.load(columnOf[which]);
  }
}

function columnToJson({ name, type, isTypeUnknown }: PlannedColumn): Static<typeof ColumnJson> {
  return { name, type, ...(isTypeUnknown ? { isTypeUnknown } : {}) };
}

function columnStates(column: ValueColumn, group: Group, place: number, minimumGroupSize: number): unknown[] {
  return column.algorithms.flatMap((algorithm, which) =>
    algorithm.mergeable ? [group.summaries[place]?.[which]?.toJson(minimumGroupSize) ?? null] : [],
  );
}

function binsBelow(group: Group, minimumGroupSize: number): number {
  let below = 0;
  for (const summary of group.summaries.flat()) {
    const result = summary.finish();
    if (Array.isArray(result)) below += result.filter((bin: { count: bigint }) => bin.count < minimumGroupSize).length;
  }
  return below;
}

function malformedGroup(place: number): AppError {
  return new AppError("data_invalid", "A summary has a group that does not fit its columns, or twice the same.", {
    place: { pointer: `/groups/${place}` },
  });
}
