/** What a request asks of an algorithm, resolved against the columns that there are. Pure. */
import { TYPE_UNKNOWN } from "../data/field-metadata.ts";
import type { FieldSpec, FieldType } from "../data/field-types.ts";
import { AppError } from "../errors.ts";
import { algorithmsNamed } from "./registry.ts";
import type { Algorithm, AlgorithmParameters } from "./summary.ts";
import { typeInWords } from "./widening.ts";

/** The part of a data request that is about algorithms. */
export interface AlgorithmRequest {
  /** Names, separated by commas. */
  readonly algorithm: string;
  /** Group columns ("" or "*": none) to value columns ("*": rows), both separated by commas. Absent: no groups, all rows. */
  readonly algorithmColumns?: Readonly<Record<string, string>> | undefined;
  readonly algorithmParameters?: AlgorithmParameters | undefined;
}

/** A column of the input. */
export interface PlannedColumn {
  readonly name: string;
  readonly type: FieldType;
  /** It holds nulls only, of no known type: any type may take its place when answers are pooled. */
  readonly isTypeUnknown?: true;
}

/** A column of values with the algorithms over it. The column named `*` stands for the rows themselves. */
export interface ValueColumn extends PlannedColumn {
  readonly algorithms: readonly Algorithm[];
}

/** One way to group, and what is computed for each group. */
export interface Grouping {
  readonly groupColumns: readonly PlannedColumn[];
  readonly valueColumns: readonly ValueColumn[];
}

/** All that a request asks for. */
export interface GroupingPlan {
  readonly algorithms: readonly Algorithm[];
  readonly parameters: AlgorithmParameters;
  readonly groupings: readonly Grouping[];
}

/** The value column that stands for rows. */
export const ROWS = "*";

const MAXIMUM_VALUE_COLUMNS = 200;

/**
 * Resolves a request. Fails with `algorithm_unknown`, `column_unknown` (both list the known ones), `type_mismatch` for an
 * algorithm that does not work on a column's type, or `invalid_argument`.
 */
export function planGroupings(fields: readonly FieldSpec[], request: AlgorithmRequest): GroupingPlan {
  const algorithms = algorithmsNamed(request.algorithm);
  if (algorithms.length === 0) throw new AppError("invalid_argument", "The request names no algorithm.");
  checkShapes(algorithms);
  const asked = Object.entries(request.algorithmColumns ?? {});
  const groupings = mergeGroupings(
    (asked.length === 0 ? [["", ""] as const] : asked).map(([groups, values]) => ({
      groupColumns: groupColumns(fields, groups),
      valueColumns: valueColumns(fields, values, algorithms),
    })),
  );
  if (groupings.reduce((count, grouping) => count + grouping.valueColumns.length, 0) > MAXIMUM_VALUE_COLUMNS) {
    throw new AppError("invalid_argument", `algorithmColumns names more than ${MAXIMUM_VALUE_COLUMNS} value columns.`, {
      details: { limit: MAXIMUM_VALUE_COLUMNS },
    });
  }
  return { algorithms, parameters: request.algorithmParameters ?? {}, groupings };
}

/** Entries that group by the same columns ("" and "*", "a,b" and "a, b") as one: nothing in the answer would tell their rows apart. */
function mergeGroupings(groupings: readonly Grouping[]): readonly Grouping[] {
  const merged = new Map<string, Grouping>();
  for (const { groupColumns, valueColumns } of groupings) {
    const key = JSON.stringify(namesOf(groupColumns));
    const columns = new Map([...(merged.get(key)?.valueColumns ?? []), ...valueColumns].map((one) => [one.name, one]));
    merged.set(key, { groupColumns, valueColumns: [...columns.values()] });
  }
  return [...merged.values()];
}

