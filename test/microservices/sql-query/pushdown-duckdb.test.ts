import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { createDuckdbTableSql } from "../../../lib/data/duckdb-tables.ts";
import { openDuckdb, type OpenDuckdb } from "../../../lib/data/duckdb.ts";
import type { DataSet } from "../../../lib/model/dataset.ts";
import { isOfferedFunction } from "../../../microservices/sql-query/duckdb-functions.ts";
import { isChangingFunction } from "../../../microservices/sql-query/duckdb-passes.ts";
import { streamDuckdb } from "../../../microservices/sql-query/duckdb-stream.ts";
import type { PushedQuestion } from "../../../microservices/sql-query/pushdown.ts";
import { DEFAULT_QUERY_LIMITS } from "../../../microservices/sql-query/query-protocol.ts";
import {
  answerableQuestions,
  ask,
  both,
  columns,
  dataSet,
  questions,
  rowsOf,
  some,
  sums,
  table,
  type Stream,
  type Value,
} from "../../support/pushdown.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const folder = await temporaryFolder();
let worlds = 0;

/** A file with these rows, and whatever else `change` makes of them. */
async function worldOf(rows: readonly (readonly Value[])[], change = "", granted: DataSet = dataSet): Promise<Stream> {
  const path = join(folder, `world${String(worlds++)}.duckdb`);
  const database = await opened(path);
  const { connection } = database;
  await connection.run(createDuckdbTableSql(table));
  const values = rows.map((row) => `(${row.map(literal).join(", ")}, NULL, 1)`);
  if (values.length > 0) await connection.run(`INSERT INTO T VALUES ${values.join(", ")}`);
  if (change !== "") await connection.run(change);
  database.close();
  return (sql, question, limits, write) =>
    streamDuckdb(
      { worldPath: path, dataSets: [granted], sql, ...(question ? { pushed: question } : {}) },
      limits,
      write,
    );
}

function opened(path: string): Promise<OpenDuckdb> {
  return openDuckdb({
    path,
    readOnly: false,
    memoryBytes: 64e6,
    temporaryFolder: folder,
    temporaryBytes: 64e6,
    externalAccess: false,
  });
}

/** Of the column at this place. */
function literal(value: Value, place: number): string {
  if (value === null) return "NULL";
  if (typeof value === "string") return `'${value.replaceAll("'", "''")}'`;
  const type = table.columns[place]?.type.type;
  if (type === "boolean") return String(value === 1n);
  return type === "decimal" ? `${Number(value).toFixed(2)}::DECIMAL(15,2)` : String(value);
}

const allOpen: DataSet = { ...dataSet, sensitive_columns: {} };
const ALL = `SELECT ${columns.join(", ")} FROM T`;

test("answers are the same, bit for bit, whether DuckDB aggregates or sql-algorithm", async () => {
  let pushed = 0;
  await fc.assert(
    fc.asyncProperty(rowsOf, fc.oneof(questions, answerableQuestions), async (rows, question) => {
      if (await both(await worldOf(rows), ALL, question)) pushed++;
    }),
    { numRuns: 100 },
  );
  assert.ok(pushed > 20, `only ${String(pushed)} were pushed`);
});

