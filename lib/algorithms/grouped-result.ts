/** Results in wide form: the group columns, then a column per algorithm and value column; of histograms, rows of bins. */
import type { RecordBatch, Schema } from "apache-arrow";
import { BatchBuilder } from "../data/batch-builder.ts";
import { ALGORITHM, GROUP_COLUMNS } from "../data/field-metadata.ts";
import type { CellValue, FieldSpec, FieldType } from "../data/field-types.ts";
import { AppError } from "../errors.ts";
import { compareRows } from "./cell-order.ts";
import { hasBins, isColumnWithheld, isWithheld, type Group, type GroupedSummary, type Withheld } from "./grouped.ts";
import { ROWS, type Grouping, type GroupingPlan, type PlannedColumn, type ValueColumn } from "./grouping-plan.ts";
import type { Algorithm, Bin } from "./summary.ts";
import { isSameType } from "./widening.ts";

/** A finished result. */
export interface GroupedResult {
  readonly fields: readonly FieldSpec[];
  readonly schema: Schema;
  /** The rows, sorted by group; never without a batch. */
  readonly batches: readonly RecordBatch[];
  /** What was kept back here, because fewer rows or values than the minimum are behind it. */
  readonly withheld: Withheld;
}

/** Present where a request has several groupings: which one a row belongs to, as its group columns. */
export const GROUPING_COLUMN = "grouping";

const ROWS_PER_BATCH = 8192;
const INT64_BITS = 64;

/** Lays a summary out, without groups, bins and values behind which are fewer rows or values than `minimumGroupSize`. */
export function finishGrouped(summary: GroupedSummary, minimumGroupSize: number): GroupedResult {
  const { plan } = summary;
  const layout = hasBins(plan) ? binLayout(plan) : valueLayout(plan);
  checkNames(layout.fields);
  const withheld = { groups: 0, bins: 0, values: 0 };
  const rows: CellValue[][] = [];
  for (const [index, grouping] of plan.groupings.entries()) {
    const shown: CellValue[][] = [];
    for (const group of summary.groupsOf(index)) {
      if (isWithheld(group, minimumGroupSize)) withheld.groups += 1;
      else withheld[layout.withholds] += layout.addRows(shown, grouping, group, minimumGroupSize);
    }
    rows.push(...shown.sort(compareRows));
  }
  return { ...toBatches(fittingFields(layout.fields, rows), rows, plan), withheld };
}

/** How groups become rows. `addRows` gives the number of bins or values that it withheld. */
interface Layout {
  readonly fields: readonly FieldSpec[];
  readonly withholds: "bins" | "values";
  addRows(rows: CellValue[][], grouping: Grouping, group: Group, minimumGroupSize: number): number;
}

function valueLayout(plan: GroupingPlan): Layout {
  const groupFields = groupFieldsOf(plan);
  const valueFields = new Map<string, FieldSpec>();
  for (const column of plan.groupings.flatMap((grouping) => grouping.valueColumns)) {
    for (const algorithm of column.algorithms) {
      const name = resultName(algorithm, column);
      valueFields.set(name, field(name, algorithm.resultType(column.type)));
    }
  }
  const names = [...valueFields.keys()];
  return {
    fields: [...groupFields, ...valueFields.values()],
    withholds: "values",
    addRows(rows, grouping, group, minimumGroupSize) {
      const values = new Map<string, CellValue>();
      let withheld = 0;
      for (const [place, column] of grouping.valueColumns.entries()) {
        const found = group.columns[place];
        if (found === undefined) continue;
        if (isColumnWithheld(found, minimumGroupSize)) {
          // A value that no steward gave was counted there.
          if (found.count > 0) withheld += column.algorithms.length;
          continue;
        }
        for (const [which, algorithm] of column.algorithms.entries()) {
          values.set(resultName(algorithm, column), (found.summaries[which]?.finish() ?? null) as CellValue);
        }
      }
      rows.push([...groupCells(plan, groupFields, grouping, group), ...names.map((name) => values.get(name) ?? null)]);
      return withheld;
    },
  };
}

