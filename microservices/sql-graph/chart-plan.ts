/** From a choice and its rows to what is drawn: points, orders, titles, and notes on what is left out. Pure. */
import { AppError } from "../../lib/errors.ts";
import { binGroups, type Bin } from "./bins.ts";
import type { BinColumns, ChartChoice, ChartKind } from "./chart-choice.ts";
import { NO_CATEGORY, type ChartColumn, type ChartTable, type ChartValue } from "./chart-table.ts";

/** One mark, or one row of a box: `x2` is a bin's end. Times are milliseconds since the epoch. */
export interface ChartPoint {
  readonly x: number | string;
  readonly x2?: number;
  readonly y: number;
  readonly series?: string;
}

/** A picture without its looks. */
export interface ChartPlan {
  readonly kind: ChartKind;
  readonly title: string;
  /** What the reader must know about what is missing; shown under the title. */
  readonly notes: readonly string[];
  readonly x: { readonly title: string; readonly is: "category" | "number" | "time"; readonly isYear: boolean };
  readonly y: { readonly title: string };
  readonly seriesTitle: string;
  /** In order of appearance on the axis; empty unless x is a category. */
  readonly categories: readonly string[];
  /** In order of the legend; empty for a single series. */
  readonly series: readonly string[];
  readonly points: readonly ChartPoint[];
}

/** Categories on one axis; 30 labels still stand apart at 800 by 500. */
export const MAX_CATEGORIES = 30;
/** Colours that can be told apart. */
export const MAX_SERIES = 8;

/** Plans the picture. Rows without a value are left out and counted in a note. */
export function planChart(table: ChartTable, choice: ChartChoice): ChartPlan {
  if ("totals" in choice) return planTotals(choice.totals);
  if (choice.kind === "histogram") {
    return "bins" in choice
      ? planBins(table, choice.bins, choice.series)
      : planHistogram(table, choice.values, choice.series);
  }
  if (choice.y === undefined) return planCounts(table, choice.x, choice.series);
  return planPoints(table, choice.kind, choice.x, choice.y, choice.series);
}

function planTotals(columns: readonly ChartColumn[]): ChartPlan {
  const single = columns.length === 1 ? columns[0] : undefined;
  const points = columns.flatMap((column) => {
    const value = column.values[0];
    return typeof value === "number" ? [{ x: column.name, y: value }] : [];
  });
  return {
    kind: "bar",
    title: single?.name ?? "Results",
    notes: missingNote(columns.length - points.length, "result"),
    x: { title: "", is: "category", isYear: false },
    y: { title: single?.name ?? "value" },
    seriesTitle: "",
    categories: points.map((point) => point.x),
    series: [],
    points,
  };
}

function planCounts(table: ChartTable, x: ChartColumn | undefined, series: readonly ChartColumn[]): ChartPlan {
  if (x === undefined) throw new AppError("internal", "A bar chart of counts was chosen without a column.");
  const counts = new Map<string, { x: string; series: string; y: number }>();
  for (let row = 0; row < table.rowCount; row++) {
    const place = { x: categoryText(x, row), series: seriesText(series, row) };
    const key = JSON.stringify(place);
    const count = counts.get(key);
    if (count) count.y++;
    else counts.set(key, { ...place, y: 1 });
  }
  const points = [...counts.values()];
  return bounded({
    kind: "bar",
    title: `Rows by ${namesOf([x, ...series])}`,
    notes: [],
    x: { title: x.name, is: "category", isYear: false },
    y: { title: "rows" },
    seriesTitle: namesOf(series),
    categories: inOrder(points.map((point) => point.x)),
    series: series.length === 0 ? [] : inOrder(points.map((point) => point.series)),
    points,
  });
}

function planPoints(
  table: ChartTable,
  kind: "bar" | "line" | "box" | "scatter",
  x: ChartColumn | undefined,
  y: ChartColumn,
  series: readonly ChartColumn[],
): ChartPlan {
  const isCategory = kind === "bar" || kind === "box" || x?.role === "category";
  const points: ChartPoint[] = [];
  for (let row = 0; row < table.rowCount; row++) {
    const [xValue, yValue] = [isCategory ? categoryText(x, row) : x?.values[row], y.values[row]];
    if (typeof yValue !== "number" || xValue === null || xValue === undefined) continue;
    points.push({ x: xValue, y: yValue, ...(series.length > 0 ? { series: seriesText(series, row) } : {}) });
  }
  const others = table.columns.filter((column) => column.role === "number" && column !== y && column !== x);
  return bounded({
    kind,
    title: titleOf(kind, x, y, series),
    notes: [
      ...missingNote(table.rowCount - points.length, "row"),
      ...(table.isGrouped && others.length > 0 ? [`Not shown: ${namesOf(others)}`] : []),
    ],
    x: { title: x?.name ?? "", is: axisKind(x, isCategory), isYear: x !== undefined && isYearColumn(x) },
    y: { title: y.name },
    seriesTitle: namesOf(series),
    categories: isCategory ? inOrder(points.map((point) => String(point.x))) : [],
    series: series.length === 0 ? [] : inOrder(points.map((point) => point.series ?? "")),
    points,
  });
}

function planHistogram(table: ChartTable, values: ChartColumn, series: readonly ChartColumn[]): ChartPlan {
  const groups = new Map<string, number[]>();
  let missing = 0;
  for (let row = 0; row < table.rowCount; row++) {
    const value = values.values[row];
    const name = seriesText(series, row);
    if (typeof value !== "number") missing++;
    else if (!groups.get(name)?.push(value)) groups.set(name, [value]);
  }
  const bins = binGroups(groups, values.type.kind === "integer");
  return histogramPlan(values.name, series, bins, missingNote(missing, "row"));
}

