/** Small tables for tests: rows to record batches and back. */
import type { RecordBatch } from "apache-arrow";
import { BatchBuilder } from "../../lib/data/batch-builder.ts";
import { columnReaders } from "../../lib/data/column-reader.ts";
import type { CellValue, FieldSpec, FieldType } from "../../lib/data/field-types.ts";

/** Nullable columns of these types: `{ age: "integer", pay: { kind: "decimal", precision: 8, scale: 2 } }`. */
export function columns(
  types: Readonly<Record<string, FieldType | Exclude<FieldType["kind"], "decimal">>>,
): FieldSpec[] {
  return Object.entries(types).map(([name, type]) => ({
    name,
    type: typeof type === "string" ? { kind: type } : type,
    nullable: true,
  }));
}

/** The rows in batches of at most this many; one empty batch if there are none. */
export function batchesOf(
  fields: readonly FieldSpec[],
  rows: readonly (readonly CellValue[])[],
  rowsPerBatch = 1000,
): RecordBatch[] {
  const batches: RecordBatch[] = [];
  const builder = new BatchBuilder(fields);
  for (const row of rows) {
    builder.append(row);
    if (builder.rowCount === rowsPerBatch) batches.push(builder.build());
  }
  if (builder.rowCount > 0 || batches.length === 0) batches.push(builder.build());
  return batches;
}

/** The batches' rows, as objects by column name. */
export function rowsOf(batches: readonly RecordBatch[]): Record<string, CellValue>[] {
  return batches.flatMap((batch) => {
    const readers = columnReaders(batch);
    return Array.from({ length: batch.numRows }, (_, row) =>
      Object.fromEntries(readers.map((reader) => [reader.name, reader.get(row)])),
    );
  });
}
