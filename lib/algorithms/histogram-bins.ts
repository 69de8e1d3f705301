/**
 * Which bin a value falls into. It depends on the value, its type and the request alone, never on other values, so the
 * histograms of several parties pool exactly (decision 15).
 *
 * Without bins in the request, numbers fall into a fixed grid with about 35 bins per decade: from 1 to 2 in steps of 0.1,
 * from 2 to 5 in steps of 0.2, from 5 to 10 in steps of 0.5, and so on times every power of ten; negative numbers into its
 * mirror image. No bin is narrower than the last digit of an integer or decimal; floats below 10^-9 are in the bin at
 * zero. Dates and timestamps fall into calendar units.
 *
 * A bin has a key, the same for integers, decimals and floats, so that also columns of different numeric types pool.
 */
import { Type, type Static } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import type { FieldType } from "../data/field-types.ts";
import { AppError } from "../errors.ts";
import type { Binning } from "./binning.ts";
import { calendarBins, timeOfText } from "./calendar-bins.ts";
import {
  addDecimals,
  compareDecimals,
  decimalOfCell,
  decimalOfNumber,
  floorDivideDecimals,
  numberOfDecimal,
  type ExactDecimal,
} from "./exact-decimal.ts";
import { isTime } from "./moments.ts";
import { scaleOf } from "./widening.ts";

/** `algorithmParameters.histogram`: edges, or a width (with an origin), or a calendar unit; nothing: the fixed grid. */
export const HistogramParameters = Type.Object(
  {
    /** Edges in ascending order; numbers, or ISO dates and instants as text. A bin has its start in it, the last one also its end. */
    bins: Type.Optional(
      Type.Array(Type.Union([Type.Number(), Type.String({ maxLength: 40 })]), { minItems: 2, maxItems: 10_001 }),
    ),
    /** Bins of this width, one of them starting at `origin` (default 0). */
    width: Type.Optional(Type.Number({ exclusiveMinimum: 0 })),
    origin: Type.Optional(Type.Number()),
    /** Of dates and timestamps. Default `year`. `hour` is for timestamps. */
    unit: Type.Optional(
      Type.Union([
        Type.Literal("year"),
        Type.Literal("quarter"),
        Type.Literal("month"),
        Type.Literal("day"),
        Type.Literal("hour"),
      ]),
    ),
  },
  { additionalProperties: false },
);
export type HistogramParameters = Static<typeof HistogramParameters>;

/** The way that the request's parameters give for this type; `invalid_argument` when they do not fit it. */
export function binningFor(type: FieldType, parameters: unknown): Binning {
  const checked = parameters ?? {};
  if (!Value.Check(HistogramParameters, checked)) {
    const fault = Value.Errors(HistogramParameters, checked).First();
    throw invalid(`${fault?.path ?? ""}: ${fault?.message ?? "it does not match its schema"}`);
  }
  const { bins, width, origin, unit } = checked;
  if ([bins, width, unit].filter((given) => given !== undefined).length > 1) {
    throw invalid("give only one of bins, width and unit");
  }
  if (origin !== undefined && width === undefined) throw invalid("origin goes with width");
  if (bins !== undefined) return edgeBins(type, bins);
  if (isTime(type)) {
    if (width !== undefined) throw invalid("width is for numbers; give a unit for dates and timestamps");
    return calendarBins(type, unit ?? "year");
  }
  if (unit !== undefined) throw invalid("unit is for dates and timestamps; give a width for numbers");
  return numeric(type, width === undefined ? gridBins(type) : widthBins(type, width, origin ?? 0));
}

/** Bins for NaN and the infinities beside those of a numeric binning. */
function numeric(type: FieldType, binning: Binning): Binning {
  if (type.kind !== "float") return binning;
  return {
    keyOf: (value) => (Number.isFinite(value) ? binning.keyOf(value) : String(value)),
    ends: (key) => {
      if (["NaN", "Infinity", "-Infinity"].includes(key)) return [Number(key), Number(key)];
      return binning.ends(key);
    },
  };
}

/** Floats of a smaller magnitude than 10^SMALLEST_DECADE are in the bin at zero. */
const SMALLEST_DECADE = -9;
/** Beyond the magnitudes of doubles and of 38 digits. */
const LARGEST_EXPONENT = 400;

