/** The types that rows have here, their Arrow form, and their text and JSON forms. */
import {
  Bool,
  DataType,
  DateDay,
  DateUnit,
  Decimal,
  Field,
  Float64,
  Int64,
  Precision,
  Schema,
  TimestampMicrosecond,
  TimeUnit,
  Type,
  Utf8,
  type Int,
} from "apache-arrow";
import { AppError } from "../errors.ts";
import type { ColumnType } from "../model/dataset.ts";
import { isoDate, isoTimestamp } from "./calendar.ts";
import { decimalText, fitsPrecision, MAX_DECIMAL_PRECISION } from "./decimal-words.ts";

/** A column's type. */
export type FieldType =
  | { readonly kind: "integer" }
  | { readonly kind: "decimal"; readonly precision: number; readonly scale: number }
  | { readonly kind: "float" }
  | { readonly kind: "boolean" }
  | { readonly kind: "text" }
  | { readonly kind: "date" }
  | { readonly kind: "timestamp" };

/** A named, typed column. */
export interface FieldSpec {
  readonly name: string;
  readonly type: FieldType;
  readonly nullable: boolean;
  /** Arrow metadata of the field, such as where its values come from. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/**
 * One value: integer as bigint of 64 bits, decimal as **unscaled** bigint, float as number, boolean, text as string,
 * date as number of days since 1970-01-01, timestamp as bigint of microseconds since the epoch (UTC).
 */
export type CellValue = bigint | number | string | boolean | null;

/**
 * The Arrow schema of these columns: Int64, Decimal128, Float64, Bool, Utf8, Date32 and Timestamp(µs, UTC).
 * Fails with `query_invalid` for a column without a name, and for two of the same name: apache-arrow would write the one
 * as `null` and merge the others.
 */
export function toArrowSchema(fields: readonly FieldSpec[], metadata?: ReadonlyMap<string, string>): Schema {
  checkNames(fields.map((field) => field.name));
  return new Schema(
    fields.map(
      (field) =>
        new Field(field.name, toArrowType(field), field.nullable, new Map(Object.entries(field.metadata ?? {}))),
    ),
    new Map(metadata),
  );
}

/**
 * The columns of an Arrow schema, which may also come from a microservice in another language: narrower integers and
 * floats, large and dictionary-encoded text, and other units of time are read as the kinds above.
 * Fails with `type_mismatch` for a type that has no exact counterpart.
 */
export function fieldsOf(schema: Schema): readonly FieldSpec[] {
  return schema.fields.map((field) => ({
    name: field.name,
    type: fieldTypeOf(field.name, field.type as DataType),
    nullable: field.nullable,
    ...(field.metadata.size === 0 ? {} : { metadata: Object.fromEntries(field.metadata) }),
  }));
}

/** The type of a column that a data set's metadata declares. */
export function fieldTypeOfColumn(column: ColumnType): FieldType {
  return column.type === "decimal"
    ? { kind: "decimal", precision: column.precision, scale: column.scale }
    : { kind: column.type };
}

/** A value as text: exact decimals, ISO dates, RFC 3339 instants in UTC, the empty text for null. */
export function formatCell(type: FieldType, value: CellValue): string {
  if (value === null) return "";
  switch (type.kind) {
    case "decimal":
      return decimalText(value as bigint, type.scale);
    case "date":
      return isoDate(value as number);
    case "timestamp":
      return isoTimestamp(value as bigint);
    case "integer":
    case "float":
    case "boolean":
    case "text":
      return String(value);
  }
}

/**
 * A value for JSON. Integers beyond ±(2⁵³−1) and decimals of more than 15 digits, which a reader's double could not hold
 * (RFC 8259, section 6), become text; so do NaN, the infinities, dates and timestamps.
 */
export function cellToJson(type: FieldType, value: CellValue): string | number | boolean | null {
  if (value === null) return null;
  switch (type.kind) {
    case "integer": {
      const number = Number(value);
      return Number.isSafeInteger(number) ? number : String(value);
    }
    case "decimal": {
      const text = decimalText(value as bigint, type.scale);
      return fitsPrecision(value as bigint, 15) ? Number(text) : text;
    }
    case "float":
      return Number.isFinite(value) ? (value as number) : String(value);
    case "boolean":
    case "text":
      return value as boolean | string;
    case "date":
    case "timestamp":
      return formatCell(type, value);
  }
}

function checkNames(names: readonly string[]): void {
  const unnamed = names.indexOf("");
  if (unnamed >= 0) {
    throw new AppError("query_invalid", `Column ${unnamed + 1} of ${names.length} has no name. Give it one with AS.`);
  }
  const repeated = names.find((name, index) => names.indexOf(name) < index);
  if (repeated !== undefined) {
    throw new AppError("query_invalid", `Two columns are named "${repeated}". Rename one with AS.`);
  }
}

function toArrowType(field: FieldSpec): DataType {
  switch (field.type.kind) {
    case "integer":
      return new Int64();
    case "decimal":
      return toArrowDecimal(field.name, field.type.precision, field.type.scale);
    case "float":
      return new Float64();
    case "boolean":
      return new Bool();
    case "text":
      return new Utf8();
    case "date":
      return new DateDay();
    case "timestamp":
      return new TimestampMicrosecond("UTC");
  }
}

function toArrowDecimal(name: string, precision: number, scale: number): Decimal {
  const isValid = Number.isInteger(precision) && precision >= 1 && precision <= MAX_DECIMAL_PRECISION;
  if (!isValid || !Number.isInteger(scale) || Math.abs(scale) > MAX_DECIMAL_PRECISION) {
    throw new AppError(
      "type_mismatch",
      `Column "${name}" cannot be decimal(${precision}, ${scale}): 1 to ${MAX_DECIMAL_PRECISION} digits are possible.`,
    );
  }
  return new Decimal(scale, precision, 128);
}

function fieldTypeOf(name: string, type: DataType): FieldType {
  if (DataType.isInt(type) && isReadableInteger(type)) return { kind: "integer" };
  if (DataType.isDecimal(type) && type.bitWidth === 128) {
    return { kind: "decimal", precision: type.precision, scale: type.scale };
  }
  if (DataType.isFloat(type) && type.precision !== Precision.HALF) return { kind: "float" };
  if (DataType.isBool(type)) return { kind: "boolean" };
  if (isText(type) || (DataType.isDictionary(type) && isText(type.dictionary as DataType))) return { kind: "text" };
  if (DataType.isDate(type) && type.unit === DateUnit.DAY) return { kind: "date" };
  if (DataType.isTimestamp(type) && type.unit !== TimeUnit.NANOSECOND) return { kind: "timestamp" };
  throw new AppError(
    "type_mismatch",
    `Column "${name}" has the Arrow type ${Type[type.typeId]}, which is not supported. Send it as Int64 or narrower, ` +
      "Decimal128, Float64 or Float32, Bool, Utf8, Date32, or Timestamp in microseconds.",
    { details: { column: name } },
  );
}

/** Unsigned 64-bit integers are left out: half of them do not fit into ours. */
function isReadableInteger(type: Int): boolean {
  return type.isSigned || type.bitWidth < 64;
}

function isText(type: DataType): boolean {
  return DataType.isUtf8(type) || DataType.isLargeUtf8(type);
}