/** The algorithms of the plan over a column; fails where one does not take its type. */
export function algorithmsFor(column: PlannedColumn, algorithms: readonly Algorithm[]): readonly Algorithm[] {
  if (column.name === ROWS) return algorithms.filter((algorithm) => algorithm.name === "count");
  for (const algorithm of algorithms) {
    if (algorithm.accepts(column.type)) continue;
    throw new AppError(
      "type_mismatch",
      `${algorithm.name} does not work on the column "${column.name}" of type ${typeInWords(column.type)}; it takes ` +
        `${algorithm.acceptsInWords}. Name other columns in algorithmColumns, or CAST this one in the query.`,
      { details: { algorithm: algorithm.name, column: column.name, type: typeInWords(column.type) } },
    );
  }
  return algorithms;
}

function checkShapes(algorithms: readonly Algorithm[]): void {
  const ofBins = algorithms.find((algorithm) => algorithm.shape === "bins");
  if (ofBins === undefined || algorithms.length === 1) return;
  throw new AppError(
    "invalid_argument",
    `${ofBins.name} gives rows of its own: ask for it in a request without other algorithms.`,
  );
}

function groupColumns(fields: readonly FieldSpec[], names: string): readonly PlannedColumn[] {
  return names.trim() === ROWS ? [] : columnsNamed(fields, names);
}

function valueColumns(
  fields: readonly FieldSpec[],
  names: string,
  algorithms: readonly Algorithm[],
): readonly ValueColumn[] {
  const rows: PlannedColumn = { name: ROWS, type: { kind: "integer" } };
  const named = names.split(",").map((name) => name.trim());
  const withoutRows = fields.some((field) => field.name === names)
    ? names
    : named.filter((name) => name !== ROWS).join(",");
  const columns = columnsNamed(fields, withoutRows);
  const isOfRows = named.includes(ROWS) || columns.length === 0;
  const rowless = algorithms.find((algorithm) => algorithm.name !== "count");
  if (columns.length === 0 && rowless !== undefined) {
    throw new AppError(
      "invalid_argument",
      `${rowless.name} needs columns of values: name them in algorithmColumns, as {"<group column>": "<value column>"} or, ` +
        `without groups, {"": "<value column>"}. The columns are: ${namesOf(fields).join(", ")}.`,
      { details: { known: namesOf(fields) } },
    );
  }
  return [...(isOfRows ? [rows] : []), ...columns]
    .map((column) => ({ ...column, algorithms: algorithmsFor(column, algorithms) }))
    .filter((column) => column.algorithms.length > 0);
}

/** The columns of a list of names, each once. A column whose own name has a comma can be named alone. */
function columnsNamed(fields: readonly FieldSpec[], names: string): readonly PlannedColumn[] {
  const isOneName = fields.some((field) => field.name === names);
  const list = isOneName ? [names] : names.split(",").filter((name) => name.trim() !== "");
  return [...new Set(list.map((name) => columnNamed(fields, isOneName ? name : name.trim())))].map(plannedColumn);
}

/** Nulls of no known type are taken for integers, which every algorithm accepts. */
function plannedColumn({ name, type, metadata }: FieldSpec): PlannedColumn {
  return metadata?.[TYPE_UNKNOWN] === "true"
    ? { name, type: { kind: "integer" }, isTypeUnknown: true }
    : { name, type };
}

/** By its exact name, otherwise, as in SQL, in any case. */
function columnNamed(fields: readonly FieldSpec[], name: string): FieldSpec {
  const exact = fields.filter((field) => field.name === name);
  const found = exact.length > 0 ? exact : fields.filter((field) => field.name.toLowerCase() === name.toLowerCase());
  if (found.length === 1 && found[0] !== undefined) return found[0];
  const known = namesOf(fields);
  const why =
    found.length === 0
      ? `There is no column "${name}"`
      : `There are several columns "${name}"; name them apart with AS`;
  throw new AppError("column_unknown", `${why}. The query's columns are: ${known.join(", ")}.`, {
    details: { column: name, known },
  });
}

function namesOf(fields: readonly { readonly name: string }[]): readonly string[] {
  return fields.map((field) => field.name);
}
