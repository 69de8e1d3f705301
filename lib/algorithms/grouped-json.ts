/** The exact state of a {@link GroupedSummary} as JSON: what leaves a steward so that answers can be pooled. */
import { Type, type Static } from "@sinclair/typebox";
import { AppError } from "../errors.ts";
import { CellJson, cellAsJson, cellFromJson, FieldTypeJson } from "./cell-json.ts";
import {
  isColumnWithheld,
  isWithheld,
  startColumns,
  type Group,
  type GroupColumn,
  type GroupedSummary,
} from "./grouped.ts";
import { algorithmsFor, type GroupingPlan, type PlannedColumn } from "./grouping-plan.ts";
import { algorithmsNamed } from "./registry.ts";
import { checkState } from "./state-check.ts";
import type { Algorithm, Bin } from "./summary.ts";

const ColumnJson = Type.Object(
  { name: Type.String(), type: FieldTypeJson, isTypeUnknown: Type.Optional(Type.Literal(true)) },
  { additionalProperties: false },
);

/** What leaves of one value column in one group: null, if fewer values than the minimum are behind it. */
const ColumnStateJson = Type.Union([
  Type.Null(),
  Type.Object(
    {
      /** Values behind the states. */
      count: Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }),
      /** Per algorithm that pools. */
      states: Type.Array(Type.Unknown()),
    },
    { additionalProperties: false },
  ),
]);
type ColumnStateJson = Static<typeof ColumnStateJson>;

/** The document. Groups, bins and values below the minimum size are not in it, only their number. */
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
    withheldValues: Type.Integer({ minimum: 0 }),
    /** Per group: place of its grouping, number of rows, values of the group columns, state of each value column. */
    groups: Type.Array(
      Type.Tuple([
        Type.Integer({ minimum: 0 }),
        Type.String({ pattern: "^[0-9]{1,30}$" }),
        Type.Array(CellJson),
        Type.Array(ColumnStateJson),
      ]),
    ),
  },
  { additionalProperties: false },
);
export type GroupedSummaryJson = Static<typeof GroupedSummaryJson>;

/** Writes the state down, without groups, bins and values behind which are fewer rows or values than `minimumGroupSize`. */
export function groupedToJson(summary: GroupedSummary, minimumGroupSize: number): GroupedSummaryJson {
  const plan = summary.plan;
  let withheldGroups = 0;
  const withheld = { bins: 0, values: 0 };
  const groups: GroupedSummaryJson["groups"] = [];
  for (const [index, grouping] of plan.groupings.entries()) {
    for (const group of summary.groupsOf(index)) {
      if (isWithheld(group, minimumGroupSize)) {
        withheldGroups += 1;
        continue;
      }
      const states = grouping.valueColumns.map(({ algorithms }, place) =>
        columnState(algorithms, group.columns[place], minimumGroupSize, withheld),
      );
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
    withheldBins: withheld.bins,
    withheldValues: withheld.values,
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
      columns: startColumns(plan, grouping, {}),
    };
    loadStates(group, states, place);
    yield { index, group };
  }
}

function loadStates(group: Group, states: readonly ColumnStateJson[], place: number): void {
  if (states.length !== group.columns.length) throw malformedGroup(place);
  for (const [which, column] of group.columns.entries()) {
    const state = states[which];
    if (state === null) {
      column.isPartlyWithheld = true;
      continue;
    }
    if (state?.states.length !== column.summaries.length) throw malformedGroup(place);
    column.count = state.count;
    for (const [i, summary] of column.summaries.entries()) summary.load(state.states[i]);
  }
}

function columnToJson({ name, type, isTypeUnknown }: PlannedColumn): Static<typeof ColumnJson> {
  return { name, type, ...(isTypeUnknown ? { isTypeUnknown } : {}) };
}

/** The state of one value column, as far as it may leave; what may not is added up in `withheld`. */
function columnState(
  algorithms: readonly Algorithm[],
  column: GroupColumn | undefined,
  minimumGroupSize: number,
  withheld: { bins: number; values: number },
): ColumnStateJson {
  if (column === undefined) throw new AppError("internal", "A group lacks a value column of its grouping.");
  const pooled = column.summaries.filter((_, which) => algorithms[which]?.mergeable);
  const bins = algorithms.some(({ shape }) => shape === "bins")
    ? pooled.flatMap((summary) => summary.finish() as readonly Bin[])
    : undefined;
  if (bins === undefined && isColumnWithheld(column, minimumGroupSize)) {
    withheld.values += pooled.length;
    return null;
  }
  const shown = bins?.filter(({ count }) => count >= minimumGroupSize);
  withheld.bins += (bins?.length ?? 0) - (shown?.length ?? 0);
  return {
    // Of bins, only those that are there: the number of all values would tell what the others hold.
    count: shown === undefined ? column.count : shown.reduce((sum, { count }) => sum + Number(count), 0),
    states: pooled.map((summary) => summary.toJson(minimumGroupSize)),
  };
}

function malformedGroup(place: number): AppError {
  return new AppError("data_invalid", "A summary has a group that does not fit its columns, or twice the same.", {
    place: { pointer: `/groups/${place}` },
  });
}