/** The fixed grid. A key is the bin's end nearest to zero as two digits and a power of ten: `-24e1`, or `0`. */
function gridBins(type: FieldType): Binning {
  const finest: ExactDecimal =
    type.kind === "float" ? { digits: 1n, exponent: SMALLEST_DECADE } : { digits: 1n, exponent: -scaleOf(type) };
  return {
    keyOf(value) {
      if (type.kind === "float") return floatKey(value as number);
      const { digits, exponent } = decimalOfCell(type, value);
      const [sign, text] = digits < 0n ? ["-", (-digits).toString()] : ["", digits.toString()];
      const decade = text.length - 1 + exponent;
      if (digits === 0n) return "0";
      const twoDigits = Number(text.slice(0, 2).padEnd(2, "0"));
      return `${sign}${twoDigits - (twoDigits % gridStep(twoDigits))}e${decade - 1}`;
    },
    ends(key) {
      const match = /^(-?)(?:0|([1-9][0-9])e(0|-?[1-9][0-9]{0,2}))$/.exec(key);
      if (!match) return undefined;
      const [, sign, digits = "0", power = "0"] = match;
      const [twoDigits, exponent] = [Number(digits), Number(power)];
      if (Math.abs(exponent) > LARGEST_EXPONENT || (twoDigits !== 0 && twoDigits % gridStep(twoDigits) !== 0))
        return undefined;
      const step: ExactDecimal = { digits: BigInt(twoDigits === 0 ? 0 : gridStep(twoDigits)), exponent };
      const near: ExactDecimal = { digits: BigInt(twoDigits), exponent };
      const far = addDecimals(near, compareDecimals(step, finest) < 0 ? finest : step);
      const [nearNumber, farNumber] = [numberOfDecimal(near), numberOfDecimal(far)];
      return sign === "-" ? [-farNumber, nearNumber === 0 ? 0 : -nearNumber] : [nearNumber, farNumber];
    },
  };
}

/** Straight from the digits of the shortest decimal: floats are many, and bigints slow. */
function floatKey(value: number): string {
  const sign = value < 0 ? "-" : "";
  const text = Math.abs(value).toExponential();
  const decade = Number(text.slice(text.indexOf("e") + 1));
  if (value === 0) return "0";
  if (decade < SMALLEST_DECADE) return `${sign}0`;
  const twoDigits = Number(text.charAt(0)) * 10 + (text.charAt(1) === "." ? Number(text.charAt(2)) : 0);
  return `${sign}${twoDigits - (twoDigits % gridStep(twoDigits))}e${decade - 1}`;
}

/** Steps of the grid for numbers whose first two digits are these: 10 to 19, 20 to 49, 50 to 99. */
function gridStep(twoDigits: number): number {
  return twoDigits < 20 ? 1 : twoDigits < 50 ? 2 : 5;
}

/** Bins of one width. A key is the number of bins from the origin. */
function widthBins(type: FieldType, width: number, origin: number): Binning {
  const [step, start] = [decimalOfNumber(width), decimalOfNumber(origin)];
  return {
    keyOf: (value) => floorDivideDecimals(addDecimals(decimalOfCell(type, value), start, -1n), step).toString(),
    ends(key) {
      if (!/^-?[0-9]{1,700}$/.test(key)) return undefined;
      const index = BigInt(key);
      return [numberOfDecimal(addDecimals(start, step, index)), numberOfDecimal(addDecimals(start, step, index + 1n))];
    },
  };
}

/** The request's own edges. A key is the number of the edge that the bin starts at; -1 is what lies below all. */
function edgeBins(type: FieldType, given: readonly (number | string)[]): Binning {
  const isOfTime = isTime(type);
  const cells = given.map((edge) => (isOfTime ? timeOfText(type, edge) : edge));
  if (cells.some((cell) => cell === undefined || typeof cell === "string")) {
    throw invalid(isOfTime ? "the edges of dates and timestamps are ISO texts" : "the edges of numbers are numbers");
  }
  const edges = cells.map((cell) => (isOfTime ? decimalOfCell(type, cell as bigint) : decimalOfNumber(cell as number)));
  if (edges.some((edge, i) => i > 0 && compareDecimals(edges[i - 1] as ExactDecimal, edge) >= 0)) {
    throw invalid("the edges must ascend");
  }
  const last = edges.length - 1;
  return {
    keyOf(value) {
      if (Number.isNaN(value)) return "NaN";
      if (value === Number.POSITIVE_INFINITY) return String(last);
      if (value === Number.NEGATIVE_INFINITY) return "-1";
      const decimal = decimalOfCell(type, value);
      const place = lastEdgeAtOrBelow(edges, decimal);
      const isAtEnd = place === last && compareDecimals(edges[last] as ExactDecimal, decimal) === 0;
      return String(isAtEnd ? last - 1 : place);
    },
    ends(key) {
      if (key === "NaN") return [Number.NaN, Number.NaN];
      if (!/^(-1|[0-9]{1,5})$/.test(key) || Number(key) > last) return undefined;
      return [cells[Number(key)] ?? null, cells[Number(key) + 1] ?? null];
    },
  };
}

/** Place of the last edge at or below the value, -1 if all are above it. */
function lastEdgeAtOrBelow(edges: readonly ExactDecimal[], value: ExactDecimal): number {
  let [low, high] = [0, edges.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compareDecimals(edges[middle] as ExactDecimal, value) <= 0) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function invalid(why: string): AppError {
  return new AppError("invalid_argument", `algorithmParameters.histogram cannot be used: ${why}.`);
}
