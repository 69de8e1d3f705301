import assert from "node:assert/strict";
import { test } from "node:test";
import {
  Binary,
  Decimal,
  Dictionary,
  Field,
  Float32,
  Int32,
  LargeUtf8,
  RecordBatch,
  RecordBatchStreamWriter,
  Schema,
  Struct,
  TimestampMillisecond,
  TimestampNanosecond,
  Type,
  Uint16,
  Utf8,
  makeData,
  vectorFromArray,
  type Data,
  type DataType,
} from "apache-arrow";
import fc from "fast-check";
import { AppError } from "../../../lib/errors.ts";
import { BatchBuilder } from "../../../lib/data/batch-builder.ts";
import { columnReader, columnReaders } from "../../../lib/data/column-reader.ts";
import { fieldsOf, type CellValue, type FieldSpec } from "../../../lib/data/field-types.ts";
import { BatchDecoder, encodeBatch, encodeSchema, END_OF_STREAM } from "../../../lib/data/ipc.ts";

const FIELDS: FieldSpec[] = [
  { name: "id", type: { kind: "integer" }, nullable: true },
  { name: "name", type: { kind: "text" }, nullable: true },
  { name: "pay", type: { kind: "decimal", precision: 30, scale: 2 }, nullable: true },
  { name: "flag", type: { kind: "boolean" }, nullable: true },
];

function sampleBatch(rows = 20): RecordBatch {
  const builder = new BatchBuilder(FIELDS);
  for (let row = 0; row < rows; row++) {
    builder.append([BigInt(row), row % 3 === 0 ? null : `name ${row}`, -(BigInt(row) ** 12n), row % 2 === 0]);
  }
  return builder.build();
}

function batchOf(columns: Readonly<Record<string, Data>>): RecordBatch {
  const fields = Object.entries(columns).map(([name, data]) => new Field(name, data.type, true));
  const length = Object.values(columns)[0]?.length ?? 0;
  const type = new Struct(fields);
  return new RecordBatch(
    new Schema(fields),
    makeData({ type, length, nullCount: 0, children: Object.values(columns) }),
  );
}

function oneColumn(values: readonly unknown[], type: DataType): RecordBatch {
  return batchOf({ c: vectorFromArray(values as never, type).data[0] as Data });
}

function valuesAfterTransport(batch: RecordBatch): CellValue[] {
  const decoded = new BatchDecoder(encodeSchema(batch.schema)).decode(encodeBatch(batch));
  const reader = columnReader(decoded, 0);
  return Array.from({ length: decoded.numRows }, (_, row) => reader.get(row));
}

test("columns of other writers are read as our kinds: narrow integers, small floats, large and dictionary text, other units", () => {
  assert.deepEqual(valuesAfterTransport(oneColumn([1, null, -3], new Int32())), [1n, null, -3n]);
  assert.deepEqual(valuesAfterTransport(oneColumn([65_535, null], new Uint16())), [65_535n, null]);
  assert.deepEqual(valuesAfterTransport(oneColumn([0.5, null], new Float32())), [0.5, null]);
  assert.deepEqual(valuesAfterTransport(oneColumn(["é", null, ""], new LargeUtf8())), ["é", null, ""]);
  assert.deepEqual(valuesAfterTransport(oneColumn([1500n, null], new TimestampMillisecond())), [1_500_000n, null]);
  const words = oneColumn(["a", "b", null, "a"], new Dictionary(new Utf8(), new Int32()));
  assert.deepEqual(valuesAfterTransport(words), ["a", "b", null, "a"]);
  assert.deepEqual(fieldsOf(words.schema), [{ name: "c", type: { kind: "text" }, nullable: true }]);
});

test("dictionary batches decode on their own, one after another with different words", () => {
  const type = new Dictionary(new Utf8(), new Int32(), 7);
  const [first, second] = [oneColumn(["a", "b"], type), oneColumn(["c", "d"], type)];
  const decoder = new BatchDecoder(encodeSchema(first.schema));
  const [a, b] = [encodeBatch(first), encodeBatch(second)];
  assert.equal(columnReader(decoder.decode(b), 0).get(1), "d");
  assert.equal(columnReader(decoder.decode(a), 0).get(1), "b");
});

test("whoever changes a schema that came changes it for nobody else, and passes it on as changed", () => {
  const sent = new Schema(
    [new Field("id", new Int32(), true, new Map([["unit", "none"]])), new Field("name", new Utf8(), true)],
    new Map([["origin", "VU"]]),
  );
  const bytes = encodeSchema(sent);
  const { schema } = new BatchDecoder(bytes);
  assert.deepEqual(Buffer.from(encodeSchema(schema)), Buffer.from(bytes));
  schema.metadata.set("origin", "UVA");
  schema.fields[0]?.metadata.set("unit", "euro");
  Object.assign(schema.fields[0] as Field, { name: "pay" });
  schema.fields.pop();
  const next = new BatchDecoder(bytes).schema;
  assert.deepEqual(
    next.fields.map(({ name, metadata }) => [name, ...metadata.values()]),
    [["id", "none"], ["name"]],
  );
  assert.deepEqual([...next.metadata], [["origin", "VU"]]);
  const passedOn = new BatchDecoder(encodeSchema(schema)).schema;
  assert.deepEqual(
    passedOn.fields.map(({ name, metadata }) => [name, ...metadata.values()]),
    [["pay", "euro"]],
  );
  assert.deepEqual([...passedOn.metadata], [["origin", "UVA"]]);
});

