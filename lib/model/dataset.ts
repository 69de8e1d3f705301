/** Data sets: their tables, the columns' types, what is sensitive, and how it is anonymized (decision 11). */
import { Type, type Static } from "@sinclair/typebox";
import { DocumentName, SqlName } from "./names.ts";

/**
 * A column's declared type. `integer` has 64 bits; `decimal` at most 15 digits with a declared scale (decision 14); `date`
 * and `timestamp` say the order that the file has them in; text keeps leading zeros.
 */
export const ColumnType = Type.Union([
  Type.Object({ type: Type.Literal("integer") }, { additionalProperties: false }),
  Type.Object(
    {
      type: Type.Literal("decimal"),
      precision: Type.Integer({ minimum: 1, maximum: 15 }),
      scale: Type.Integer({ minimum: 0, maximum: 15 }),
      /** What separates the decimals in the file. Default `.`. */
      decimalSeparator: Type.Optional(Type.Union([Type.Literal("."), Type.Literal(",")])),
    },
    { additionalProperties: false },
  ),
  Type.Object(
    {
      type: Type.Literal("float"),
      decimalSeparator: Type.Optional(Type.Union([Type.Literal("."), Type.Literal(",")])),
    },
    { additionalProperties: false },
  ),
  Type.Object(
    {
      type: Type.Literal("boolean"),
      /** The file's words. Default `true` and `false`. */
      trueValue: Type.Optional(Type.String()),
      falseValue: Type.Optional(Type.String()),
    },
    { additionalProperties: false },
  ),
  Type.Object({ type: Type.Literal("text") }, { additionalProperties: false }),
  Type.Object(
    {
      type: Type.Literal("date"),
      /** Order in the file. Default `yyyy-mm-dd`. */
      format: Type.Optional(
        Type.Union([
          Type.Literal("yyyy-mm-dd"),
          Type.Literal("dd-mm-yyyy"),
          Type.Literal("dd/mm/yyyy"),
          Type.Literal("mm/dd/yyyy"),
          Type.Literal("yyyymmdd"),
        ]),
      ),
    },
    { additionalProperties: false },
  ),
  /** RFC 3339 instants or local `yyyy-mm-dd hh:mm:ss[.ffffff]`, read as UTC. */
  Type.Object({ type: Type.Literal("timestamp") }, { additionalProperties: false }),
]);
export type ColumnType = Static<typeof ColumnType>;

/** A declared column. */
export const Column = Type.Object(
  { name: SqlName, type: ColumnType, nullable: Type.Optional(Type.Boolean()) },
  { additionalProperties: false },
);
export type Column = Static<typeof Column>;

/** A declared table. */
export const Table = Type.Object(
  { name: SqlName, columns: Type.Array(Column, { minItems: 1 }) },
  { additionalProperties: false },
);
export type Table = Static<typeof Table>;

/** How the values of one sensitive column are made safe. */
export const Anonymization = Type.Union([
  /** Numbers to the lower end of bands of `width`; dates to `year`, `quarter` or `month`; text to its first `keep` characters. */
  Type.Object(
    {
      method: Type.Literal("generalize"),
      width: Type.Optional(Type.Number({ exclusiveMinimum: 0 })),
      unit: Type.Optional(
        Type.Union([Type.Literal("year"), Type.Literal("quarter"), Type.Literal("month"), Type.Literal("decade")]),
      ),
      keep: Type.Optional(Type.Integer({ minimum: 0 })),
    },
    { additionalProperties: false },
  ),
  /** Text to asterisks (constant length); other types to null. */
  Type.Object({ method: Type.Literal("mask") }, { additionalProperties: false }),
  /** Numbers and dates moved by a keyed, deterministic amount of at most `range` (dates: days) (decision 16). */
  Type.Object(
    { method: Type.Literal("perturb"), range: Type.Number({ exclusiveMinimum: 0 }) },
    { additionalProperties: false },
  ),
  /** A keyed, deterministic pseudonym as text (decision 16). */
  Type.Object({ method: Type.Literal("pseudonymize") }, { additionalProperties: false }),
  /** The column is left out. */
  Type.Object({ method: Type.Literal("drop") }, { additionalProperties: false }),
]);
export type Anonymization = Static<typeof Anonymization>;

/** A data set's metadata. Where the data are stays in the agent's own configuration. */
export const DataSet = Type.Object(
  {
    name: DocumentName,
    /** What the data pod is in general; informative. */
    type: Type.String(),
    /** Field delimiter of CSV files. Default `;`. */
    delimiter: Type.Optional(Type.String({ minLength: 1, maxLength: 1 })),
    tables: Type.Array(Table, { minItems: 1 }),
    sensitive_columns: Type.Record(SqlName, Type.Array(SqlName)),
    /** New. Table, column, method. A sensitive column without an entry is dropped. */
    anonymization: Type.Optional(Type.Record(SqlName, Type.Record(SqlName, Anonymization))),
  },
  { additionalProperties: false },
);
export type DataSet = Static<typeof DataSet>;

/** The data set's table of this name (case-insensitive, as in SQL). */
export function findTable(dataSet: DataSet, name: string): Table | undefined {
  return dataSet.tables.find((table) => table.name.toLowerCase() === name.toLowerCase());
}
