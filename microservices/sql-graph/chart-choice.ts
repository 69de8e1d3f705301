/** Which picture suits a result: by the analyst's input, else by the data's shape. Pure. */
import { AppError } from "../../lib/errors.ts";
import type { ChartColumn, ChartTable, Role } from "./chart-table.ts";

/** The kinds of picture. */
export const CHART_KINDS = ["bar", "line", "histogram", "box", "scatter"] as const;
export type ChartKind = (typeof CHART_KINDS)[number];

/** What the analyst may say; everything left out follows from the data. Names are columns of the result. */
export interface ChartInput {
  readonly kind?: string;
  readonly x?: string;
  readonly y?: string;
  readonly series?: string;
}

/** A kind, and the columns that it is drawn from. */
export type ChartChoice =
  | {
      readonly kind: "bar" | "line" | "box" | "scatter";
      /** Left out: one box over all rows. */
      readonly x: ChartColumn | undefined;
      /** Left out (bar only): rows are counted. */
      readonly y: ChartColumn | undefined;
      readonly series: readonly ChartColumn[];
    }
  /** The single row of results without groups: one bar for each of its numbers. */
  | { readonly kind: "bar"; readonly totals: readonly ChartColumn[] }
  | { readonly kind: "histogram"; readonly values: ChartColumn; readonly series: readonly ChartColumn[] }
  /** Bins that sql-algorithm counted. */
  | { readonly kind: "histogram"; readonly bins: BinColumns; readonly series: readonly ChartColumn[] };

/** The columns of sql-algorithm's histogram. */
export interface BinColumns {
  readonly start: ChartColumn;
  readonly end: ChartColumn;
  readonly count: ChartColumn;
  /** Names the column that each row's bin is of. */
  readonly column: ChartColumn | undefined;
}

/** Series columns that are tried until every row has a place of its own. */
const MAX_SERIES_COLUMNS = 3;
/** A category with more values than this does not become colours unless asked for. */
const MAX_AUTOMATIC_SERIES = 8;

/**
 * Chooses. Fails with `invalid_argument` for an unknown kind, or one that these columns cannot make, and with
 * `column_unknown` for a column that is not in the result; both list what there is.
 */
export function chooseChart(table: ChartTable, input: ChartInput): ChartChoice {
  const kind = input.kind === undefined ? undefined : knownKind(input.kind);
  const asked = { x: known(table, input.x), y: known(table, input.y), series: known(table, input.series) };
  const bins = binColumns(table);
  if (bins !== undefined && (kind ?? "histogram") === "histogram") return chooseBins(table, bins, asked);
  switch (kind ?? kindByShape(table, asked)) {
    case "bar":
      return chooseBar(table, asked);
    case "line":
      return chooseLine(table, asked);
    case "histogram":
      return chooseHistogram(table, asked);
    case "box":
      return chooseBox(table, asked);
    case "scatter":
      return chooseScatter(table, asked);
  }
}

/** Checks what can be checked before any row is there; fails as {@link chooseChart} does. */
export function checkChartInput(columnNames: readonly string[], { kind, x, y, series }: ChartInput): void {
  if (kind !== undefined) knownKind(kind);
  for (const name of [x, y, series])
    if (name !== undefined && !columnNames.includes(name)) throw unknown(name, columnNames);
}

/** Whether no two rows have the same values in these columns, so that one mark can stand for each. */
export function isUnique(columns: readonly ChartColumn[], rowCount: number): boolean {
  const seen = new Set<string>();
  for (let row = 0; row < rowCount; row++) {
    const key = JSON.stringify(columns.map((column) => column.values[row]));
    if (seen.has(key)) return false;
    seen.add(key);
  }
  return true;
}

interface Asked {
  readonly x: ChartColumn | undefined;
  readonly y: ChartColumn | undefined;
  readonly series: ChartColumn | undefined;
}

function knownKind(kind: string): ChartKind {
  const found = CHART_KINDS.find((known) => known === kind);
  if (found !== undefined) return found;
  throw new AppError("invalid_argument", `There is no chart kind "${kind}". Known kinds: ${CHART_KINDS.join(", ")}.`, {
    details: { known: CHART_KINDS },
  });
}

