import assert from "node:assert/strict";
import { copyFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { checkFiles } from "../../../agent/data/check-files.ts";
import { loadDataSet, type LoadedDataSet } from "../../../agent/data/load.ts";
import { systemClock } from "../../../lib/clock.ts";
import { openDuckdb } from "../../../lib/data/duckdb.ts";
import { holdFile, removeUnheld } from "../../../lib/data/held-files.ts";
import { type AppError } from "../../../lib/errors.ts";
import type { ColumnType, DataSet } from "../../../lib/model/dataset.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const folder = await temporaryFolder();
let files = 0;

/** A Parquet file with one column `x`, of what this SQL selects. */
async function parquet(select: string): Promise<string> {
  const path = join(folder, `file${String(files++)}.parquet`);
  await asking(":memory:", `COPY (${select}) TO '${path}'`);
  return path;
}

async function asking(path: string, sql: string): Promise<unknown[][]> {
  const database = await openDuckdb({
    path,
    readOnly: path !== ":memory:",
    memoryBytes: 64e6,
    temporaryFolder: folder,
    temporaryBytes: 64e6,
    externalAccess: true,
  });
  try {
    return (await database.connection.runAndReadAll(sql)).getRowsJS();
  } finally {
    database.close();
  }
}

function declared(type: ColumnType, nullable = true): DataSet {
  const column = { name: "x", type, nullable };
  return { name: "test", type: "parquet", tables: [{ name: "T", columns: [column] }], sensitive_columns: {} };
}

async function load(dataSet: DataSet, path: string | string[], into = join(folder, "loaded")): Promise<LoadedDataSet> {
  return loadDataSet(dataSet, { engine: "duckdb", files: { T: path } }, { folder: into, clock: systemClock });
}

const decimal: ColumnType = { type: "decimal", precision: 9, scale: 2 };

const fitting: readonly [name: string, type: ColumnType, select: string, stored: unknown][] = [
  ["a narrower integer", { type: "integer" }, "SELECT 7::TINYINT AS x", 7n],
  ["a whole number of another type", { type: "integer" }, "SELECT 7.0::DOUBLE AS x", 7n],
  ["a decimal of fewer digits", decimal, "SELECT 7.5::DECIMAL(3,1) AS x", 7.5],
  ["a number that is a decimal", decimal, "SELECT 7.25::DOUBLE AS x", 7.25],
  ["text", { type: "text" }, "SELECT '007' AS x", "007"],
  ["a date as text", { type: "date" }, "SELECT '2022-12-31' AS x", new Date("2022-12-31")],
  ["a name in other letters", { type: "boolean" }, "SELECT true AS X", true],
  ["null", { type: "float" }, "SELECT NULL::DOUBLE AS x", null],
];

for (const [name, type, select, stored] of fitting) {
  test(`a Parquet file with ${name} is loaded as ${type.type}`, async () => {
    const { path } = await load(declared(type), await parquet(select));
    assert.deepEqual(await asking(path, "SELECT x FROM T"), [[stored]]);
  });
}

const misfitting: readonly [name: string, dataSet: DataSet, select: string, says: RegExp][] = [
  [
    "a fraction among integers",
    declared({ type: "integer" }),
    "SELECT 4711.5 AS x",
    /1 values in the column x \(DECIMAL/,
  ],
  ["a decimal of too many digits", declared(decimal), "SELECT 47.115::DOUBLE AS x", /that are no decimal as declared/],
  [
    "an integer that is too large",
    declared({ type: "integer" }),
    "SELECT 471147114711471147114711::HUGEINT AS x",
    /no integer/,
  ],
  ["text that is no date", declared({ type: "date" }), "SELECT 'kanarie 4711' AS x", /no date/],
  ["a missing value", declared({ type: "text" }, false), "SELECT NULL::VARCHAR AS x", /1 rows without a value/],
  ["another column", declared({ type: "text" }), "SELECT 'x' AS y", /lacks declared columns: x/],
];

for (const [name, dataSet, select, says] of misfitting) {
  test(`${name} in a Parquet file is a fault that carries no value, when it is loaded and when it is checked`, async () => {
    const path = await parquet(select);
    const isFault = (error: AppError): boolean => {
      assert.equal(error.code, "data_invalid");
      assert.match(error.message, says);
      assert.ok(!/kanarie|4711/.test(error.message), error.message);
      return true;
    };
    await assert.rejects(load(dataSet, path), isFault);
    const faults: AppError[] = [];
    const pod = { engine: "duckdb", files: { T: path } } as const;
    await checkFiles(dataSet, pod, { onFault: (fault) => faults.push(fault) });
    assert.equal(faults.length, 1);
    assert.ok(isFault(faults[0]!));
  });
}

test("a file that is no Parquet is a fault", async () => {
  const path = join(folder, "wrong.parquet");
  await copyFile(process.execPath, path);
  await assert.rejects(load(declared({ type: "text" }), path), {
    code: "data_invalid",
    message: /not a readable Parquet file/,
  });
});

test("several files are one table, loaded once, and again when one of them changes", async () => {
  const into = await temporaryFolder();
  const paths = [await parquet("SELECT 1 AS x"), await parquet("SELECT 2 AS x")];
  const dataSet = declared({ type: "integer" });
  const first = await load(dataSet, paths, into);
  assert.deepEqual(await asking(first.path, "SELECT x FROM T ORDER BY x"), [[1n], [2n]]);
  assert.equal((await load(dataSet, paths, into)).path, first.path);
  await copyFile(await parquet("SELECT 3 AS x"), paths[1]!);
  const second = await load(dataSet, paths, into);
  assert.deepEqual(await asking(second.path, "SELECT x FROM T ORDER BY x"), [[1n], [3n]]);
  const left = (await readdir(into)).filter((name) => name.includes(first.contentHash));
  assert.deepEqual(left, [], "nothing of the earlier content is left");
});

test("a loaded file does not go while it is held", async () => {
  const { path } = await load(declared({ type: "integer" }), await parquet("SELECT 1 AS x"), await temporaryFolder());
  const hold = holdFile(path);
  assert.ok(hold !== undefined);
  assert.equal(removeUnheld(path), false);
  assert.deepEqual(await asking(path, "SELECT x FROM T"), [[1n]]);
  hold.release();
  assert.equal(removeUnheld(path), true);
  assert.equal(holdFile(path), undefined);
});
