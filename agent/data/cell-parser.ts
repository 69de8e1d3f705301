/**
 * From a cell of a file to the value that SQLite stores (decisions 11 and 14): strictly by the declared type.
 *
 * Stored forms: integers and booleans (0, 1) as INTEGER; decimals and floats as REAL; text as TEXT; dates as TEXT
 * `yyyy-mm-dd`; timestamps as TEXT `yyyy-mm-dd hh:mm:ss[.ffffff]` in UTC without trailing zeros. Both texts sort by time
 * and are what SQLite's own date functions take.
 */
import { type Column, type ColumnType } from "../../lib/model/dataset.ts";

/** What SQLite is given. */
export type StoredValue = number | bigint | string | null;

/** Says what was expected of a cell, without its value, which may be personal. */
export class CellFault extends Error {}

/** Reads a cell: its text, and whether it stood in quotes. Throws {@link CellFault}. */
export type CellParser = (text: string, quoted: boolean) => StoredValue;

/**
 * The parser of a declared column. An empty cell is null, with one exception: `""` in a text column is the empty text.
 */
export function cellParser(column: Column): CellParser {
  const parse = valueParser(column.type);
  const nullable = column.nullable ?? true;
  return (text, quoted) => {
    if (text === "" && !(quoted && column.type.type === "text")) {
      if (nullable) return null;
      throw new CellFault("a value is required (the column is declared not nullable), and the cell is empty");
    }
    return parse(text);
  };
}

function valueParser(type: ColumnType): (text: string) => StoredValue {
  switch (type.type) {
    case "integer":
      return parseInteger;
    case "decimal":
      return decimalParser(type.precision, type.scale, type.decimalSeparator ?? ".");
    case "float":
      return floatParser(type.decimalSeparator ?? ".");
    case "boolean":
      return booleanParser(type.trueValue ?? "true", type.falseValue ?? "false");
    case "text":
      return (text) => text;
    case "date":
      return dateParser(type.format ?? "yyyy-mm-dd");
    case "timestamp":
      return parseTimestamp;
  }
}

const INT64_MAX = 2n ** 63n - 1n;
const LEADING_ZEROS = "it has leading zeros; declare the column as text if they mean something";

function parseInteger(text: string): number | bigint {
  if (!/^[+-]?\d+$/.test(text)) throw new CellFault("an integer is expected: digits with an optional sign");
  if (/^[+-]?0\d/.test(text)) throw new CellFault(`an integer is expected, but ${LEADING_ZEROS}`);
  const number = Number(text);
  if (Number.isSafeInteger(number)) return number === 0 ? 0 : number;
  const exact = BigInt(text.replace("+", ""));
  if (exact > INT64_MAX || exact < -INT64_MAX - 1n) {
    throw new CellFault("an integer of 64 bits is expected, and this one is larger");
  }
  return exact;
}

function decimalParser(precision: number, scale: number, separator: "." | ","): (text: string) => number {
  const form = separator === "." ? /^([+-]?)(\d+)(?:\.(\d+))?$/ : /^([+-]?)(\d+)(?:,(\d+))?$/;
  const expected = `a decimal of at most ${String(precision)} digits, ${String(scale)} of them behind a ${JSON.stringify(separator)}`;
  return (text) => {
    const match = form.exec(text);
    if (!match) throw new CellFault(`${expected}, is expected`);
    const [, sign = "", whole = "", fraction = ""] = match;
    if (whole.length > 1 && whole.startsWith("0"))
      throw new CellFault(`${expected}, is expected, but ${LEADING_ZEROS}`);
    if (fraction.length > scale) throw new CellFault(`${expected}, is expected, and it has more decimals`);
    if ((whole === "0" ? 0 : whole.length) > precision - scale) {
      throw new CellFault(`${expected}, is expected, and it has more digits`);
    }
    return Number(`${sign}${whole}.${fraction}`);
  };
}