function known(table: ChartTable, name: string | undefined): ChartColumn | undefined {
  if (name === undefined) return undefined;
  const found = table.columns.find((column) => column.name === name);
  if (found !== undefined) return found;
  throw unknown(
    name,
    table.columns.map((column) => column.name),
  );
}

function unknown(name: string, names: readonly string[]): AppError {
  return new AppError("column_unknown", `The result has no column "${name}" to draw. It has: ${names.join(", ")}.`, {
    details: { column: name, known: names },
  });
}

function kindByShape(table: ChartTable, asked: Asked): ChartKind {
  const y = asked.y ?? firstOf(table, "number", [asked.x, asked.series]);
  const x = asked.x ?? keyColumn(table, [asked.y, asked.series]);
  if (x === undefined) {
    const numbers = table.columns.filter((column) => column.role === "number");
    if (table.rowCount <= 1 || table.isGrouped) return "bar";
    return numbers.length >= 2 ? "scatter" : "histogram";
  }
  if (y === undefined) return x.role === "number" ? "histogram" : "bar";
  if (x.role === "number") return "scatter";
  const isMoving = x.role === "time" && distinct(x, table.rowCount, 2) >= 2;
  if (separatingSeries(table, x, y, asked.series) === undefined) return isMoving ? "scatter" : "box";
  return isMoving ? "line" : "bar";
}

/** What rows are told apart by: a time that moves, else a category. */
function keyColumn(table: ChartTable, without: readonly (ChartColumn | undefined)[]): ChartColumn | undefined {
  const moving = table.columns.find(
    (column) => column.role === "time" && !without.includes(column) && distinct(column, table.rowCount, 2) >= 2,
  );
  return (
    moving ?? firstOf(table, "category", without) ?? (table.isGrouped ? firstOf(table, "time", without) : undefined)
  );
}

function chooseBar(table: ChartTable, asked: Asked): ChartChoice {
  const x = asked.x ?? firstOf(table, "category", [asked.y, asked.series]) ?? firstOf(table, "time", [asked.y]);
  const y = asked.y === undefined ? firstOf(table, "number", [x, asked.series]) : numeric(table, "y", asked.y);
  if (x === undefined) {
    const totals = asked.y ? [asked.y] : table.columns.filter((column) => column.role === "number");
    if (table.rowCount <= 1 && totals.length > 0) return { kind: "bar", totals };
    throw unsuited("bar", "a column to group by (x)", table);
  }
  if (y === undefined) return { kind: "bar", x, y, series: asked.series ? [asked.series] : [] };
  const series = separatingSeries(table, x, y, asked.series);
  if (series === undefined) throw notSeparate("bar", x, y, "box");
  return { kind: "bar", x, y, series };
}

function chooseLine(table: ChartTable, asked: Asked): ChartChoice {
  const x =
    asked.x ??
    firstOf(table, "time", [asked.y, asked.series]) ??
    firstOf(table, "category", [asked.y, asked.series]) ??
    firstOf(table, "number", [asked.y, asked.series]);
  const y = asked.y === undefined ? firstOf(table, "number", [x, asked.series]) : numeric(table, "y", asked.y);
  if (x === undefined || y === undefined) throw unsuited("line", "a column along the line (x) and a number (y)", table);
  const series = separatingSeries(table, x, y, asked.series);
  if (series === undefined) throw notSeparate("line", x, y, "scatter");
  return { kind: "line", x, y, series };
}

function chooseHistogram(table: ChartTable, asked: Asked): ChartChoice {
  const values = asked.x ?? asked.y ?? firstOf(table, "number", [asked.series]);
  if (values === undefined) throw unsuited("histogram", "a number (x)", table);
  return { kind: "histogram", values: numeric(table, "x", values), series: fewOf(table, [values], asked.series) };
}

function chooseBins(table: ChartTable, bins: BinColumns, asked: Asked): ChartChoice {
  if (asked.series) return { kind: "histogram", bins, series: [asked.series] };
  const used = [bins.start, bins.end, bins.count, bins.column];
  const groups = table.columns.filter((column) => column.role !== "number" && !used.includes(column));
  return { kind: "histogram", bins, series: groups.filter((column) => distinct(column, table.rowCount, 2) >= 2) };
}

