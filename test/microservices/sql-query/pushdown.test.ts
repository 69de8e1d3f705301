import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import Database from "better-sqlite3";
import fc from "fast-check";
import { createTableSql } from "../../../lib/data/sqlite-tables.ts";
import { guardStatement } from "../../../microservices/sql-query/guarded-statement.ts";
import type { PushedQuestion } from "../../../microservices/sql-query/pushdown.ts";
import { DEFAULT_QUERY_LIMITS } from "../../../microservices/sql-query/query-protocol.ts";
import { streamResult } from "../../../microservices/sql-query/result-stream.ts";
import {
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

function worldOf(rows: readonly (readonly Value[])[]): Database.Database {
  const database = new Database(join(folder, `world${String(worlds++)}.sqlite`));
  database.exec(createTableSql(table));
  const insert = database.prepare("INSERT INTO T VALUES (?, ?, ?, ?, ?, ?, NULL, ?)");
  database.transaction(() => rows.forEach((row) => insert.run(...row, 1n)))();
  return database;
}

function streamOf(database: Database.Database): Stream {
  return (sql, question, limits, write) =>
    streamResult(database, guardStatement(database, sql), [dataSet], limits, write, question);
}

const ALL = `SELECT ${columns.join(", ")} FROM T`;

test("answers are the same, bit for bit, whether SQLite aggregates or sql-algorithm", async () => {
  let pushed = 0;
  await fc.assert(
    fc.asyncProperty(rowsOf, questions, async (rows, question) => {
      const database = worldOf(rows);
      try {
        if (await both(streamOf(database), ALL, question)) pushed++;
      } finally {
        database.close();
      }
    }),
    { numRuns: 150 },
  );
  assert.ok(pushed > 10, `only ${String(pushed)} were pushed`);
});

const pushedOrNot: readonly [name: string, isPushed: boolean, sql: string, question: PushedQuestion][] = [
  ["groups over granted columns", true, "SELECT label, whole, pay FROM T", sums],
  [
    "a join with a limit",
    true,
    "SELECT a.label, b.whole, b.pay FROM T a JOIN T b ON a.whole < b.whole LIMIT 500",
    sums,
  ],
  ["rows that a condition chooses", true, "SELECT label, whole, pay FROM T WHERE whole > 3", sums],
  ["no rows", true, "SELECT label, whole, pay FROM T WHERE 0", sums],
  ["no groups", true, "SELECT born FROM T", { algorithm: "average,min,max", algorithmColumns: { "": "born" } }],
  ["rows counted", true, "SELECT label FROM T", { algorithm: "count" }],
  ["two columns of one name", true, "SELECT a.whole, b.whole, a.label, a.pay FROM T a, T b", sums],
  ["an expression", false, "SELECT label, whole + 1 AS whole, pay FROM T", sums],
  ["a sensitive column", false, "SELECT label, whole, pay FROM T WHERE secret > 0", sums],
  ["a compound", false, "SELECT label, whole, pay FROM T UNION ALL SELECT label, whole, pay FROM T", sums],
  ["a timestamp", false, "SELECT label, whole, pay, seen FROM T", sums],
  ["a sum of floats", false, "SELECT height FROM T", { algorithm: "sum", algorithmColumns: { "": "height" } }],
  ["a median", false, "SELECT whole FROM T", { algorithm: "median", algorithmColumns: { "": "whole" } }],
  ["an algorithm that there is not", false, "SELECT whole FROM T", { algorithm: "mode" }],
  ["a column that there is not", false, "SELECT whole FROM T", { algorithm: "sum", algorithmColumns: { "": "x" } }],
];

for (const [name, isPushed, sql, question] of pushedOrNot) {
  test(`${name}: ${isPushed ? "SQLite aggregates" : "the rows are sent"}, and the answer is the same`, async () => {
    const database = worldOf(some);
    assert.equal(await both(streamOf(database), sql, question), isPushed);
    database.close();
  });
}

const misfits: readonly [name: string, update: string][] = [
  ["text among integers", "UPDATE T SET whole = 'many' WHERE rowid = 30"],
  ["a fraction among integers", "UPDATE T SET whole = 1.5 WHERE rowid = 30"],
  ["a decimal of too many digits", "UPDATE T SET pay = 1.005 WHERE rowid = 30"],
  ["text among decimals", "UPDATE T SET pay = 'x' WHERE rowid = 30"],
  ["a binary value among texts", "UPDATE T SET label = x'00ff' WHERE rowid = 30"],
];

for (const [name, update] of misfits) {
  test(`${name} fails as it does without`, async () => {
    const database = worldOf(some);
    database.exec(update);
    assert.equal(await both(streamOf(database), "SELECT label, whole, pay FROM T", sums), false);
    database.close();
  });
}

test("what may differ from pass to pass is not pushed for several groupings, only for one", async () => {
  const database = worldOf(some);
  const byTwo: PushedQuestion = { algorithm: "count", algorithmColumns: { label: "whole", member: "whole" } };
  const chance = "SELECT label, member, whole FROM T WHERE random() > 0";
  const now = "SELECT label, member, whole FROM T WHERE born < date('now')";
  const plain = "SELECT label, member, whole FROM T";
  for (const [sql, isPushed] of [
    [chance, false],
    [now, false],
    [plain, true],
  ] as const) {
    assert.equal((await ask(streamOf(database), sql, byTwo, true)).isPushed, isPushed, sql);
  }
  const byOne: PushedQuestion = { algorithm: "count", algorithmColumns: { label: "whole" } };
  assert.equal((await ask(streamOf(database), chance, byOne, true)).isPushed, true);
  database.close();
});

test("more rows than the limit fail as they do without", async () => {
  const database = worldOf(some);
  const limits = { ...DEFAULT_QUERY_LIMITS, rows: 10 };
  const question: PushedQuestion = { algorithm: "count", algorithmColumns: { label: "whole" } };
  for (const push of [false, true]) {
    const { answer } = await ask(streamOf(database), "SELECT label, whole FROM T", question, push, limits);
    assert.match(JSON.stringify(answer), /result_too_large/);
  }
  database.close();
});

test("groups with more text than is held are answered by their rows", async () => {
  const long = (index: number): string => String(index).padEnd(10_000, "x");
  const database = worldOf(Array.from({ length: 900 }, (_, index) => [1n, 1, "2000-01-01", 1n, long(index), 0.5]));
  const question: PushedQuestion = { algorithm: "count", algorithmColumns: { label: "whole" } };
  const asked = (most: number): string => `SELECT label, whole FROM T WHERE rowid <= ${String(most)}`;
  assert.equal(await both(streamOf(database), asked(900), question), false);
  // Their documents are small enough for batches: each is one row.
  assert.equal(await both(streamOf(database), asked(300), question), true);
  database.close();
});