function binLayout(plan: GroupingPlan): Layout {
  const groupFields = groupFieldsOf(plan);
  const ends = endType(plan);
  const fields = [
    ...groupFields,
    field("column", { kind: "text" }),
    field("binStart", ends),
    field("binEnd", ends),
    field("count", { kind: "integer" }),
  ];
  return {
    fields,
    withholds: "bins",
    addRows(rows, grouping, group, minimumGroupSize) {
      let withheld = 0;
      for (const [place, column] of grouping.valueColumns.entries()) {
        for (const bin of (group.columns[place]?.summaries[0]?.finish() ?? []) as readonly Bin[]) {
          if (bin.count < minimumGroupSize) withheld += 1;
          else
            rows.push([...groupCells(plan, groupFields, grouping, group), column.name, bin.start, bin.end, bin.count]);
        }
      }
      return withheld;
    },
  };
}

/** The group columns of all groupings, each once; before them the grouping itself where there are several. */
function groupFieldsOf(plan: GroupingPlan): readonly FieldSpec[] {
  const columns = new Map<string, PlannedColumn>();
  for (const column of plan.groupings.flatMap((grouping) => grouping.groupColumns)) columns.set(column.name, column);
  const fields = [...columns.values()].map((column) => field(column.name, column.type));
  return plan.groupings.length > 1 ? [field(GROUPING_COLUMN, { kind: "text" }), ...fields] : fields;
}

function groupCells(
  plan: GroupingPlan,
  fields: readonly FieldSpec[],
  grouping: Grouping,
  group: Group,
): readonly CellValue[] {
  const names = grouping.groupColumns.map((column) => column.name);
  const cells = fields.map(({ name }) => (names.includes(name) ? (group.cells[names.indexOf(name)] ?? null) : null));
  return plan.groupings.length > 1 ? [names.join(", "), ...cells.slice(1)] : cells;
}

/** Ends of bins share a column, so the value columns must share a type of ends. */
function endType(plan: GroupingPlan): FieldType {
  const columns = plan.groupings.flatMap((grouping) => grouping.valueColumns);
  const types = columns.flatMap((column) => column.algorithms.map((algorithm) => algorithm.resultType(column.type)));
  const [first, ...others] = types;
  if (first !== undefined && others.every((type) => isSameType(type, first))) return first;
  throw new AppError(
    "type_mismatch",
    `A histogram of ${columns.map((column) => `"${column.name}" (${column.type.kind})`).join(", ")} would have bins of different ` +
      "types. Ask for numbers, dates and timestamps in requests of their own.",
  );
}

function checkNames(fields: readonly FieldSpec[]): void {
  const seen = new Set<string>();
  for (const { name } of fields) {
    if (seen.has(name)) {
      throw new AppError(
        "invalid_argument",
        `The result would have two columns "${name}". Rename one in the query with AS.`,
      );
    }
    seen.add(name);
  }
}

/** `average_salary`; the number of rows is `count`. */
function resultName(algorithm: Algorithm, column: ValueColumn): string {
  return column.name === ROWS ? algorithm.name : `${algorithm.name}_${column.name}`;
}

function field(name: string, type: FieldType): FieldSpec {
  return { name, type, nullable: true };
}

/** Exact sums of integers may need more than 64 bits: such a column becomes decimal(38, 0). */
function fittingFields(fields: readonly FieldSpec[], rows: readonly (readonly CellValue[])[]): readonly FieldSpec[] {
  return fields.map((spec, place) => {
    if (spec.type.kind !== "integer") return spec;
    const fits = rows.every((row) => BigInt.asIntN(INT64_BITS, (row[place] ?? 0n) as bigint) === (row[place] ?? 0n));
    return fits ? spec : { ...spec, type: { kind: "decimal", precision: 38, scale: 0 } };
  });
}

function toBatches(
  fields: readonly FieldSpec[],
  rows: readonly (readonly CellValue[])[],
  plan: GroupingPlan,
): Pick<GroupedResult, "fields" | "schema" | "batches"> {
  const groupColumns = new Set(
    plan.groupings.flatMap((grouping) => grouping.groupColumns.map((column) => column.name)),
  );
  const metadata = new Map([
    [GROUP_COLUMNS, JSON.stringify([...groupColumns])],
    [ALGORITHM, plan.algorithms.map((algorithm) => algorithm.name).join(",")],
  ]);
  const builder = new BatchBuilder(fields, { metadata, expectedRows: Math.min(rows.length, ROWS_PER_BATCH) });
  const batches: RecordBatch[] = [];
  for (const row of rows) {
    builder.append(row);
    if (builder.rowCount === ROWS_PER_BATCH) batches.push(builder.build());
  }
  if (builder.rowCount > 0 || batches.length === 0) batches.push(builder.build());
  return { fields, schema: builder.schema, batches };
}
