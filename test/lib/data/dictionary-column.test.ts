/** Dictionary-encoded text: the same rows as without, through every consumer of batches. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { DataType, tableFromIPC, type RecordBatch } from "apache-arrow";
import fc from "fast-check";
import { BatchBuilder } from "../../../lib/data/batch-builder.ts";
import { csvPieces, jsonRowPieces } from "../../../lib/data/batch-writers.ts";
import { columnReaders } from "../../../lib/data/column-reader.ts";
import { fieldsOf, type CellValue, type FieldSpec } from "../../../lib/data/field-types.ts";
import { SOURCE_COLUMN, SOURCE_TABLE } from "../../../lib/data/field-metadata.ts";
import { BatchDecoder, encodeBatch, encodeSchema, END_OF_STREAM } from "../../../lib/data/ipc.ts";
import { TextDictionaries } from "../../../lib/data/text-dictionaries.ts";
import type { DataSet } from "../../../lib/model/dataset.ts";
import { DictionaryColumn, textDictionary } from "../../../lib/data/dictionary-column.ts";
import { joinStreams } from "../../../microservices/sql-aggregate/aggregate.ts";
import { planAnonymization } from "../../../microservices/sql-anonymize/anonymize.ts";
import { rowsOf } from "../../support/rows.ts";

const FIELDS: FieldSpec[] = [
  { name: "n", type: { kind: "integer" }, nullable: true },
  { name: "code", type: { kind: "text" }, nullable: true },
  { name: "word", type: { kind: "text" }, nullable: true },
];

function built(
  rows: readonly CellValue[][],
  rowsPerBatch: number,
  dictionaries: boolean,
  fields: readonly FieldSpec[] = FIELDS,
): RecordBatch[] {
  const builder = new BatchBuilder(fields, { dictionaries, expectedRows: 8 });
  const batches: RecordBatch[] = [];
  for (const row of rows) {
    builder.append(row);
    if (builder.rowCount === rowsPerBatch) batches.push(builder.build());
  }
  if (builder.rowCount > 0 || batches.length === 0) batches.push(builder.build());
  return batches;
}

function throughBytes(batches: readonly RecordBatch[]): RecordBatch[] {
  const [first] = batches;
  assert.ok(first);
  const decoder = new BatchDecoder(encodeSchema(first.schema));
  return batches.map((batch) => decoder.decode(encodeBatch(batch)));
}

async function* iterate<Value>(values: readonly Value[]): AsyncGenerator<Value> {
  yield* values;
}

async function text(pieces: AsyncIterable<string>): Promise<string> {
  let all = "";
  for await (const piece of pieces) all += piece;
  return all;
}

const hasDictionary = (batch: RecordBatch | undefined, column: string): boolean =>
  DataType.isDictionary(batch?.schema.fields.find(({ name }) => name === column)?.type);

/** Rows whose texts repeat in some stretches and not in others. */
const rowsWithStretches = fc
  .array(
    fc.record({ length: fc.nat(300), distinct: fc.constantFrom(1, 2, 40, 1000), nulls: fc.constantFrom(0, 2, 5) }),
    { maxLength: 6 },
  )
  .chain((stretches) =>
    fc.record({ stretches: fc.constant(stretches), odd: fc.string({ unit: "binary", maxLength: 12 }) }),
  )
  .map(({ stretches, odd }) =>
    stretches.flatMap(({ length, distinct, nulls }, stretch) =>
      Array.from({ length }, (_, row): CellValue[] => {
        const isNull = nulls > 0 && row % nulls === 0;
        return [BigInt(row), isNull ? null : `${odd}${row % distinct}`, stretch === 1 ? null : `w${stretch}-${row}`];
      }),
    ),
  );

test("rows, CSV and JSON are the same with dictionaries and without, whatever repeats where", async () => {
  await fc.assert(
    fc.asyncProperty(rowsWithStretches, fc.integer({ min: 1, max: 400 }), async (rows, rowsPerBatch) => {
      const plain = built(rows, rowsPerBatch, false);
      const encoded = throughBytes(built(rows, rowsPerBatch, true));
      assert.deepEqual(rowsOf(encoded), rowsOf(plain));
      assert.deepEqual(fieldsOf(encoded[0]?.schema as never), FIELDS);
      assert.equal(await text(csvPieces(FIELDS, iterate(encoded))), await text(csvPieces(FIELDS, iterate(plain))));
      assert.equal(
        await text(jsonRowPieces(FIELDS, iterate(encoded))),
        await text(jsonRowPieces(FIELDS, iterate(plain))),
      );
    }),
    { numRuns: 25 },
  );
});

