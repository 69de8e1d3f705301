/**
 * A plan as a Vega-Lite 6 specification. Pure, and the only place that knows how pictures look.
 * Column names and categories go in as data and titles only, never as expressions.
 */
import type { ChartPlan, ChartPoint } from "./chart-plan.ts";
import { textWidth } from "./text-width.ts";

/** A Vega-Lite specification; its own types are not worth their cost to the compiler. */
export type VegaLiteSpec = Readonly<Record<string, unknown>>;

/** Size of every picture in CSS pixels. */
export const CHART_WIDTH = 800;
export const CHART_HEIGHT = 500;

const FONT = "DejaVu Sans, sans-serif";
/** Okabe and Ito, "Color Universal Design" (2008), ordered for contrast on white; yellow, the faintest, comes last. */
const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442"];
/** More bars than this carry no number each. */
const MAX_LABELLED_BARS = 16;
/** More points than this hide each other, and make SVGs of megabytes: then cells show how many there are. */
const MAX_POINTS = 4000;
/** Cells along x and y. */
const DENSITY_GRID = [96, 56] as const;

/** The picture of a plan; a plan without points becomes a picture that says so. */
export function chartSpec(plan: ChartPlan): VegaLiteSpec {
  if (plan.points.length === 0) return emptySpec(plan);
  switch (plan.kind) {
    case "bar":
      return withFrame(plan, barLayers(plan));
    case "line":
      return withFrame(plan, lineLayers(plan));
    case "histogram":
      return withFrame(plan, histogramLayers(plan));
    case "box":
      return withFrame(plan, boxLayers(plan));
    case "scatter":
      return withFrame(plan, scatterLayers(plan));
  }
}

function withFrame(plan: ChartPlan, layers: VegaLiteSpec): VegaLiteSpec {
  return { ...frame(plan.title, plan.notes), data: { values: plan.points }, ...layers };
}

function frame(title: string, notes: readonly string[]): VegaLiteSpec {
  return {
    width: CHART_WIDTH,
    height: CHART_HEIGHT,
    autosize: { type: "fit", contains: "padding" },
    background: "white",
    padding: 16,
    title: { text: title, ...(notes.length > 0 ? { subtitle: notes.join(". ") } : {}) },
    config: CONFIG,
  };
}

const CONFIG = {
  font: FONT,
  title: {
    anchor: "start",
    frame: "group",
    fontSize: 17,
    offset: 14,
    limit: 760,
    subtitleFontSize: 12,
    subtitleColor: "#555555",
    subtitlePadding: 5,
  },
  axis: {
    labelFontSize: 12,
    titleFontSize: 13,
    titleFontWeight: "normal",
    titlePadding: 10,
    titleLimit: 400,
    labelLimit: 240,
    maxExtent: 320,
    gridColor: "#E4E4E4",
    domainColor: "#888888",
    tickColor: "#888888",
    labelOverlap: true,
  },
  legend: {
    orient: "top",
    titleFontSize: 12,
    labelFontSize: 12,
    titleFontWeight: "normal",
    labelLimit: 160,
    columns: 4,
  },
  view: { stroke: null },
  range: { category: COLOURS },
};

function emptySpec(plan: ChartPlan): VegaLiteSpec {
  return {
    ...frame(plan.title, plan.notes),
    data: { values: [{}] },
    mark: { type: "text", fontSize: 22, color: "#555555" },
    encoding: { text: { value: "no rows" } },
  };
}

/** Bars lie where their labels would not fit side by side. */
function isLying(plan: ChartPlan): boolean {
  const longest = Math.max(...plan.categories.map((category) => textWidth(category, 12)));
  return plan.categories.length * (longest + 14) > 620;
}

function barLayers(plan: ChartPlan): VegaLiteSpec {
  const isGrouped = plan.series.length > 0;
  const isLabelled = !isGrouped && plan.points.length <= MAX_LABELLED_BARS;
  const [along, across] = isLying(plan) ? ["y", "x"] : ["x", "y"];
  const place = {
    [along]: categoryAxis(plan, isLying(plan)),
    ...(isGrouped ? { [`${along}Offset`]: { field: "series", sort: plan.series } } : {}),
  };
  const length = numberAxis(plan.y.title, plan.points, { isZero: true });
  const bars = {
    mark: { type: "bar" },
    encoding: { ...place, [across]: isLabelled ? withHeadroom(length, plan.points) : length, ...colour(plan) },
  };
  return { layer: isLabelled ? [bars, barNumbers(plan, place, across)] : [bars] };
}

/** Room for numbers beyond the ends of the bars; they also stand in for the grid. */
function withHeadroom(axis: VegaLiteSpec, points: readonly ChartPoint[]): VegaLiteSpec {
  const { low, high } = extent([0, ...points.map((point) => point.y)]);
  const room = (high - low) * 0.08;
  const domain = { ...(low < 0 ? { domainMin: low - room } : {}), ...(high > 0 ? { domainMax: high + room } : {}) };
  return { ...axis, scale: { ...(axis.scale as object), ...domain }, axis: { ...(axis.axis as object), grid: false } };
}