test("a schema that came and was left as it was is written once for all runs", () => {
  const bytes = encodeSchema(sampleBatch().schema);
  const [one, other] = [new BatchDecoder(bytes).schema, new BatchDecoder(bytes).schema];
  assert.notEqual(one, other);
  assert.equal(encodeSchema(one), encodeSchema(other));
});

test("schemas are written anew wherever they differ, and once where each run makes the same ones", () => {
  const dictionary = (id: number): DataType => new Dictionary(new Utf8(), new Int32(), id);
  const one = (type: DataType, nullable = true, metadata = new Map<string, string>()): Schema =>
    new Schema([new Field("c", type, nullable, metadata)]);
  const noted = new Map([["note", "x"]]);
  const different = (): Schema[] => [
    one(new Int32()),
    one(new Uint16()),
    one(new Utf8()),
    one(new LargeUtf8()),
    one(new TimestampMillisecond()),
    one(new TimestampNanosecond()),
    one(new TimestampMillisecond("UTC")),
    one(new Decimal(2, 10)),
    one(new Decimal(10, 2)),
    one(new Decimal(2, 10, 256)),
    one(dictionary(7)),
    one(dictionary(8)),
    one(new Int32(), false),
    one(new Int32(), true, noted),
    new Schema([new Field("d", new Int32(), true)]),
    new Schema([new Field("c", new Int32(), true)], noted),
    new Schema([new Field("c", new Int32(), true), new Field("c2", new Int32(), true)]),
  ];
  const [first, second] = [different().map(encodeSchema), different().map(encodeSchema)];
  assert.equal(new Set(first.map((bytes) => Buffer.from(bytes).toString("hex"))).size, first.length);
  for (const [index, bytes] of first.entries()) assert.equal(second[index], bytes);
});

test("a sliced batch is read and encoded from its own first row", () => {
  const slice = sampleBatch(20).slice(5, 12);
  const decoded = new BatchDecoder(encodeSchema(slice.schema)).decode(encodeBatch(slice));
  for (const batch of [slice, decoded]) {
    const [id, name, pay, flag] = columnReaders(batch);
    assert.equal(batch.numRows, 7);
    for (let row = 0; row < 7; row++) {
      assert.equal(id?.get(row), BigInt(row + 5));
      assert.equal(name?.get(row), (row + 5) % 3 === 0 ? null : `name ${row + 5}`);
      assert.equal(pay?.get(row), -(BigInt(row + 5) ** 12n));
      assert.equal(flag?.get(row), (row + 5) % 2 === 0);
    }
  }
});

test("types without an exact counterpart are refused by name", () => {
  for (const type of [new Binary(), new TimestampNanosecond()]) {
    const schema = new Schema([new Field("odd", type, true)]);
    assert.throws(() => new BatchDecoder(encodeSchema(schema)), { code: "type_mismatch", message: /"odd"/ });
  }
});

test("a schema with two columns of one name, or with nested columns, is refused", () => {
  const twice = new Schema([new Field("a", new Int32(), true), new Field("a", new Utf8(), true)]);
  assert.throws(() => new BatchDecoder(encodeSchema(twice)), { code: "data_invalid", message: /a, a/ });
  const nested = new Schema([new Field("s", new Struct([new Field("a", new Int32(), true)]), true)]);
  assert.throws(() => new BatchDecoder(encodeSchema(nested)), { code: "type_mismatch", message: /nested/ });
});

test("a batch without columns keeps its number of rows", () => {
  const builder = new BatchBuilder([]);
  builder.append([]);
  builder.append([]);
  const batch = new BatchDecoder(encodeSchema(builder.schema)).decode(encodeBatch(builder.build()));
  assert.equal(batch.numRows, 2);
});

test("decoding works wherever in a larger buffer the bytes begin", () => {
  const bytes = encodeBatch(sampleBatch());
  const decoder = new BatchDecoder(encodeSchema(sampleBatch().schema));
  for (let shift = 0; shift < 9; shift++) {
    // A Buffer's own `slice` copies nothing, unlike that of other arrays of bytes.
    for (const moved of [new Uint8Array(bytes.length + shift), Buffer.from(new ArrayBuffer(bytes.length + shift))]) {
      moved.set(bytes, shift);
      assert.equal(columnReader(decoder.decode(moved.subarray(shift)), 2).get(19), -(19n ** 12n));
    }
  }
});