test("batches that were made without dictionaries get them the same way", () => {
  fc.assert(
    fc.property(rowsWithStretches, fc.integer({ min: 1, max: 400 }), (rows, rowsPerBatch) => {
      const plain = built(rows, rowsPerBatch, false);
      const dictionaries = new TextDictionaries();
      const encoded = plain.map((batch) => dictionaries.encode(batch));
      assert.deepEqual(rowsOf(throughBytes(encoded)), rowsOf(plain));
      const [own] = built(rows, rowsPerBatch, true);
      for (const name of ["code", "word"]) {
        assert.equal(hasDictionary(encoded.at(-1), name), hasDictionary(own, name));
      }
    }),
    { numRuns: 20 },
  );
});

test("the first batch decides: texts that repeat get a dictionary, others and few rows do not", () => {
  const rows = Array.from({ length: 200 }, (_, row): CellValue[] => [1n, `c${row % 5}`, `w${row}`]);
  const [first, second] = built(rows, 100, true);
  assert.deepEqual([hasDictionary(first, "code"), hasDictionary(first, "word")], [true, false]);
  assert.deepEqual([hasDictionary(second, "code"), hasDictionary(second, "word")], [true, false]);
  const [few] = built(rows.slice(0, 20), 100, true);
  assert.deepEqual([hasDictionary(few, "code"), hasDictionary(few, "word")], [false, false]);
});

test("a text that stops repeating no longer costs a look-up, and is bounded by its batch", () => {
  const repeating = Array.from({ length: 100 }, (): CellValue[] => [1n, "same", null]);
  const rows = [...repeating, ...Array.from({ length: 400 }, (_, row): CellValue[] => [1n, `only ${row >> 1}`, null])];
  const batches = built([...rows, ...Array.from({ length: 1000 }, (): CellValue[] => [1n, "b", null])], 100, true);
  const entries = batches.map((batch) => batch.data.children[1]?.dictionary?.length);
  // Half of the texts of the second batch and more are new, so the eight after it bring one entry a row.
  assert.deepEqual(entries.slice(0, 3), [1, 50, 50]);
  const single = built(
    [...repeating, ...Array.from({ length: 2000 }, (_, row): CellValue[] => [1n, `only ${row}`, null])],
    100,
    true,
  );
  assert.ok(single.slice(1).every((batch) => batch.data.children[1]?.dictionary?.length === 100));
});

test("each batch's dictionary has its own texts in the order in which they come, however many came before", () => {
  const [batches, distinct] = [40, 600];
  const textOf = (batch: number, row: number): string => `text ${(batch * 450 + (row >> 1)) % 9000}`;
  const rows = Array.from({ length: batches * 2 * distinct }, (_, index): CellValue[] => {
    const batch = Math.floor(index / (2 * distinct));
    return [BigInt(index), textOf(batch, index % (2 * distinct)), null];
  });
  for (const [batch, made] of built(rows, 2 * distinct, true).entries()) {
    const own = Array.from({ length: distinct }, (_, entry) => textOf(batch, 2 * entry));
    assert.deepEqual([...(made.data.children[1]?.dictionary ?? [])], own);
  }
});

test("long texts of batches before are not kept: their memory is that of some batches, however many come", () => {
  const long = (row: number): string => `${String(row).padStart(6, "0")}${"x".repeat(100_000)}`;
  const column = new DictionaryColumn({ name: "c", type: { kind: "text" }, nullable: true }, textDictionary(0), 8);
  const taken: number[] = [];
  const before = process.memoryUsage().heapUsed;
  // Few rows a batch, of which nothing is told about how often texts repeat.
  for (let batch = 0; batch < 500; batch += 1) {
    for (let row = 0; row < 2; row += 1) column.set(row, long(2 * batch + row));
    taken.push(column.take(2).dictionary?.length ?? 0);
  }
  assert.ok(taken.every((entries) => entries === 2));
  const grown = process.memoryUsage().heapUsed - before;
  assert.ok(grown < 60e6, `${String(grown)} bytes for texts of 100 MB`);
});

test("the pieces of a stream with dictionaries are a stream that any Arrow reader reads", () => {
  const rows = Array.from({ length: 500 }, (_, row): CellValue[] => [BigInt(row), `c${row % 7}-${row >> 7}`, null]);
  const batches = built(rows, 130, true);
  assert.ok(batches.length > 3 && hasDictionary(batches[0], "code"));
  const pieces = [encodeSchema(batches[0]?.schema as never), ...batches.map(encodeBatch), END_OF_STREAM];
  const table = tableFromIPC(Buffer.concat(pieces));
  assert.deepEqual(
    Array.from({ length: table.numRows }, (_, row) => table.getChild("code")?.get(row) as string),
    rows.map(([, code]) => code),
  );
});