/** The number beside the end of each bar, outside whichever way the bar goes. */
function barNumbers(plan: ChartPlan, place: object, across: string): VegaLiteSpec {
  const values = plan.points.map((point) => ({ ...point, text: numberText(point.y), isNegative: point.y < 0 }));
  const isLyingBar = across === "x";
  const outside = (isNegative: boolean): object =>
    isLyingBar
      ? { align: isNegative ? "right" : "left", dx: isNegative ? -5 : 5, baseline: "middle" }
      : { dy: isNegative ? 10 : -8 };
  const texts = (isNegative: boolean): VegaLiteSpec => ({
    transform: [{ filter: { field: "isNegative", equal: isNegative } }],
    mark: { type: "text", fontSize: 12, color: "#333333", aria: false, ...outside(isNegative) },
    encoding: { ...place, [across]: { field: "y", type: "quantitative" }, text: { field: "text" } },
  });
  const signs = [false, true].filter((sign) => values.some((value) => value.isNegative === sign));
  return { data: { values }, layer: signs.map(texts) };
}

function lineLayers(plan: ChartPlan): VegaLiteSpec {
  const isSparse = plan.points.length <= 60 * Math.max(1, plan.series.length);
  return {
    mark: { type: "line", strokeWidth: 2, ...(isSparse ? { point: { size: 45, filled: true } } : {}) },
    encoding: { x: xAxis(plan), y: numberAxis(plan.y.title, plan.points, { isZero: false }), ...colour(plan) },
  };
}

function histogramLayers(plan: ChartPlan): VegaLiteSpec {
  const y = numberAxis(plan.y.title, plan.points, { isZero: true, isWhole: true });
  const x = { ...xAxis(plan), scale: { zero: false, nice: false } };
  if (plan.series.length === 0) {
    return {
      mark: { type: "bar", stroke: "white", strokeWidth: 0.75 },
      encoding: { x: { ...x, bin: "binned" }, x2: { field: "x2" }, y, ...colour(plan) },
    };
  }
  return {
    data: { values: outlines(plan.points) },
    mark: { type: "area", interpolate: "step-after", line: { strokeWidth: 2 }, fillOpacity: 0.15 },
    encoding: { x, y: { ...y, stack: null }, ...colour(plan) },
  };
}

/** Steps that go down to zero where a series' bins have a gap, and at their end. */
function outlines(points: readonly ChartPoint[]): readonly ChartPoint[] {
  return points.flatMap((point, index) => {
    const next = points[index + 1];
    const isFollowed = next !== undefined && next.series === point.series && next.x === point.x2;
    return isFollowed ? [point] : [point, { ...point, x: point.x2 ?? point.x, y: 0 }];
  });
}

function boxLayers(plan: ChartPlan): VegaLiteSpec {
  const lies = isLying(plan);
  const [along, across] = lies ? ["y", "x"] : ["x", "y"];
  const isGrouped = plan.series.length > 0;
  const size = Math.max(
    4,
    Math.min(50, (lies ? 240 : 400) / (plan.categories.length * Math.max(1, plan.series.length))),
  );
  return {
    mark: {
      type: "boxplot",
      extent: 1.5,
      size,
      median: { color: "white", strokeWidth: 2 },
      outliers: { size: 12, opacity: 0.5 },
      ticks: { size: size / 2 },
    },
    encoding: {
      [along]: { ...categoryAxis(plan, lies), ...(plan.x.title === "" ? { axis: null } : {}) },
      ...(isGrouped ? { [`${along}Offset`]: { field: "series", sort: plan.series } } : {}),
      [across]: numberAxis(plan.y.title, plan.points, { isZero: false }),
      ...colour(plan),
    },
  };
}

function scatterLayers(plan: ChartPlan): VegaLiteSpec {
  const count = plan.points.length;
  const x = xAxis(plan);
  const y = numberAxis(plan.y.title, plan.points, { isZero: false });
  if (count > MAX_POINTS) return { data: { values: densityCells(plan.points) }, ...densityLayers(x, y) };
  const [size, opacity] = count > 500 ? [16, 0.5] : [40, 0.7];
  return { mark: { type: "circle", size, opacity }, encoding: { x, y, ...colour(plan) } };
}

function densityLayers(x: VegaLiteSpec, y: VegaLiteSpec): VegaLiteSpec {
  return {
    mark: { type: "rect", aria: false },
    encoding: {
      x: { ...x, scale: { ...(x.scale as object), nice: false } },
      x2: { field: "x2" },
      y: { ...y, scale: { ...(y.scale as object), nice: false } },
      y2: { field: "y2" },
      color: {
        field: "count",
        type: "quantitative",
        title: "rows",
        // A logarithm keeps the thin edges of a cloud visible beside its middle.
        scale: { type: "log", scheme: "blues", domainMin: 1 },
        legend: { orient: "right", format: ",~f", gradientLength: 160 },
      },
    },
  };
}

interface DensityCell {
  readonly x: number;
  readonly x2: number;
  readonly y: number;
  readonly y2: number;
  readonly count: number;
}