function floatParser(separator: "." | ","): (text: string) => number {
  const form = separator === "." ? /^[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?$/ : /^[+-]?\d+(?:,\d+)?(?:[eE][+-]?\d+)?$/;
  return (text) => {
    const number = form.test(text) ? Number(text.replace(",", ".")) : Number.NaN;
    if (!Number.isFinite(number)) {
      throw new CellFault(`a number with decimals behind a ${JSON.stringify(separator)} is expected`);
    }
    return number;
  };
}

function booleanParser(trueValue: string, falseValue: string): (text: string) => number {
  return (text) => {
    if (text === trueValue) return 1;
    if (text === falseValue) return 0;
    throw new CellFault(`${JSON.stringify(trueValue)} or ${JSON.stringify(falseValue)} is expected`);
  };
}

type DateFormat = NonNullable<Extract<ColumnType, { type: "date" }>["format"]>;

/** Form of each date order, and which of its groups is year, month and day. */
const DATE_FORMS: Readonly<Record<DateFormat, readonly [form: RegExp, year: number, month: number, day: number]>> = {
  "yyyy-mm-dd": [/^(\d{4})-(\d\d)-(\d\d)$/, 1, 2, 3],
  "dd-mm-yyyy": [/^(\d\d)-(\d\d)-(\d{4})$/, 3, 2, 1],
  "dd/mm/yyyy": [/^(\d\d)\/(\d\d)\/(\d{4})$/, 3, 2, 1],
  "mm/dd/yyyy": [/^(\d\d)\/(\d\d)\/(\d{4})$/, 3, 1, 2],
  yyyymmdd: [/^(\d{4})(\d\d)(\d\d)$/, 1, 2, 3],
};

function dateParser(format: DateFormat): (text: string) => string {
  const [form, year, month, day] = DATE_FORMS[format];
  return (text) => {
    const match = form.exec(text);
    if (!match) throw new CellFault(`a date written as ${format} is expected`);
    const parts = [match[year] ?? "", match[month] ?? "", match[day] ?? ""] as const;
    if (!isDay(...parts)) throw new CellFault(`a date written as ${format} is expected, and there is no such day`);
    return parts.join("-");
  };
}

/** RFC 3339, section 5.6, with a space for the `T` and without an offset too; at most microseconds. */
const TIMESTAMP = /^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,6})0*)?(?:([Zz])|([+-])(\d\d):(\d\d))?$/;

function parseTimestamp(text: string): string {
  const expected = "a timestamp such as 2022-12-31T23:59:59Z, with at most six decimals, is expected";
  const match = TIMESTAMP.exec(text);
  if (!match) throw new CellFault(expected);
  const [, year = "", month = "", day = "", hour = "", minute = "", second = "", fraction = ""] = match;
  if (!isDay(year, month, day) || hour > "23" || minute > "59" || second > "59") {
    throw new CellFault(`${expected}, and there is no such time`);
  }
  const [offsetSign, offsetHours = "00", offsetMinutes = "00"] = [match[9], match[10], match[11]];
  if (offsetHours > "23" || offsetMinutes > "59") throw new CellFault(`${expected}, and there is no such offset`);
  const micros = fraction.replace(/0+$/, "");
  const local = `${year}-${month}-${day} ${hour}:${minute}:${second}`;
  const utc =
    offsetSign === undefined ? local : shifted(local, offsetSign, Number(offsetHours) * 60 + Number(offsetMinutes));
  return micros === "" ? utc : `${utc}.${micros}`;
}

/** A local time at an offset of `minutes`, in UTC. */
function shifted(local: string, sign: string, minutes: number): string {
  const ms = Date.parse(`${local.replace(" ", "T")}Z`) + (sign === "+" ? -1 : 1) * minutes * 60_000;
  const utc = new Date(ms).toISOString();
  if (utc.length !== 24) throw new CellFault("a timestamp between the years 0001 and 9999 in UTC is expected");
  return utc.slice(0, 19).replace("T", " ");
}

function isDay(year: string, month: string, day: string): boolean {
  const [y, m, d] = [Number(year), Number(month), Number(day)];
  if (y < 1 || m < 1 || m > 12 || d < 1) return false;
  const leap = y % 4 === 0 && (y % 100 !== 0 || y % 400 === 0);
  return d <= (m === 2 ? (leap ? 29 : 28) : [4, 6, 9, 11].includes(m) ? 30 : 31);
}
