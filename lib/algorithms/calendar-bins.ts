/** Bins of dates and timestamps: calendar units (proleptic Gregorian, UTC). */
import type { CellValue, FieldType } from "../data/field-types.ts";
import { AppError } from "../errors.ts";
import type { Binning } from "./binning.ts";

/** A unit of the calendar. */
export type CalendarUnit = "year" | "quarter" | "month" | "day" | "hour";

const MS_PER_HOUR = 3_600_000;
const MS_PER_DAY = 24 * MS_PER_HOUR;

/** Bins of one unit. A key is the unit's start, as days or as microseconds since 1970. */
export function calendarBins(type: FieldType, unit: CalendarUnit): Binning {
  if (type.kind === "date" && unit === "hour") {
    throw new AppError("invalid_argument", "algorithmParameters.histogram.unit: a date has no hours.");
  }
  return {
    keyOf: (value) => String(cellOfMs(type, unitStart(msOfCell(type, value), unit, 0))),
    ends(key) {
      if (!/^-?[0-9]{1,18}$/.test(key)) return undefined;
      const ms = msOfCell(type, type.kind === "date" ? Number(key) : BigInt(key));
      if (unitStart(ms, unit, 0) !== ms) return undefined;
      return [cellOfMs(type, ms), cellOfMs(type, unitStart(ms, unit, 1))];
    },
  };
}

/** An ISO date or RFC 3339 instant as a value of this type; undefined if it is none. */
export function timeOfText(type: FieldType, text: unknown): CellValue | undefined {
  if (typeof text !== "string" || !/^\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,3})?)?(Z|[+-]\d\d:\d\d))?$/.test(text)) {
    return undefined;
  }
  const ms = Date.parse(text);
  return Number.isNaN(ms) ? undefined : cellOfMs(type, ms);
}

/** Start of the unit that the instant is in, or of the one `further` units on. */
function unitStart(ms: number, unit: CalendarUnit, further: 0 | 1): number {
  if (unit === "hour" || unit === "day") {
    const length = unit === "hour" ? MS_PER_HOUR : MS_PER_DAY;
    return (Math.floor(ms / length) + further) * length;
  }
  const months = { year: 12, quarter: 3, month: 1 }[unit];
  const date = new Date(ms);
  const month = date.getUTCMonth();
  // Not Date.UTC, which takes the years 0 to 99 for 1900 to 1999.
  date.setUTCHours(0, 0, 0, 0);
  return date.setUTCMonth(month - (month % months) + further * months, 1);
}

function msOfCell(type: FieldType, value: NonNullable<CellValue>): number {
  const ms = type.kind === "date" ? (value as number) * MS_PER_DAY : floorMs(value as bigint);
  if (Number.isNaN(new Date(ms).getTime())) {
    throw new AppError("type_mismatch", "A date or timestamp lies beyond the years that have a calendar here.");
  }
  return ms;
}

function floorMs(microseconds: bigint): number {
  return Number((microseconds - (((microseconds % 1000n) + 1000n) % 1000n)) / 1000n);
}

function cellOfMs(type: FieldType, ms: number): CellValue {
  return type.kind === "date" ? Math.floor(ms / MS_PER_DAY) : BigInt(ms) * 1000n;
}