function densityCells(points: readonly ChartPoint[]): readonly DensityCell[] {
  const [columns, rows] = DENSITY_GRID;
  const [xs, ys] = [extent(points.map((point) => Number(point.x))), extent(points.map((point) => point.y))];
  const [width, height] = [(xs.high - xs.low) / columns || 1, (ys.high - ys.low) / rows || 1];
  const counts = new Map<number, number>();
  for (const point of points) {
    const column = Math.min(columns - 1, Math.floor((Number(point.x) - xs.low) / width));
    const row = Math.min(rows - 1, Math.floor((point.y - ys.low) / height));
    counts.set(row * columns + column, (counts.get(row * columns + column) ?? 0) + 1);
  }
  return [...counts].map(([cell, count]) => {
    const [x, y] = [xs.low + (cell % columns) * width, ys.low + Math.floor(cell / columns) * height];
    return { x, x2: x + width, y, y2: y + height, count };
  });
}

function extent(values: readonly number[]): { readonly low: number; readonly high: number } {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return { low, high };
}

function colour(plan: ChartPlan): VegaLiteSpec {
  if (plan.series.length === 0) return { color: { value: COLOURS[0] } };
  return {
    color: {
      field: "series",
      type: "nominal",
      sort: plan.series,
      scale: { domain: plan.series, range: COLOURS.slice(0, plan.series.length) },
      title: plan.seriesTitle,
      // Marks may be see-through; the legend shows the colour itself.
      legend: { symbolOpacity: 1, symbolStrokeWidth: 2 },
    },
  };
}

function categoryAxis(plan: ChartPlan, lies: boolean): VegaLiteSpec {
  const small = plan.categories.length > 20 ? { labelFontSize: 10 } : {};
  return {
    field: "x",
    type: "nominal",
    sort: plan.categories,
    title: plan.x.title || null,
    scale: { paddingInner: plan.categories.length <= 4 ? 0.4 : 0.2, paddingOuter: 0.2 },
    axis: { labelAngle: 0, labelOverlap: false, ticks: false, ...(lies ? small : {}) },
  };
}

function xAxis(plan: ChartPlan): VegaLiteSpec {
  switch (plan.x.is) {
    case "category":
      return {
        ...categoryAxis(plan, false),
        axis: { labelAngle: isLying(plan) ? -40 : 0, labelOverlap: true, labelLimit: 110 },
      };
    case "number":
      return { ...numberAxis(plan.x.title, xPoints(plan), { isZero: false, isYear: plan.x.isYear }), field: "x" };
    case "time":
      return timeAxis(plan);
  }
}

function xPoints(plan: ChartPlan): readonly ChartPoint[] {
  return plan.points.map((point) => ({ x: point.x, y: Number(point.x) }));
}

function timeAxis(plan: ChartPlan): VegaLiteSpec {
  const times = [...new Set(plan.points.map((point) => Number(point.x)))].sort((a, b) => a - b);
  const areDays = times.every((time) => time % DAY === 0);
  const span = (times.at(-1) ?? 0) - (times[0] ?? 0);
  // A few dates are named as they are; many get the axis' own round ones, with as much as tells them apart.
  const named = { values: times, format: areDays ? "%Y-%m-%d" : "%Y-%m-%d %H:%M" };
  return {
    field: "x",
    type: "temporal",
    scale: { type: "utc", padding: plan.points.length > MAX_POINTS ? 0 : 16 },
    title: plan.x.title,
    axis: {
      ...(times.length <= 7 ? named : { tickCount: 7, format: timeFormat(span) }),
      labelOverlap: "greedy",
      grid: false,
    },
  };
}

const DAY = 86_400_000;

function timeFormat(span: number): string {
  if (span > 5 * 366 * DAY) return "%Y";
  if (span > 150 * DAY) return "%b %Y";
  return span > 5 * DAY ? "%Y-%m-%d" : "%d %b %H:%M";
}

interface NumberAxis {
  readonly isZero: boolean;
  readonly isWhole?: boolean;
  readonly isYear?: boolean;
}

function numberAxis(title: string, points: readonly ChartPoint[], options: NumberAxis): VegaLiteSpec {
  const largest = points.reduce((most, point) => Math.max(most, Math.abs(point.y)), 0);
  const format = options.isYear ? "d" : largest >= 1e15 || (largest > 0 && largest < 1e-3) ? ".2~e" : ",~f";
  return {
    field: "y",
    type: "quantitative",
    title,
    scale: { zero: options.isZero, nice: true },
    axis: { format, tickCount: 7, ...(options.isWhole ? { tickMinStep: 1 } : {}) },
  };
}

/** A number with thousands separators and about four digits that matter. */
function numberText(value: number): string {
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e15 || size < 1e-4)) return value.toExponential(2).replaceAll("-", "−");
  const decimals = size >= 1000 || Number.isInteger(value) ? 0 : Math.max(0, 3 - Math.floor(Math.log10(size)));
  return value.toLocaleString("en-US", { maximumFractionDigits: decimals }).replace("-", "−");
}