const byTwo: PushedQuestion = { algorithm: "count,sum", algorithmColumns: { label: "whole", member: "whole,pay" } };
const births: PushedQuestion = { algorithm: "average,min,max", algorithmColumns: { "": "born" } };
const pushedOrNot: readonly [name: string, isPushed: boolean, sql: string, question: PushedQuestion][] = [
  ["groups over granted columns", true, "SELECT label, whole, pay FROM T", sums],
  ["a statement that a semicolon ends", true, "SELECT label, whole, pay FROM T;\n ; ", sums],
  ["a comment behind a semicolon", false, "SELECT label, whole, pay FROM T; -- all of them", sums],
  ["a statement that a comment ends", true, "SELECT label, whole, pay FROM T -- all of them;", sums],
  ["a join", true, "SELECT a.label, b.whole, b.pay FROM T a JOIN T b ON a.whole < b.whole", sums],
  ["an outer join", true, "SELECT b.label, a.whole, b.pay FROM T a LEFT JOIN T b ON a.whole = b.whole + 3", sums],
  ["an order by a column", true, "SELECT label, whole, pay FROM T ORDER BY whole DESC, 1", sums],
  ["distinct rows", true, "SELECT DISTINCT label, whole, pay FROM T", sums],
  ["rows that a condition chooses", true, "SELECT label, whole, pay FROM T WHERE lower(label) <> 'label 2'", sums],
  ["rows that chance may choose", true, "SELECT label, whole, pay FROM T WHERE random() >= 0", sums],
  ["no rows", true, "SELECT label, whole, pay FROM T WHERE whole > 100", sums],
  ["no rows in one group", true, "SELECT born FROM T WHERE whole > 100", births],
  ["no groups", true, "SELECT born FROM T", births],
  ["a date and the rest", true, "SELECT born, member, height FROM T", births],
  ["rows counted", true, "SELECT label FROM T", { algorithm: "count" }],
  ["two columns of one name", true, "SELECT a.whole, b.whole, a.label, a.pay FROM T a, T b", sums],
  ["a column by another name", true, "SELECT label, whole AS pay, pay AS whole FROM T", sums],
  ["several groupings", true, "SELECT label, member, whole, pay FROM T", byTwo],
  ["several groupings of an order", true, "SELECT label, member, whole, pay FROM T ORDER BY pay", byTwo],
  ["an expression", false, "SELECT label, whole + 1 AS whole, pay FROM T", sums],
  ["another type", false, "SELECT label, whole::INTEGER AS whole, pay FROM T", sums],
  ["another collation", false, "SELECT label COLLATE NOCASE AS label, whole, pay FROM T", sums],
  ["a sensitive column", false, "SELECT label, whole, pay FROM T WHERE secret > 0", sums],
  ["a sensitive column among others", false, "SELECT label, whole, pay, secret FROM T", sums],
  ["all columns", false, "SELECT * FROM T", sums],
  ["a compound", false, "SELECT label, whole, pay FROM T UNION ALL SELECT label, whole, pay FROM T", sums],
  ["a subquery", false, "SELECT label, whole, pay FROM (SELECT label, whole, pay FROM T) q", sums],
  ["a timestamp", false, "SELECT label, whole, pay, seen FROM T", sums],
  ["a sum of floats", false, "SELECT height FROM T", { algorithm: "sum", algorithmColumns: { "": "height" } }],
  ["a median", false, "SELECT whole FROM T", { algorithm: "median", algorithmColumns: { "": "whole" } }],
  ["an algorithm that there is not", false, "SELECT whole FROM T", { algorithm: "mode" }],
  ["a column that there is not", false, "SELECT whole FROM T", { algorithm: "sum", algorithmColumns: { "": "x" } }],
  ["a limit", false, "SELECT label, whole, pay FROM T LIMIT 20", sums],
  ["a limit with several groupings", false, "SELECT label, member, whole, pay FROM T LIMIT 20", byTwo],
  ["a part in hundred", false, "SELECT label, whole, pay FROM T LIMIT 50%", sums],
  ["DISTINCT ON", false, "SELECT DISTINCT ON (label) label, whole, pay FROM T", sums],
  ["a group's rows", false, "SELECT label, whole, pay FROM T GROUP BY ALL", sums],
  ["a group's condition", false, "SELECT label, whole, pay FROM T GROUP BY 1, 2, 3 HAVING first(height) > 1", sums],
  ["a window", false, "SELECT label, whole, pay FROM T QUALIFY row_number() OVER () < 20", sums],
  ["an order that can fail", false, "SELECT label, whole, pay FROM T ORDER BY label::DATE", sums],
  ["an error in a condition", false, "SELECT label, whole, pay FROM T WHERE label::INTEGER > 1", sums],
];

for (const [name, isPushed, sql, question] of pushedOrNot) {
  test(`${name}: ${isPushed ? "DuckDB aggregates" : "the rows are sent"}, and the answer is the same`, async () => {
    assert.equal(await both(await worldOf(some), sql, question), isPushed);
  });
}

const samples = ["TABLESAMPLE 50%", "TABLESAMPLE reservoir(20)", "USING SAMPLE 20"];

for (const sample of samples) {
  test(`a sample (${sample}) is not pushed`, async () => {
    const sql = `SELECT label, whole, pay FROM T ${sample}`;
    assert.equal((await ask(await worldOf(some), sql, sums, true)).isPushed, false);
  });
}

const changing = [
  ...["random() >= 0", "gen_random_uuid() IS NOT NULL", "born < current_date", "born < today()", "born < now()"],
  ...["current_timestamp > born", "localtimestamp > born", "age(born) > INTERVAL 1 DAY", "ago(INTERVAL 1 DAY) > born"],
  ...["main.random() >= 0", "list_aggregate([1, 2], 'reservoir_quantile', 0.5) > 0"],
];

