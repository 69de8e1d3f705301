/** Every measurement runs, at its smallest; what its times are is not asked here. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, test } from "node:test";
import { TABLE_BENCHES } from "../../bench/benches.ts";
import type { Measured } from "../../bench/measured.ts";
import type { Report } from "../../bench/report.ts";
import type { Cell } from "../../bench/table.ts";
import { runProgram } from "../support/command.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const MAIN = "dist/bench/main.js";
const LIMIT_MS = 300_000;

describe("npm run bench", () => {
  for (const { name } of TABLE_BENCHES.filter(({ onlyByName }) => onlyByName !== true)) {
    test(`-- ${name} --quick prints its tables, and writes them for machines`, async () => {
      const file = join(await temporaryFolder(), "report.json");
      const { code, stdout, stderr } = await runProgram(MAIN, [name, "--quick", "--json", file], LIMIT_MS);
      assert.equal(code, 0, stderr);
      const report = JSON.parse(await readFile(file, "utf8")) as Report;
      assertForm(report);
      for (const table of report.tables) assert.ok(stdout.includes(table.title), `${table.name} was not printed`);
    });
  }

  test("-- --list names every measurement", async () => {
    const { code, stdout } = await runProgram(MAIN, ["--list"], LIMIT_MS);
    assert.equal(code, 0);
    for (const { name } of TABLE_BENCHES) assert.ok(stdout.includes(name), name);
    for (const name of ["load", "memory", "soak", "job-start"]) assert.ok(stdout.includes(name), name);
  });

  test("refuses a name that it does not know, with those that it knows", async () => {
    const { code, stderr } = await runProgram(MAIN, ["speed"], LIMIT_MS);
    assert.equal(code, 1);
    assert.match(stderr, /no measurement "speed"; there are: .*rows/);
  });
});

function assertForm(report: Report): void {
  assert.equal(report.format, 1);
  assert.ok(report.tables.length > 0);
  assert.equal(new Set(report.tables.map(({ name }) => name)).size, report.tables.length, "tables of one name");
  for (const table of report.tables) {
    const { machine } = table;
    assert.equal(table.quick, true);
    assert.ok(machine.cores > 0 && machine.node === process.version && machine.loadAfter >= 0);
    assert.match(table.name, /^[a-z][a-z0-9-]*$/);
    assert.ok(table.title !== "" && table.rows.length > 0, table.name);
    for (const row of table.rows) {
      assert.equal(row.length, table.columns.length, `${table.name}: ${JSON.stringify(row)}`);
      row.forEach(assertCell);
    }
    for (const target of table.targets) {
      assert.ok(Number.isFinite(target.measured), `${table.name}: ${target.what}`);
      assert.equal(typeof target.isMet, "boolean");
      assert.equal((target.atMost === undefined) !== (target.atLeast === undefined), true, target.what);
    }
  }
}

function assertCell(cell: Cell): void {
  if (cell === null || typeof cell === "string") return;
  if (typeof cell === "number") return assert.ok(Number.isFinite(cell), String(cell));
  const { median, min, max, n }: Measured = cell;
  assert.ok(min <= median && median <= max && n >= 1, JSON.stringify(cell));
}