/** A data set whose column `code` is made shorter, and whose column `n` becomes a pseudonym. */
const PEOPLE: DataSet = {
  name: "people",
  type: "csv",
  tables: [
    {
      name: "T",
      columns: [
        { name: "n", type: { type: "integer" } },
        { name: "code", type: { type: "text" } },
        { name: "word", type: { type: "text" } },
      ],
    },
  ],
  sensitive_columns: { T: ["n", "code", "word"] },
  anonymization: {
    T: {
      n: { method: "pseudonymize" },
      code: { method: "generalize", keep: 2 },
      word: { method: "mask" },
    },
  },
};

test("anonymized texts that became equal cannot be told apart by their dictionaries", () => {
  const fields = FIELDS.map((field) => ({ ...field, metadata: { [SOURCE_TABLE]: "T", [SOURCE_COLUMN]: field.name } }));
  const rows = Array.from({ length: 300 }, (_, row): CellValue[] => [
    BigInt(row % 3),
    row % 11 === 0 ? null : `ab${row % 10}`,
    `secret ${row % 4}`,
  ]);
  const batches = throughBytes(built(rows, 150, true, fields));
  assert.ok(hasDictionary(batches[0], "code") && hasDictionary(batches[0], "word"));
  const key = Buffer.from("a key of the steward, 32 bytes..");
  const schema = batches[0]?.schema as never;
  const plan = planAnonymization({ schema, dataSets: [PEOPLE], query: "SELECT …", key });
  const plainPlan = planAnonymization({
    schema: built(rows, 150, false, fields)[0]?.schema as never,
    dataSets: [PEOPLE],
    query: "SELECT …",
    key,
  });
  const safe = throughBytes(batches.map((batch) => plan.transform(batch)));
  const plainSafe = built(rows, 150, false, fields).map((batch) => plainPlan.transform(batch));
  assert.deepEqual(rowsOf(safe), rowsOf(plainSafe));
  for (const batch of safe) {
    const sizes = batch.data.children.map((column) => column.dictionary?.length);
    assert.deepEqual(sizes, [3, 1, 1]);
    assert.ok(!Buffer.from(encodeBatch(batch)).includes("secret"), "an original value travels on");
  }
});

test("providers with dictionaries of other ids, without any, and with nothing but nulls join to the same rows", async () => {
  const other = [FIELDS[2], FIELDS[0], FIELDS[1]] as FieldSpec[];
  const rows = Array.from({ length: 200 }, (_, row): CellValue[] => [BigInt(row), `c${row % 5}`, `w${row % 9}`]);
  const nulls = Array.from({ length: 100 }, (): CellValue[] => [1n, null, null]);
  const reordered = rows.map(([n, code, word]): CellValue[] => [word ?? null, n ?? null, code ?? null]);
  const sources = {
    VU: built(rows, 90, true),
    UVA: built(reordered, 90, true, other),
    RUG: built(rows.slice(0, 10), 90, true),
    LU: built(nulls, 90, true),
  };
  const joins: readonly (readonly (keyof typeof sources)[])[] = [
    ["VU", "UVA"],
    ["VU", "UVA", "LU"],
    ["VU", "RUG"],
    ["LU"],
  ];
  for (const providers of joins) {
    const inputs = providers.map((provider) => ({
      provider,
      schema: sources[provider][0]?.schema as never,
      batches: iterate(sources[provider]),
    }));
    const { schema, batches } = joinStreams(inputs, { signal: new AbortController().signal });
    const decoder = new BatchDecoder(encodeSchema(schema));
    const joined: RecordBatch[] = [];
    for await (const batch of batches) joined.push(decoder.decode(encodeBatch(batch)));
    assert.equal(hasDictionary(joined[0], "code"), !providers.includes("RUG"));
    for (const provider of providers) {
      const own = rowsOf(joined).filter((row) => row.provider === provider);
      assert.deepEqual(
        own.map(({ n, code, word }) => ({ n, code, word })),
        rowsOf(sources[provider]).map(({ n, code, word }) => ({ n, code, word })),
      );
    }
  }
});

test("a dictionary's entry beyond its end is refused", () => {
  const [batch] = built(
    Array.from({ length: 100 }, (): CellValue[] => [1n, "same", null]),
    100,
    true,
  );
  assert.ok(batch);
  const column = batch.data.children[1];
  assert.ok(DataType.isDictionary(column?.type));
  (column?.values as Int32Array)[99] = 1;
  const decoder = new BatchDecoder(encodeSchema(batch.schema));
  assert.throws(() => decoder.decode(encodeBatch(batch)), /refers beyond its buffers/);
  assert.equal((column?.type).id, 1);
  assert.equal(columnReaders(batch).length, 3);
});
