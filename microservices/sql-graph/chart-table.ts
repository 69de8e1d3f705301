/** The rows that a picture is drawn from: a bounded table of plain values, column by column. */
import type { RecordBatch, Schema } from "apache-arrow";
import { columnReaders } from "../../lib/data/column-reader.ts";
import { fieldsOf, formatCell, type CellValue, type FieldSpec, type FieldType } from "../../lib/data/field-types.ts";
import { AppError } from "../../lib/errors.ts";

/** What a column is for a picture: something to group by, to measure, or to run along. */
export type Role = "category" | "number" | "time";

/** Numbers as they are, times as milliseconds since the epoch (UTC), categories as text. */
export type ChartValue = number | string | null;

/** A visible column with all its values. */
export interface ChartColumn {
  readonly name: string;
  readonly type: FieldType;
  readonly role: Role;
  readonly values: readonly ChartValue[];
}

/** A result, as far as a picture needs it. */
export interface ChartTable {
  readonly columns: readonly ChartColumn[];
  readonly rowCount: number;
  /** Whether sql-algorithm made it, so that grouping columns are known and the rest are results. */
  readonly isGrouped: boolean;
}

/** How much a picture is drawn from. */
export interface ChartLimits {
  readonly maxRows: number;
  /** Values, that is rows times visible columns. */
  readonly maxValues: number;
}

/** Keeps the collecting process far below 100 MB, and the SVG of a scatter plot below 10 MB. */
export const DEFAULT_LIMITS: ChartLimits = { maxRows: 50_000, maxValues: 1_000_000 };

/** Characters of a category that are kept; more would not be readable anyway. */
const MAX_CATEGORY_CHARACTERS = 200;

/** Larger numbers, the infinities and NaN have no place on an axis: sums of borders would overflow. */
const MAX_NUMBER = 1e290;

/** Shown for a null in a category. */
export const NO_CATEGORY = "(none)";

/** Collects batches of one schema into a {@link ChartTable}. Columns named `__…` are the system's own and left out. */
export class ChartTableBuilder {
  readonly #columns: readonly { index: number; field: FieldSpec; role: Role; values: ChartValue[] }[];
  readonly #limits: ChartLimits;
  readonly #isGrouped: boolean;
  #rowCount = 0;

  constructor(schema: Schema, limits: ChartLimits = DEFAULT_LIMITS) {
    const groupColumns = groupColumnsOf(schema);
    this.#limits = limits;
    this.#isGrouped = groupColumns !== undefined;
    this.#columns = fieldsOf(schema).flatMap((field, index) =>
      field.name.startsWith("__")
        ? []
        : [{ index, field, role: roleOf(field, groupColumns?.includes(field.name) ?? false), values: [] }],
    );
  }

  /** Adds a batch's rows. More than the limits allow fails with `result_too_large`. */
  add(batch: RecordBatch): void {
    const rows = this.#rowCount + batch.numRows;
    const { maxRows, maxValues } = this.#limits;
    if (rows > maxRows || rows * this.#columns.length > maxValues) {
      throw new AppError(
        "result_too_large",
        `A picture is drawn from at most ${maxRows} rows and ${maxValues} values, and the result has more. ` +
          "Choose an algorithm, group or limit in the query, or leave out the option graph.",
        { details: { maxRows, maxValues } },
      );
    }
    const readers = columnReaders(batch);
    for (const { index, field, role, values } of this.#columns) {
      for (let row = 0; row < batch.numRows; row++) {
        values.push(chartValue(field.type, role, readers[index]?.get(row) ?? null));
      }
    }
    this.#rowCount = rows;
  }

  /** What has been collected so far. */
  table(): ChartTable {
    const columns = this.#columns.map(({ field, role, values }) => ({
      name: field.name,
      type: field.type,
      role,
      values,
    }));
    return { columns, rowCount: this.#rowCount, isGrouped: this.#isGrouped };
  }
}

/** The grouping columns that sql-algorithm names in the schema's metadata; undefined when it made no such schema. */
function groupColumnsOf(schema: Schema): readonly string[] | undefined {
  const text = schema.metadata.get("dynamos.groupColumns");
  if (text === undefined) return schema.metadata.has("dynamos.algorithm") ? [] : undefined;
  try {
    const names: unknown = JSON.parse(text);
    if (Array.isArray(names) && names.every((name): name is string => typeof name === "string")) return names;
  } catch (error) {
    throw new AppError("data_invalid", "The schema's metadata dynamos.groupColumns is not JSON.", { cause: error });
  }
  throw new AppError("data_invalid", "The schema's metadata dynamos.groupColumns is not a JSON array of column names.");
}

function roleOf(field: FieldSpec, isGroupColumn: boolean): Role {
  switch (field.type.kind) {
    case "date":
    case "timestamp":
      return "time";
    case "text":
    case "boolean":
      return "category";
    case "integer":
    case "decimal":
    case "float":
      return isGroupColumn ? "category" : "number";
  }
}

function chartValue(type: FieldType, role: Role, value: CellValue): ChartValue {
  if (role === "category") return value === null ? NO_CATEGORY : clipped(formatCell(type, value));
  if (value === null) return null;
  if (type.kind === "date") return (value as number) * 86_400_000;
  if (type.kind === "timestamp") return Number(value) / 1000;
  const number = type.kind === "decimal" ? Number(formatCell(type, value)) : Number(value);
  return Math.abs(number) <= MAX_NUMBER ? number : null;
}

function clipped(text: string): string {
  if (text === "") return "(empty)";
  return text.length <= MAX_CATEGORY_CHARACTERS ? text : `${text.slice(0, MAX_CATEGORY_CHARACTERS - 1)}…`;
}
