import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { Value } from "@sinclair/typebox/value";
import {
  SAMPLE_STEWARDS,
  SAMPLE_TABLES,
  sampleRows,
  writeSampleData,
  type SampleStewardName,
} from "../../cli/generate-sample-data.ts";
import { DataSet } from "../../lib/model/dataset.ts";
import { packageRoot } from "../../lib/package-root.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const stewards = Object.keys(SAMPLE_STEWARDS) as SampleStewardName[];

/** Average of Aanst_22 by Geslacht, over the join of the tables on Unieknr and Peildat; from the rows, without any SQL. */
function averageSalaries(steward: SampleStewardName): Record<string, number> {
  const sexes = new Map<string, string>();
  const sums: Record<string, { cents: number; count: number }> = {};
  const rows = [...sampleRows(steward)];
  for (const { table, cells } of rows) if (table === "Personen") sexes.set(`${cells[1]} ${cells[7]}`, cells[2] ?? "");
  for (const { table, cells } of rows) {
    if (table !== "Aanstellingen") continue;
    const sum = (sums[sexes.get(`${cells[1]} ${cells[12]}`) ?? "?"] ??= { cents: 0, count: 0 });
    sum.cents += Number((cells[11] ?? "").replace(",", ""));
    sum.count++;
  }
  return Object.fromEntries(Object.entries(sums).map(([sex, { cents, count }]) => [sex, cents / count / 100]));
}

test("the wage gap of each steward is the built-in one", () => {
  for (const steward of stewards) {
    const { M = 0, V = 0, ...others } = averageSalaries(steward);
    assert.deepEqual(others, {});
    assert.ok(Math.abs(1 - V / M - SAMPLE_STEWARDS[steward].wageGap) < 1e-6, `${steward}: ${1 - V / M}`);
  }
});

test("each steward has about 18,000 rows a table, with several reference dates a person, and other people than the others", () => {
  const people = stewards.map((steward) => {
    const rows = [...sampleRows(steward)].filter((row) => row.table === "Personen");
    const total = [...sampleRows(steward)].length;
    assert.ok(
      rows.length > 17_000 && rows.length < 19_000 && total - rows.length > 17_000,
      `${rows.length} of ${total}`,
    );
    assert.equal(new Set(rows.map((row) => `${row.cells[1]} ${row.cells[7]}`)).size, rows.length);
    assert.ok(rows.length / new Set(rows.map((row) => row.cells[1])).size > 4);
    assert.ok(rows.every((row) => row.cells[1]?.startsWith("000")));
    return rows.map((row) => row.cells.join()).join("\n");
  });
  assert.equal(new Set(people).size, stewards.length);
});

test("the same seed writes the same bytes", async () => {
  const [one, other] = [
    await writeSampleData(await temporaryFolder(), "RUG", { pairs: 50 }),
    await writeSampleData(await temporaryFolder(), "RUG", { pairs: 50 }),
  ];
  assert.equal(await readFile(one.Personen, "utf8"), await readFile(other.Personen, "utf8"));
  const third = await writeSampleData(await temporaryFolder(), "RUG", { pairs: 50, seed: 1 });
  assert.notEqual(await readFile(one.Personen, "utf8"), await readFile(third.Personen, "utf8"));
});

test("the data set's document is valid and declares the columns of the files", async () => {
  const document = JSON.parse(
    await readFile(join(packageRoot, "configuration/datasets/wageGap.json"), "utf8"),
  ) as DataSet;
  assert.deepEqual([...Value.Errors(DataSet, document)], []);
  for (const table of document.tables) {
    assert.deepEqual(
      table.columns.map((column) => column.name),
      [...SAMPLE_TABLES[table.name as keyof typeof SAMPLE_TABLES]],
    );
  }
});
