import assert from "node:assert/strict";
import { test } from "node:test";
import { tableFromIPC, type RecordBatch } from "apache-arrow";
import { parse } from "csv-parse/sync";
import { BatchBuilder } from "../../../lib/data/batch-builder.ts";
import { arrowPieces, csvPieces, jsonRowPieces } from "../../../lib/data/batch-writers.ts";
import type { CellValue, FieldSpec } from "../../../lib/data/field-types.ts";

const FIELDS: FieldSpec[] = [
  { name: "id", type: { kind: "integer" }, nullable: false },
  { name: "pay, gross", type: { kind: "decimal", precision: 12, scale: 2 }, nullable: true },
  { name: "name", type: { kind: "text" }, nullable: true },
  { name: "born", type: { kind: "date" }, nullable: true },
];

const ROWS: CellValue[][] = [
  [1n, 123450n, 'a "quoted", comma\r\nand line', 0],
  [9007199254740993n, -5n, "", null],
  [3n, null, null, -1],
];

async function* batchesOf(rows: readonly CellValue[][], perBatch: number): AsyncGenerator<RecordBatch> {
  const builder = new BatchBuilder(FIELDS);
  for (const row of rows) {
    builder.append(row);
    if (builder.rowCount === perBatch) yield builder.build();
  }
  if (builder.rowCount > 0) yield builder.build();
}

async function joined(pieces: AsyncIterable<string>): Promise<string> {
  let text = "";
  for await (const piece of pieces) text += piece;
  return text;
}

test("CSV follows RFC 4180, and null and empty text stay apart", async () => {
  const text = await joined(csvPieces(FIELDS, batchesOf(ROWS, 2)));
  assert.equal(
    text,
    'id,"pay, gross",name,born\r\n' +
      '1,1234.50,"a ""quoted"", comma\r\nand line",1970-01-01\r\n' +
      '9007199254740993,-0.05,"",\r\n' +
      "3,,,1969-12-31\r\n",
  );
  const records: string[][] = parse(text, { record_delimiter: "\r\n" });
  assert.equal(records[1]?.[2], ROWS[0]?.[2]);
});

test("CSV without rows is its header", async () => {
  assert.equal(await joined(csvPieces(FIELDS, batchesOf([], 2))), 'id,"pay, gross",name,born\r\n');
});

test("JSON rows are the elements of an array, with numbers only where a double holds them", async () => {
  const text = await joined(jsonRowPieces(FIELDS, batchesOf(ROWS, 1)));
  assert.deepEqual(JSON.parse(`[${text}]`), [
    { id: 1, "pay, gross": 1234.5, name: 'a "quoted", comma\r\nand line', born: "1970-01-01" },
    { id: "9007199254740993", "pay, gross": -0.05, name: "", born: null },
    { id: 3, "pay, gross": null, name: null, born: "1969-12-31" },
  ]);
  assert.equal(await joined(jsonRowPieces(FIELDS, batchesOf([], 1))), "");
});

test("Arrow pieces are a stream that any reader reads, also without batches", async () => {
  const pieces: Uint8Array[] = [];
  for await (const piece of arrowPieces(FIELDS, batchesOf(ROWS, 2))) pieces.push(piece);
  const table = tableFromIPC(Buffer.concat(pieces));
  assert.equal(table.numRows, 3);
  assert.equal(table.getChild("id")?.get(1), 9007199254740993n);
  assert.equal(table.getChild("name")?.get(2), null);

  const empty: Uint8Array[] = [];
  for await (const piece of arrowPieces(FIELDS, batchesOf([], 2))) empty.push(piece);
  assert.deepEqual(
    tableFromIPC(Buffer.concat(empty)).schema.fields.map((field) => String(field.name)),
    FIELDS.map((field) => field.name),
  );
});

test("only the asked columns are written, in the asked order", async () => {
  const asked = [FIELDS[2], FIELDS[0]] as FieldSpec[];
  assert.match(await joined(csvPieces(asked, batchesOf(ROWS, 5))), /^name,id\r\n/);
  const pieces: Uint8Array[] = [];
  for await (const piece of arrowPieces(asked, batchesOf(ROWS, 5))) pieces.push(piece);
  const table = tableFromIPC(Buffer.concat(pieces));
  assert.equal(table.numCols, 2);
  assert.equal(table.getChild("id")?.get(2), 3n);
});

test("a column that a batch lacks is an error that names it and those there are", async () => {
  const asked: FieldSpec[] = [{ name: "nowhere", type: { kind: "text" }, nullable: true }];
  await assert.rejects(joined(csvPieces(asked, batchesOf(ROWS, 5))), {
    code: "data_invalid",
    message: /"nowhere".*id, pay, gross, name, born/,
  });
});

for (const [name, pieces] of [
  ["CSV", csvPieces],
  ["JSON", jsonRowPieces],
  ["Arrow", arrowPieces],
] as const) {
  test(`${name}: a slow reader holds up the source, and leaving it ends the source`, async () => {
    let taken = 0;
    let isEnded = false;
    async function* source(): AsyncGenerator<RecordBatch> {
      try {
        const long = "x".repeat(80_000);
        for (; taken < 1000; taken++) yield* batchesOf([[BigInt(taken), null, long, null]], 1);
      } finally {
        isEnded = true;
      }
    }
    const reader = pieces(FIELDS, source());
    await reader.next();
    await reader.next();
    assert.ok(taken <= 2, `${taken} batches were taken for two pieces`);
    await reader.return();
    assert.ok(isEnded);
  });
}