function planBins(table: ChartTable, columns: BinColumns, series: readonly ChartColumn[]): ChartPlan {
  const shown = columns.column?.values[0] ?? undefined;
  const others = new Set<ChartValue>();
  const groups = new Map<string, Bin[]>();
  for (let row = 0; row < table.rowCount; row++) {
    const column = columns.column?.values[row];
    const [start, end, count] = [columns.start, columns.end, columns.count].map((part) => part.values[row]);
    if (column !== shown && column !== undefined) others.add(column);
    else if (typeof start === "number" && typeof end === "number" && typeof count === "number") {
      const name = seriesText(series, row);
      const bin = { start, end, count };
      if (!groups.get(name)?.push(bin)) groups.set(name, [bin]);
    }
  }
  for (const bins of groups.values()) bins.sort((a, b) => a.start - b.start);
  const notes = others.size > 0 ? [`Not shown: ${[...others].join(", ")}`] : [];
  return histogramPlan(String(shown ?? "value"), series, groups, notes);
}

function histogramPlan(
  name: string,
  series: readonly ChartColumn[],
  groups: ReadonlyMap<string, readonly Bin[]>,
  notes: readonly string[],
): ChartPlan {
  const points = [...groups].flatMap(([group, bins]) =>
    bins.map(({ start, end, count }) => ({
      x: start,
      x2: end,
      y: count,
      ...(series.length > 0 ? { series: group } : {}),
    })),
  );
  return bounded({
    kind: "histogram",
    title: `Distribution of ${name}${series.length > 0 ? ` by ${namesOf(series)}` : ""}`,
    notes,
    x: { title: name, is: "number", isYear: false },
    y: { title: "count" },
    seriesTitle: namesOf(series),
    categories: [],
    series: series.length === 0 ? [] : inOrder([...groups.keys()]),
    points,
  });
}

/** Keeps what can be read, and says in a note what is not shown. */
function bounded(plan: ChartPlan): ChartPlan {
  const categories = plan.categories.slice(0, MAX_CATEGORIES);
  const series = plan.series.slice(0, MAX_SERIES);
  const notes = [...plan.notes];
  if (categories.length < plan.categories.length) {
    notes.push(`The first ${MAX_CATEGORIES} of ${grouped(plan.categories.length)} values of ${plan.x.title}`);
  }
  if (series.length < plan.series.length) {
    notes.push(`The first ${MAX_SERIES} of ${grouped(plan.series.length)} values of ${plan.seriesTitle}`);
  }
  const shownCategories = new Set(categories);
  const shownSeries = new Set(series);
  const points = plan.points.filter(
    (point) =>
      (categories.length === 0 || shownCategories.has(String(point.x))) &&
      (series.length === 0 || shownSeries.has(point.series ?? "")),
  );
  return { ...plan, categories, series, notes, points };
}

function titleOf(kind: ChartKind, x: ChartColumn | undefined, y: ChartColumn, series: readonly ChartColumn[]): string {
  const subject = kind === "box" ? `Distribution of ${y.name}` : y.name;
  if (x === undefined) return subject;
  if (kind === "scatter") return `${subject} against ${x.name}${series.length > 0 ? ` by ${namesOf(series)}` : ""}`;
  return `${subject} by ${namesOf([x, ...series])}`;
}

function axisKind(x: ChartColumn | undefined, isCategory: boolean): ChartPlan["x"]["is"] {
  if (isCategory || x === undefined) return "category";
  return x.role === "time" ? "time" : "number";
}

/** Whole numbers between 1000 and 2999 are taken for years, and written without a thousands separator. */
function isYearColumn(column: ChartColumn): boolean {
  return (
    column.type.kind === "integer" &&
    column.values.every((value) => value === null || (Number(value) >= 1000 && Number(value) < 3000))
  );
}

function categoryText(column: ChartColumn | undefined, row: number): string {
  if (column === undefined) return "";
  const value = column.values[row] ?? null;
  if (value === null) return NO_CATEGORY;
  if (column.role !== "time") return String(value);
  const iso = new Date(Number(value)).toISOString();
  return column.type.kind === "date" ? iso.slice(0, 10) : iso.replace(".000Z", "Z");
}

function seriesText(series: readonly ChartColumn[], row: number): string {
  return series.map((column) => categoryText(column, row)).join(" · ");
}

/** Distinct, numbers by size inside the text, independent of the order in which rows came. */
function inOrder(texts: readonly string[]): readonly string[] {
  const collator = new Intl.Collator("en", { numeric: true });
  return [...new Set(texts)].sort((a, b) => signedOrder(a, b) ?? (collator.compare(a, b) || (a < b ? -1 : 1)));
}

/** The order of two plain numbers, which a collator would sort without their signs. */
function signedOrder(a: string, b: string): number | undefined {
  const [first, second] = [Number(a), Number(b)];
  return a === "" || b === "" || Number.isNaN(first) || Number.isNaN(second) ? undefined : first - second;
}

function missingNote(count: number, what: "row" | "result"): readonly string[] {
  if (count === 0) return [];
  return [
    count === 1
      ? `1 ${what} without a value to draw is not shown`
      : `${grouped(count)} ${what}s without a value to draw are not shown`,
  ];
}

function grouped(count: number): string {
  return count.toLocaleString("en-US");
}

function namesOf(columns: readonly ChartColumn[]): string {
  const names = columns.map((column) => column.name);
  return names.length <= 1 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}