function chooseBox(table: ChartTable, asked: Asked): ChartChoice {
  const y = asked.y === undefined ? firstOf(table, "number", [asked.x, asked.series]) : numeric(table, "y", asked.y);
  if (y === undefined) throw unsuited("box", "a number (y)", table);
  return {
    kind: "box",
    x: asked.x ?? firstOf(table, "category", [asked.series]),
    y,
    series: asked.series ? [asked.series] : [],
  };
}

function chooseScatter(table: ChartTable, asked: Asked): ChartChoice {
  const moving = keyColumn(table, [asked.y, asked.series]);
  const x =
    asked.x ?? (moving?.role === "time" ? moving : undefined) ?? firstOf(table, "number", [asked.y, asked.series]);
  const y = asked.y === undefined ? firstOf(table, "number", [x, asked.series]) : numeric(table, "y", asked.y);
  if (x === undefined || y === undefined) throw unsuited("scatter", "two numbers (x and y)", table);
  if (x.role === "category") numeric(table, "x", x);
  return { kind: "scatter", x, y, series: fewOf(table, [x, y], asked.series) };
}

function binColumns(table: ChartTable): BinColumns | undefined {
  const column = (name: string, role: Role): ChartColumn | undefined =>
    table.columns.find((candidate) => candidate.name === name && candidate.role === role);
  const [start, end, count] = [column("binStart", "number"), column("binEnd", "number"), column("count", "number")];
  if (start === undefined || end === undefined || count === undefined) return undefined;
  return { start, end, count, column: column("column", "category") };
}

/** The categories that, with x, give every row a place of its own; undefined when none do. */
function separatingSeries(
  table: ChartTable,
  x: ChartColumn,
  y: ChartColumn,
  asked: ChartColumn | undefined,
): readonly ChartColumn[] | undefined {
  if (asked) return isUnique([x, asked], table.rowCount) ? [asked] : undefined;
  const others = table.columns.filter((column) => column !== x && column !== y && column.role !== "number");
  for (let count = 0; count <= Math.min(MAX_SERIES_COLUMNS, others.length); count++) {
    const series = others.slice(0, count);
    if (isUnique([x, ...series], table.rowCount)) return series;
  }
  return undefined;
}

/** The series asked for, else the first category of few values. */
function fewOf(
  table: ChartTable,
  without: readonly ChartColumn[],
  asked: ChartColumn | undefined,
): readonly ChartColumn[] {
  if (asked) return [asked];
  const few = table.columns.find((column) => {
    if (column.role !== "category" || without.includes(column)) return false;
    const count = distinct(column, table.rowCount, MAX_AUTOMATIC_SERIES + 1);
    return count >= 2 && count <= MAX_AUTOMATIC_SERIES;
  });
  return few ? [few] : [];
}

function firstOf(
  table: ChartTable,
  role: Role,
  without: readonly (ChartColumn | undefined)[],
): ChartColumn | undefined {
  return table.columns.find((column) => column.role === role && !without.includes(column));
}

/** Number of different values, counted up to `enough`. */
function distinct(column: ChartColumn, rowCount: number, enough: number): number {
  const seen = new Set<unknown>();
  for (let row = 0; row < rowCount && seen.size < enough; row++) seen.add(column.values[row]);
  return seen.size;
}

function numeric(table: ChartTable, place: string, column: ChartColumn): ChartColumn {
  if (column.role === "number") return column;
  throw new AppError(
    "invalid_argument",
    `Column "${column.name}" holds no numbers to draw along ${place}. Columns with numbers: ${numbersOf(table)}.`,
    { details: { column: column.name } },
  );
}

function unsuited(kind: ChartKind, needs: string, table: ChartTable): AppError {
  const columns = table.columns.map((column) => `${column.name} (${column.role})`).join(", ");
  return new AppError(
    "invalid_argument",
    `A ${kind} chart needs ${needs}. The result has: ${columns || "no columns"}.`,
  );
}

function notSeparate(kind: ChartKind, x: ChartColumn, y: ChartColumn, better: ChartKind): AppError {
  return new AppError(
    "invalid_argument",
    `A ${kind} chart shows one value of "${y.name}" for each "${x.name}" and series, but the result has several. ` +
      `Choose an algorithm, another series, or the kind ${better}.`,
  );
}

function numbersOf(table: ChartTable): string {
  const names = table.columns.filter((column) => column.role === "number").map((column) => column.name);
  return names.length === 0 ? "none" : names.join(", ");
}
