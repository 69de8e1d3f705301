/**
 * Types of a query's result (decision 14). A result column that is a granted column has its declared type; an expression
 * has the type of its first values, and a later value of another type is an error that names the CAST which helps.
 */
import { AppError } from "../../lib/errors.ts";
import type { CellValue, FieldType } from "../../lib/data/field-types.ts";

/** What better-sqlite3 reads with safe integers. */
export type SqliteValue = bigint | number | string | Buffer | null;

/** From what SQLite holds to a cell; throws `type_mismatch`. */
export type CellReader = (value: SqliteValue) => CellValue;

/** The kinds of values seen in an expression's column. */
export interface SeenKinds {
  integer: boolean;
  float: boolean;
  text: boolean;
}

/** Takes note of a value. Binary values have no place in a result. */
export function noteKind(seen: SeenKinds, value: SqliteValue, column: string): void {
  if (typeof value === "bigint") seen.integer = true;
  else if (typeof value === "number") seen.float = true;
  else if (typeof value === "string") seen.text = true;
  else if (value !== null) throw binaryFault(column);
}

/** The type of an expression by its first values; `undefined` as long as all are null. */
export function typeOfKinds(seen: SeenKinds, column: string): FieldType | undefined {
  if (seen.text && (seen.integer || seen.float)) {
    throw new AppError(
      "type_mismatch",
      `The column ${column} has text and numbers. Make them one type: CAST(… AS TEXT) or CAST(… AS REAL).`,
      { details: { column } },
    );
  }
  if (seen.text) return { kind: "text" };
  if (seen.float) return { kind: "float" };
  return seen.integer ? { kind: "integer" } : undefined;
}

/** The reader of an expression's column whose type was taken from its first values. */
export function expressionReader(type: FieldType, column: string): CellReader {
  const fits = (value: SqliteValue): CellValue | undefined => {
    if (value === null) return null;
    if (type.kind === "integer") return typeof value === "bigint" ? value : undefined;
    if (type.kind === "text") return typeof value === "string" ? value : undefined;
    return asFloat(value);
  };
  return (value) => {
    const cell = fits(value);
    if (cell === undefined) throw laterFault(type, value, column);
    return cell;
  };
}

/** The reader of a result column that is a declared column. */
export function declaredReader(type: FieldType, column: string): CellReader {
  const read = readerOf(type);
  return (value) => {
    if (value === null) return null;
    const cell = read(value);
    if (cell !== undefined) return cell;
    throw new AppError(
      "type_mismatch",
      `A value of the column ${column} is not what is declared, ${describe(type)}: it is stored as ${kindOf(value)}` +
        `${kindOf(value) === kindStored(type) ? " that does not fit" : ""}. The data steward must correct the data or the declaration.`,
      { details: { column } },
    );
  };
}

function readerOf(type: FieldType): (value: Exclude<SqliteValue, null>) => CellValue | undefined {
  switch (type.kind) {
    case "integer":
      return (value) => (typeof value === "bigint" ? value : undefined);
    case "decimal":
      return decimalReader(type.precision, type.scale);
    case "float":
      return asFloat;
    case "boolean":
      return (value) => (value === 0n ? false : value === 1n ? true : undefined);
    case "text":
      return (value) => (typeof value === "string" ? value : undefined);
    case "date":
      return readDate;
    case "timestamp":
      return readTimestamp;
  }
}

/**
 * A decimal of at most 15 digits comes back exactly from the double nearest to it: `value · 10^scale` is off by less than a
 * quarter, so it rounds to the unscaled integer; and dividing that again, both exact, gives the same double only if the
 * value was such a decimal at all.
 */
function decimalReader(precision: number, scale: number): (value: Exclude<SqliteValue, null>) => bigint | undefined {
  const factor = 10 ** scale;
  const limit = 10 ** precision;
  return (value) => {
    const number = typeof value === "bigint" ? Number(value) : value;
    if (typeof number !== "number") return undefined;
    const unscaled = Math.round(number * factor);
    return Math.abs(unscaled) < limit && unscaled / factor === number ? BigInt(unscaled) : undefined;
  };
}

function asFloat(value: SqliteValue): number | undefined {
  if (typeof value === "number") return value;
  if (typeof value !== "bigint") return undefined;
  const number = Number(value);
  return BigInt(number) === value ? number : undefined;
}

const DAYS_BEFORE_MONTH = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];

/** Days since 1970-01-01 of `yyyy-mm-dd`, if there is such a day. By arithmetic: most of a result may be dates. */
function readDate(text: SqliteValue): number | undefined {
  if (typeof text !== "string" || text.length !== 10 || text[4] !== "-" || text[7] !== "-") return undefined;
  const year = digits(text, 0, 4);
  const month = digits(text, 5, 7);
  const day = digits(text, 8, 10);
  const leap = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
  const before = DAYS_BEFORE_MONTH[month - 1];
  if (before === undefined) return undefined;
  const monthDays = (DAYS_BEFORE_MONTH[month] ?? 365) - before + (month === 2 && leap ? 1 : 0);
  if (!(year >= 0 && day >= 1 && day <= monthDays)) return undefined;
  const years = year - 1;
  const leapDays = Math.floor(years / 4) - Math.floor(years / 100) + Math.floor(years / 400);
  return years * 365 + leapDays + before + (leap && month > 2 ? 1 : 0) + day - 1 - DAYS_TO_1970;
}

/** From 0001-01-01. */
const DAYS_TO_1970 = 719_162;

/** The number that some characters write; NaN unless all are digits. */
function digits(text: string, from: number, to: number): number {
  let value = 0;
  for (let at = from; at < to; at++) {
    const digit = text.charCodeAt(at) - 48;
    if (digit < 0 || digit > 9) return Number.NaN;
    value = value * 10 + digit;
  }
  return value;
}

function readTimestamp(value: Exclude<SqliteValue, null>): bigint | undefined {
  if (typeof value !== "string") return undefined;
  const match = /^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?Z?$/.exec(value);
  if (!match) return undefined;
  const [, date = "", time = "", fraction = ""] = match;
  const ms = Date.parse(`${date}T${time}Z`);
  if (Number.isNaN(ms) || readDate(date) === undefined || time.startsWith("24")) return undefined;
  return BigInt(ms) * 1000n + BigInt(fraction.padEnd(6, "0"));
}

function laterFault(type: FieldType, value: SqliteValue, column: string): AppError {
  if (value instanceof Uint8Array) return binaryFault(column);
  const cast = type.kind !== "text" && typeof value !== "string" ? "REAL" : "TEXT";
  return new AppError(
    "type_mismatch",
    `The column ${column} began with ${describe(type)} values, and later has one of another type (${kindOf(value)}). ` +
      `Make them one type in the query: CAST(… AS ${cast}) AS ${column}.`,
    { details: { column, cast } },
  );
}

function binaryFault(column: string): AppError {
  return new AppError(
    "type_mismatch",
    `The column ${column} has a binary value (BLOB). Use hex(…) to get it as text.`,
    {
      details: { column, cast: "hex" },
    },
  );
}

function kindOf(value: SqliteValue): string {
  if (typeof value === "bigint") return "INTEGER";
  if (typeof value === "number") return "REAL";
  return typeof value === "string" ? "TEXT" : "BLOB";
}

function kindStored(type: FieldType): string {
  if (type.kind === "integer" || type.kind === "boolean") return "INTEGER";
  return type.kind === "decimal" || type.kind === "float" ? "REAL" : "TEXT";
}

function describe(type: FieldType): string {
  return type.kind === "decimal" ? `decimal(${String(type.precision)}, ${String(type.scale)})` : type.kind;
}
