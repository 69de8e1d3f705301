import assert from "node:assert/strict";
import { test } from "node:test";
import { makeData, RecordBatch, tableFromIPC } from "apache-arrow";
import fc from "fast-check";
import { BatchBuilder } from "../../../lib/data/batch-builder.ts";
import { columnReaders } from "../../../lib/data/column-reader.ts";
import { fieldsOf, type CellValue, type FieldSpec, type FieldType } from "../../../lib/data/field-types.ts";
import { BatchDecoder, encodeBatch, encodeSchema, END_OF_STREAM } from "../../../lib/data/ipc.ts";

function readRows(batch: RecordBatch): CellValue[][] {
  const readers = columnReaders(batch);
  return Array.from({ length: batch.numRows }, (_, row) => readers.map((reader) => reader.get(row)));
}

function throughBytes(fields: readonly FieldSpec[], rows: readonly CellValue[][]): RecordBatch {
  const builder = new BatchBuilder(fields, { expectedRows: 1 });
  for (const row of rows) builder.append(row);
  return new BatchDecoder(encodeSchema(builder.schema)).decode(encodeBatch(builder.build()));
}

const fieldType: fc.Arbitrary<FieldType> = fc.oneof(
  fc.constantFrom<FieldType[]>(
    { kind: "integer" },
    { kind: "float" },
    { kind: "boolean" },
    { kind: "text" },
    { kind: "date" },
    { kind: "timestamp" },
  ),
  fc
    .integer({ min: 1, max: 38 })
    .chain((precision) => fc.nat(precision).map((scale): FieldType => ({ kind: "decimal", precision, scale }))),
);

function valueOf(type: FieldType): fc.Arbitrary<CellValue> {
  switch (type.kind) {
    case "integer":
    case "timestamp":
      return fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
    case "decimal": {
      const limit = 10n ** BigInt(type.precision) - 1n;
      return fc.bigInt({ min: -limit, max: limit });
    }
    case "float":
      return fc.double();
    case "boolean":
      return fc.boolean();
    case "text":
      return fc.string({ unit: "binary", maxLength: 40 });
    case "date":
      return fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
  }
}

const tableOfRows = fc
  .uniqueArray(
    fc.record(
      { name: fc.string({ minLength: 1 }), type: fieldType, nullable: fc.boolean() },
      { noNullPrototype: true },
    ),
    {
      maxLength: 8,
      selector: (field) => field.name,
    },
  )
  .chain((fields) =>
    fc.tuple(
      fc.constant<FieldSpec[]>(fields),
      fc.array(fc.tuple(...fields.map(({ type, nullable }) => (nullable ? fc.option(valueOf(type)) : valueOf(type)))), {
        maxLength: 70,
      }),
    ),
  );

test("whatever rows are built, encoded, decoded and read are the same rows", () => {
  fc.assert(
    fc.property(tableOfRows, ([fields, rows]) => {
      const batch = throughBytes(fields, rows);
      assert.deepEqual(fieldsOf(batch.schema), fields);
      assert.equal(batch.numRows, rows.length);
      assert.deepEqual(readRows(batch), rows);
    }),
    { numRuns: 300 },
  );
});

test("a builder starts anew after each batch, and leaves the earlier batches alone", () => {
  const fields: FieldSpec[] = [
    { name: "n", type: { kind: "integer" }, nullable: true },
    { name: "t", type: { kind: "text" }, nullable: true },
    { name: "b", type: { kind: "boolean" }, nullable: true },
  ];
  const builder = new BatchBuilder(fields);
  builder.append([1n, "één", true]);
  builder.append([null, null, null]);
  const first = builder.build();
  assert.equal(builder.rowCount, 0);
  builder.append([3n, "drie", false]);
  const second = builder.build();
  assert.deepEqual(readRows(first), [
    [1n, "één", true],
    [null, null, null],
  ]);
  assert.deepEqual(readRows(second), [[3n, "drie", false]]);
});

test("the pieces, joined, are a stream that any Arrow reader reads", () => {
  const fields: FieldSpec[] = [
    { name: "n", type: { kind: "integer" }, nullable: false },
    { name: "t", type: { kind: "text" }, nullable: true },
  ];
  const builder = new BatchBuilder(fields, { metadata: new Map([["dynamos.algorithm", "count"]]) });
  const pieces = [encodeSchema(builder.schema)];
  for (let batch = 0; batch < 3; batch++) {
    for (let row = 0; row < 5; row++) builder.append([BigInt(10 * batch + row), row === 2 ? null : `r${row}`]);
    pieces.push(encodeBatch(builder.build()));
  }
  const table = tableFromIPC(Buffer.concat([...pieces, END_OF_STREAM]));
  assert.equal(table.numRows, 15);
  assert.equal(table.getChild("n")?.get(14), 24n);
  assert.equal(table.getChild("t")?.get(12), null);
  assert.equal(table.schema.metadata.get("dynamos.algorithm"), "count");
});

test("a column that a batch holds twice arrives twice", () => {
  const builder = new BatchBuilder([
    { name: "a", type: { kind: "integer" }, nullable: false },
    { name: "b", type: { kind: "integer" }, nullable: false },
  ]);
  builder.append([1n, 10n]);
  builder.append([2n, 20n]);
  const batch = builder.build();
  const column = batch.data.children[0];
  assert.ok(column);
  const doubled = new RecordBatch(
    batch.schema,
    makeData({ type: batch.data.type, length: 2, nullCount: 0, children: [column, column] }),
  );
  const decoded = new BatchDecoder(encodeSchema(batch.schema)).decode(encodeBatch(doubled));
  assert.deepEqual(readRows(decoded), [
    [1n, 1n],
    [2n, 2n],
  ]);
});