for (const condition of changing) {
  test(`what may differ from pass to pass (${condition}) is pushed for one grouping only`, async () => {
    const world = await worldOf(some, "", allOpen);
    const sql = `SELECT label, member, whole, pay FROM T WHERE ${condition}`;
    assert.equal((await ask(world, sql, byTwo, true)).isPushed, false);
    assert.equal((await ask(world, sql, sums, true)).isPushed, true);
  });
}

test("every offered function that DuckDB calls changing is known to be", async () => {
  const database = await opened(":memory:");
  const reader = await database.connection.runAndReadAll(
    "SELECT DISTINCT lower(function_name) FROM duckdb_functions() WHERE stability IN ('VOLATILE', 'CONSISTENT_WITHIN_QUERY') " +
      "OR regexp_matches(macro_definition, '(?i)random|uuid|now|today|local|current_(date|time)')",
  );
  database.close();
  const offered = reader
    .getRows()
    .map(([name]) => String(name))
    .filter(isOfferedFunction);
  assert.ok(offered.length > 8);
  assert.deepEqual(
    offered.filter((name) => !isChangingFunction(name)),
    [],
  );
});

const refused: readonly [name: string, change: string][] = [
  ["an infinite date", "UPDATE T SET born = 'infinity' WHERE label IS NULL"],
  ["a date before all others", "UPDATE T SET born = '-infinity' WHERE label IS NULL"],
  ["a text that is longer than a row may be", "UPDATE T SET label = repeat('x', 2000000) WHERE whole = 3"],
  ["a text that is long", "UPDATE T SET label = repeat('x', 20000) WHERE whole = 3"],
];

for (const [name, change] of refused) {
  test(`${name} among the values is answered as it is without`, async () => {
    const world = await worldOf(some, change);
    assert.equal(await both(world, "SELECT label, whole, born FROM T", { algorithm: "count" }), false);
  });
}

test("texts that begin with a byte order mark keep it where DuckDB aggregates", async () => {
  const world = await worldOf(some, "UPDATE T SET label = chr(65279) || label");
  const question: PushedQuestion = { algorithm: "min,max", algorithmColumns: { label: "label" } };
  assert.equal(await both(world, "SELECT label FROM T", question), true);
});

test("where no column is sensitive, all are pushed", async () => {
  const world = await worldOf(some, "", allOpen);
  assert.equal(await both(world, "SELECT * EXCLUDE (seen) FROM T", sums), false);
  assert.equal(await both(world, "SELECT secret, whole FROM T", { algorithm: "count" }), true);
});

test("more rows than the limit fail as they do without", async () => {
  const world = await worldOf(some);
  const limits = { ...DEFAULT_QUERY_LIMITS, rows: 10 };
  const question: PushedQuestion = { algorithm: "count", algorithmColumns: { label: "whole" } };
  for (const push of [false, true]) {
    const { answer } = await ask(world, "SELECT label, whole FROM T", question, push, limits);
    assert.match(JSON.stringify(answer), /result_too_large/);
  }
  const enough = { ...limits, rows: some.length };
  assert.equal((await ask(world, "SELECT label, whole FROM T", question, true, enough)).isPushed, true);
});

test("rows that may be too large for the limit are sent", async () => {
  const question: PushedQuestion = { algorithm: "count", algorithmColumns: { label: "whole" } };
  const limits = { ...DEFAULT_QUERY_LIMITS, rowBytes: 38 };
  const outcome = await ask(await worldOf(some), "SELECT label, whole FROM T", question, true, limits);
  assert.equal(outcome.isPushed, false);
});

test("more groups than are held are answered by their rows", async () => {
  const world = await worldOf([], "INSERT INTO T SELECT range, 0, NULL, NULL, 'x', NULL, NULL, 1 FROM range(20001)");
  const question: PushedQuestion = { algorithm: "count", algorithmColumns: { whole: "*" } };
  assert.equal(await both(world, "SELECT whole FROM T", question), false);
  assert.equal(await both(world, "SELECT whole FROM T WHERE whole > 0", question), true);
});

test("groups with more text than is held are answered by their rows", async () => {
  const long = "INSERT INTO T SELECT 1, 1, NULL, NULL, rpad(range::VARCHAR, 10000, 'x'), 0.5, NULL, 1 FROM range(900)";
  const world = await worldOf([], long);
  const question: PushedQuestion = { algorithm: "count", algorithmColumns: { label: "whole" } };
  assert.equal(await both(world, "SELECT label, whole FROM T", question), false);
  // Their documents are small enough for batches: each is one row.
  const few = "SELECT label, whole FROM T WHERE label < '4'";
  assert.equal(await both(world, few, question), true);
});