test("what is not one batch of the schema is data_invalid", () => {
  const schema = encodeSchema(sampleBatch().schema);
  const batch = encodeBatch(sampleBatch());
  const decoder = new BatchDecoder(schema);
  const wrong: Readonly<Record<string, Uint8Array>> = {
    nothing: new Uint8Array(0),
    text: Buffer.from("id;name\n1;a\n"),
    "a schema": schema,
    "the end of a stream": END_OF_STREAM,
    "two batches": Buffer.concat([batch, batch]),
    "a batch and more": Buffer.concat([batch, Buffer.from("more")]),
    "a batch of another schema": encodeBatch(oneColumn([1, 2], new Int32())),
  };
  for (const [what, bytes] of Object.entries(wrong)) {
    assert.throws(() => decoder.decode(bytes), { code: "data_invalid" }, what);
  }
  for (const bytes of [new Uint8Array(0), batch, Buffer.concat([schema, schema]), Buffer.from("no schema")]) {
    assert.throws(() => new BatchDecoder(bytes), { code: "data_invalid" });
  }
});

test("a batch that is cut off anywhere is data_invalid", () => {
  const decoder = new BatchDecoder(encodeSchema(sampleBatch().schema));
  const bytes = encodeBatch(sampleBatch());
  for (let length = 0; length < bytes.length; length++) {
    assert.throws(() => decoder.decode(bytes.subarray(0, length)), { code: "data_invalid" }, `${length} bytes`);
  }
});

/** Decodes and reads all; anything thrown but an AppError is a fault of ours. */
function readDamaged(schema: Uint8Array, batch: Uint8Array): void {
  try {
    const decoded = new BatchDecoder(schema).decode(batch);
    const readers = columnReaders(decoded);
    for (let row = 0; row < Math.min(decoded.numRows, 1000); row++) for (const reader of readers) reader.get(row);
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
  }
}

test("damaged bytes are read as other values or refused, and never crash, hang or take memory", () => {
  const words = oneColumn(["a", "b", null, "a"], new Dictionary(new Utf8(), new Int32()));
  for (const sample of [sampleBatch(), words]) {
    const schema = encodeSchema(sample.schema);
    const batch = encodeBatch(sample);
    const damage = (bytes: Uint8Array, place: number, value: number): Uint8Array => {
      const copy = Uint8Array.from(bytes);
      copy[place] = value;
      return copy;
    };
    fc.assert(
      fc.property(fc.nat(batch.length - 1), fc.nat(255), (place, value) => {
        readDamaged(schema, damage(batch, place, value));
      }),
      { numRuns: 3000 },
    );
    fc.assert(
      fc.property(fc.nat(schema.length - 1), fc.nat(255), (place, value) => {
        readDamaged(damage(schema, place, value), batch);
      }),
      { numRuns: 2000 },
    );
  }
});

test("a schema with any one byte changed to that of another column type is read or refused", () => {
  const bytes = encodeSchema(sampleBatch().schema);
  for (let place = 0; place < bytes.length; place++) {
    for (const type of [Type.List, Type.Struct, Type.Map, Type.FixedSizeList, 21 /* LargeList in Schema.fbs */]) {
      const damaged = Uint8Array.from(bytes);
      damaged[place] = type;
      readDamaged(damaged, encodeBatch(sampleBatch()));
    }
  }
});

test("offsets that run backwards, or beyond the text, are refused", () => {
  const forge = (valueOffsets: Int32Array): RecordBatch => {
    const data = new TextEncoder().encode("abcdef");
    return batchOf({ c: makeData({ type: new Utf8(), length: 2, nullCount: 0, valueOffsets, data }) as Data });
  };
  const decode = (batch: RecordBatch): RecordBatch =>
    new BatchDecoder(encodeSchema(batch.schema)).decode(encodeBatch(batch));
  assert.equal(columnReader(decode(forge(Int32Array.of(0, 2, 6))), 0).get(1), "cdef");
  assert.throws(() => decode(forge(Int32Array.of(0, 4, 2))), { code: "data_invalid", message: /"c"/ });
  assert.throws(() => decode(forge(Int32Array.of(0, 4, 70_000))), { code: "data_invalid", message: /"c"/ });
});

test("an index beyond its dictionary is refused", () => {
  const type = new Dictionary(new Utf8(), new Int32(), 7);
  const dictionary = vectorFromArray(["a", "b"], new Utf8());
  const data = makeData({ type, length: 2, nullCount: 0, data: Int32Array.of(0, 2), dictionary }) as Data;
  const batch = batchOf({ c: data });
  const decoder = new BatchDecoder(encodeSchema(batch.schema));
  assert.throws(() => decoder.decode(encodeBatch(batch)), { code: "data_invalid", message: /"c"/ });
});

test("batches as apache-arrow's own writer writes them are read", () => {
  const batch = sampleBatch(3);
  const writer = new RecordBatchStreamWriter();
  writer.write(batch);
  writer.finish();
  const stream = writer.toUint8Array(true);
  const schema = encodeSchema(batch.schema);
  assert.deepEqual(stream.subarray(0, schema.length), schema);
  const body = stream.subarray(schema.length, stream.length - END_OF_STREAM.length);
  assert.equal(columnReader(new BatchDecoder(schema).decode(body), 1).get(2), "name 2");
});
