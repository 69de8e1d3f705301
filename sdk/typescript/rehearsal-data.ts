/** What microservices rehearse with: a data set of every type of column, made up and the same for everybody. */
import type { RecordBatch } from "apache-arrow";
import { BatchBuilder } from "../../lib/data/batch-builder.ts";
import { SOURCE_COLUMN, SOURCE_TABLE } from "../../lib/data/field-metadata.ts";
import { fieldTypeOfColumn, type CellValue, type FieldSpec } from "../../lib/data/field-types.ts";
import type { DataRequest } from "../../lib/model/data-request.ts";
import type { DataSet, Table } from "../../lib/model/dataset.ts";

/** Enough for V8 to compile what each row goes through, and not so many that a chain gets ready noticeably later. */
export const REHEARSAL_ROWS = 8_192;
const ROWS_PER_BATCH = 2_048;

const TABLE: Table = {
  name: "Rehearsal",
  columns: [
    { name: "number", type: { type: "integer" } },
    { name: "amount", type: { type: "decimal", precision: 9, scale: 2 }, nullable: true },
    { name: "share", type: { type: "float" } },
    { name: "label", type: { type: "text" }, nullable: true },
    { name: "name", type: { type: "text" } },
    { name: "day", type: { type: "date" } },
  ],
};

/** No steward's, by its name. Its sensitive columns are anonymized by the methods that keep most of a column. */
export const REHEARSAL_DATA_SET: DataSet = {
  name: "dynamos-rehearsal-made-up",
  type: "made up",
  tables: [TABLE],
  sensitive_columns: { [TABLE.name]: ["name", "day"] },
  anonymization: {
    [TABLE.name]: { name: { method: "pseudonymize" }, day: { method: "generalize", unit: "month" } },
  },
};

const COLUMN_NAMES = TABLE.columns.map(({ name }) => name).join(", ");

/** All its rows. */
export const ROWS_QUESTION: DataRequest = {
  type: "sqlDataRequest",
  query: `SELECT ${COLUMN_NAMES} FROM ${TABLE.name}`,
};

/** Its groups' sizes and averages. */
export const GROUPS_QUESTION: DataRequest = {
  ...ROWS_QUESTION,
  query: `SELECT label, amount, share FROM ${TABLE.name}`,
  algorithm: "count, average",
  algorithmColumns: { label: "amount, share" },
};

/** The columns as a query's result has them, with their origin. */
export const REHEARSAL_FIELDS: readonly FieldSpec[] = TABLE.columns.map(({ name, type, nullable = false }) => ({
  name,
  type: fieldTypeOfColumn(type),
  nullable,
  metadata: { [SOURCE_TABLE]: TABLE.name, [SOURCE_COLUMN]: name },
}));

/** Row `index` of the table, as cells. */
export function rehearsalRow(index: number): readonly CellValue[] {
  const amount = index % 13 === 0 ? null : BigInt((index * 37) % 100_000);
  const label = index % 17 === 0 ? null : `label ${String(index % 12)}`;
  return [BigInt(index), amount, index / 7, label, `name ${String(index)}`, 7_000 + (index % 9_000)];
}

/** The table's first rows in batches, as a query gives them. */
export function rehearsalBatches(rows = REHEARSAL_ROWS): readonly RecordBatch[] {
  const builder = new BatchBuilder(REHEARSAL_FIELDS, { expectedRows: ROWS_PER_BATCH, dictionaries: true });
  const batches: RecordBatch[] = [];
  for (let index = 0; index < rows; index++) {
    builder.append(rehearsalRow(index));
    if (builder.rowCount === ROWS_PER_BATCH || index === rows - 1) batches.push(builder.build());
  }
  return batches;
}
