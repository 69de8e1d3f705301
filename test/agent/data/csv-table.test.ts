import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import type { StoredValue } from "../../../agent/data/cell-parser.ts";
import { readCsvTable } from "../../../agent/data/csv-table.ts";
import type { AppError } from "../../../lib/errors.ts";
import type { ColumnType, Table } from "../../../lib/model/dataset.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

async function read(content: string, table: Table): Promise<StoredValue[][]> {
  const path = join(await temporaryFolder(), "file.csv");
  await writeFile(path, content);
  const rows: StoredValue[][] = [];
  await readCsvTable(
    path,
    table,
    { delimiter: ";", fileName: "file.csv" },
    { onRow: (values) => rows.push([...values]) },
  );
  return rows;
}

function tableOf(type: ColumnType, nullable = true): Table {
  return {
    name: "T",
    columns: [
      { name: "k", type: { type: "text" } },
      { name: "v", type, nullable },
    ],
  };
}

const comma = { type: "decimal", precision: 9, scale: 2, decimalSeparator: "," } as const;
const yesNo = { type: "boolean", trueValue: "J", falseValue: "N" } as const;

const accepted: readonly [cell: string, type: ColumnType, value: StoredValue][] = [
  ["", { type: "integer" }, null],
  ["", { type: "text" }, null],
  ['""', { type: "text" }, ""],
  ['""', { type: "integer" }, null],
  ["000123", { type: "text" }, "000123"],
  ["42", { type: "integer" }, 42],
  ["-7", { type: "integer" }, -7],
  ["9223372036854775807", { type: "integer" }, 9223372036854775807n],
  ["-9223372036854775808", { type: "integer" }, -9223372036854775808n],
  ["1234567,89", comma, 1234567.89],
  ["-0,5", comma, -0.5],
  ["3", comma, 3],
  ["0.123456789012345", { type: "decimal", precision: 15, scale: 15 }, 0.123456789012345],
  ["1,5e3", { type: "float", decimalSeparator: "," }, 1500],
  ["J", yesNo, 1],
  ["false", { type: "boolean" }, 0],
  ["2024-02-29", { type: "date" }, "2024-02-29"],
  ["31-12-2022", { type: "date", format: "dd-mm-yyyy" }, "2022-12-31"],
  ["03/04/2022", { type: "date", format: "dd/mm/yyyy" }, "2022-04-03"],
  ["03/04/2022", { type: "date", format: "mm/dd/yyyy" }, "2022-03-04"],
  ["20221231", { type: "date", format: "yyyymmdd" }, "2022-12-31"],
  ["2022-12-31T23:30:00+01:00", { type: "timestamp" }, "2022-12-31 22:30:00"],
  ["2022-12-31 23:30:00.120", { type: "timestamp" }, "2022-12-31 23:30:00.12"],
  ["2022-12-31T23:30:00Z", { type: "timestamp" }, "2022-12-31 23:30:00"],
];

test("each declared type reads its cells exactly", async () => {
  for (const [cell, type, value] of accepted) {
    assert.deepEqual(await read(`k;v\nx;${cell}\n`, tableOf(type)), [["x", value]], `${cell} as ${type.type}`);
  }
});

const refused: readonly [cell: string, type: ColumnType, says: RegExp][] = [
  ["007", { type: "integer" }, /leading zeros; declare the column as text/],
  ["9223372036854775808", { type: "integer" }, /64 bits/],
  ["1.000", { type: "integer" }, /an integer is expected/],
  [" 1", { type: "integer" }, /an integer is expected/],
  ["1.5", comma, /behind a ","/],
  ["1,505", comma, /more decimals/],
  ["12345678,00", comma, /more digits/],
  ["01,50", comma, /leading zeros/],
  ["1.000,50", comma, /is expected/],
  ["1e999", { type: "float" }, /a number/],
  ["NaN", { type: "float" }, /a number/],
  ["j", yesNo, /"J" or "N" is expected/],
  ["31-12-2022", { type: "date" }, /yyyy-mm-dd/],
  ["31/12/2022", { type: "date", format: "mm/dd/yyyy" }, /no such day/],
  ["2023-02-29", { type: "date" }, /no such day/],
  ["2021-11-30", { type: "timestamp" }, /timestamp/],
  ["2022-12-31 24:00:00", { type: "timestamp" }, /no such time/],
  ["2022-12-31 10:00:00.1234567", { type: "timestamp" }, /six decimals/],
];

test("a cell that does not fit its type is refused with file, line, column and name, and without its value", async () => {
  for (const [cell, type, says] of refused) {
    await assert.rejects(read(`k;v\nx;\nxy;${cell}\n`, tableOf(type)), (error: AppError) => {
      assert.equal(error.code, "data_invalid", error.stack);
      assert.deepEqual(error.place, { file: "file.csv", line: 3, column: 4 }, cell);
      assert.match(error.message, says);
      assert.match(error.message, /file\.csv, line 3, column 4: In the column v/);
      assert.ok(!error.message.includes(cell.trim()), `the message carries the value: ${error.message}`);
      return true;
    });
  }
});

test("an empty cell of a column that is not nullable is refused", async () => {
  await assert.rejects(read("k;v\nx;\n", tableOf({ type: "text" }, false)), {
    message: /line 2, column 3.*not nullable/,
  });
});

test("columns may stand in any order", async () => {
  assert.deepEqual(await read("v;k\n1;x\n", tableOf({ type: "integer" })), [["x", 1]]);
});

test("empty lines at the end are no rows", async () => {
  assert.deepEqual(await read("k;v\nx;1\n\n\r\n", tableOf({ type: "integer" })), [["x", 1]]);
});

const structure: readonly [name: string, content: string, line: number, column: number, says: RegExp][] = [
  ["an unknown column", "k;w;v\n", 1, 3, /a column that is not declared. Declared of T: k, v/],
  ["another delimiter than declared", "k,v\nx,1\n", 1, 1, /not declared.*Is the delimiter right/],
  ["a column twice", "k;v;k\n", 1, 5, /k twice/],
  ["a missing column", "k\n", 1, 1, /lacks declared columns of T: v/],
  ["an empty file", "", 1, 1, /empty: a header/],
  ["a record that is too short", "k;v\nx;1\nx\n", 3, 1, /1 fields, and the header 2/],
  ["a record that is too long", "k;v\nx;1;2\n", 2, 5, /3 fields, and the header 2/],
  ["an empty line in the middle", "k;v\nx;1\n\nx;2\n", 3, 1, /empty line/],
];

for (const [name, content, line, column, says] of structure) {
  test(`${name} is refused with its place`, async () => {
    await assert.rejects(read(content, tableOf({ type: "integer" })), (error: AppError) => {
      assert.deepEqual(error.place, { file: "file.csv", line, column });
      assert.match(error.message, says);
      return true;
    });
  });
}
