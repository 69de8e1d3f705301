import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import type { RecordBatch } from "apache-arrow";
import Database from "better-sqlite3";
import fc from "fast-check";
import { PARTIAL_STATES } from "../../../lib/data/field-metadata.ts";
import { columnReaders } from "../../../lib/data/column-reader.ts";
import { fieldsOf } from "../../../lib/data/field-types.ts";
import { BatchDecoder } from "../../../lib/data/ipc.ts";
import { createTableSql } from "../../../lib/data/sqlite-tables.ts";
import { AppError } from "../../../lib/errors.ts";
import type { DataSet, Table } from "../../../lib/model/dataset.ts";
import { runAlgorithm } from "../../../microservices/sql-algorithm/algorithm.ts";
import { FRAME } from "../../../microservices/sql-query/frames.ts";
import { guardStatement } from "../../../microservices/sql-query/guarded-statement.ts";
import type { PushedQuestion } from "../../../microservices/sql-query/pushdown.ts";
import { DEFAULT_QUERY_LIMITS } from "../../../microservices/sql-query/query-protocol.ts";
import { streamResult } from "../../../microservices/sql-query/result-stream.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const table: Table = {
  name: "T",
  columns: [
    { name: "whole", type: { type: "integer" } },
    { name: "pay", type: { type: "decimal", precision: 15, scale: 2 } },
    { name: "born", type: { type: "date" } },
    { name: "member", type: { type: "boolean" } },
    { name: "label", type: { type: "text" } },
    { name: "height", type: { type: "float" } },
    { name: "seen", type: { type: "timestamp" } },
    { name: "secret", type: { type: "integer" } },
  ],
};
const dataSet: DataSet = { name: "d", type: "sqlite", tables: [table], sensitive_columns: { T: ["secret"] } };
const folder = await temporaryFolder();
let worlds = 0;

type Value = bigint | number | string | null;

function worldOf(rows: readonly (readonly Value[])[]): Database.Database {
  const database = new Database(join(folder, `world${String(worlds++)}.sqlite`));
  database.exec(createTableSql(table));
  const insert = database.prepare("INSERT INTO T VALUES (?, ?, ?, ?, ?, ?, NULL, ?)");
  database.transaction(() => rows.forEach((row) => insert.run(...row, 1n)))();
  return database;
}

interface Outcome {
  readonly isPushed: boolean;
  readonly answer: unknown;
}

/** Query, then algorithm, as in a chain; all that an analyst could see. */
async function ask(
  database: Database.Database,
  sql: string,
  question: PushedQuestion,
  push: boolean,
  limits = DEFAULT_QUERY_LIMITS,
): Promise<Outcome> {
  let isPushed = false;
  const answer: unknown[] = [];
  try {
    const batches: RecordBatch[] = [];
    let decoder: BatchDecoder | undefined;
    streamResult(
      database,
      guardStatement(database, sql),
      [dataSet],
      limits,
      (kind, payload) => {
        const bytes = Uint8Array.from(payload);
        if (kind === FRAME.schema) decoder = new BatchDecoder(bytes);
        else if (decoder) batches.push(decoder.decode(bytes));
      },
      push ? question : undefined,
    );
    assert.ok(decoder !== undefined);
    isPushed = decoder.schema.metadata.has(PARTIAL_STATES);
    const input = {
      schema: decoder.schema,
      batches: (async function* () {
        yield* batches;
      })(),
    };
    const rules = { rawRows: false, minimumGroupSize: 3 };
    const options = { request: question, rules, withSummary: true, signal: new AbortController().signal };
    for await (const output of runAlgorithm(input, options as never)) {
      if ("schema" in output) answer.push([fieldsOf(output.schema), [...output.schema.metadata]]);
      else if ("batch" in output) {
        const readers = columnReaders(output.batch);
        for (let row = 0; row < output.batch.numRows; row++) answer.push(readers.map((reader) => reader.get(row)));
      } else if ("notes" in output) answer.push(output.notes);
      else {
        const state = JSON.parse(Buffer.from(output.attachment.data).toString()) as { groups: unknown[] };
        // Their order is that in which groups came up, which says nothing.
        answer.push({ ...state, groups: state.groups.map((group) => JSON.stringify(group)).sort() });
      }
    }
  } catch (error) {
    assert.ok(error instanceof AppError, String(error));
    answer.push([error.code, error.message]);
  }
  return { isPushed, answer };
}

async function both(database: Database.Database, sql: string, question: PushedQuestion): Promise<boolean> {
  const rows = await ask(database, sql, question, false);
  const states = await ask(database, sql, question, true);
  assert.deepEqual(states.answer, rows.answer);
  assert.equal(rows.isPushed, false);
  return states.isPushed;
}

const nullable = <T extends Value>(values: fc.Arbitrary<T>): fc.Arbitrary<T | null> =>
  fc.oneof({ weight: 1, arbitrary: fc.constant(null) }, { weight: 5, arbitrary: values });
const rowsOf = fc.array(
  fc.tuple(
    nullable(
      fc.oneof(
        fc.bigInt({ min: -3n, max: 3n }),
        fc.constantFrom(2n ** 63n - 1n, -(2n ** 63n), 2n ** 53n + 1n, -1n, 2n ** 32n, -(2n ** 32n) - 1n),
      ),
    ),
    nullable(
      fc
        .oneof(fc.integer({ min: -500, max: 500 }), fc.integer({ min: -999_999_999_999_999, max: 999_999_999_999_999 }))
        .map((unscaled) => unscaled / 100),
    ),
    nullable(fc.constantFrom("1964-02-29", "2022-12-31", "1969-12-31", "1970-01-01", "0001-01-01", "9999-12-31")),
    nullable(fc.constantFrom(0n, 1n)),
    nullable(fc.constantFrom("a", "A", "", "é", "zürich", "\u{1F600}", "\uFFFD", "a very long text that is long")),
    nullable(fc.constantFrom(1.5, -2.25, 1e300)),
  ),
  { maxLength: 60 },
);
const columns = ["whole", "pay", "born", "member", "label", "height"];
const questions = fc.record({
  algorithm: fc.subarray(["count", "sum", "average", "min", "max"], { minLength: 1 }).map((names) => names.join(",")),
  algorithmColumns: fc.dictionary(
    fc.constantFrom("", "*", "whole", "pay", "born", "member", "label", "label, member", "height"),
    fc.subarray([...columns, "*"], { minLength: 1 }).map((names) => names.join(",")),
    { minKeys: 1, maxKeys: 2 },
  ),
});
const ALL = `SELECT ${columns.join(", ")} FROM T`;

test("answers are the same, bit for bit, whether SQLite aggregates or sql-algorithm", async () => {
  let pushed = 0;
  await fc.assert(
    fc.asyncProperty(rowsOf, questions, async (rows, question) => {
      const database = worldOf(rows);
      try {
        if (await both(database, ALL, question)) pushed++;
      } finally {
        database.close();
      }
    }),
    { numRuns: 150 },
  );
  assert.ok(pushed > 10, `only ${String(pushed)} were pushed`);
});

const some: readonly (readonly Value[])[] = Array.from({ length: 40 }, (_, index) => [
  BigInt(index % 7),
  (index * 37) / 100,
  `2022-01-${String(1 + (index % 28)).padStart(2, "0")}`,
  BigInt(index % 2),
  index % 9 === 0 ? null : `label ${String(index % 4)}`,
  index / 8,
]);
const sums: PushedQuestion = { algorithm: "count,sum,average,min,max", algorithmColumns: { label: "whole,pay" } };

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
    assert.equal(await both(database, sql, question), isPushed);
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
    assert.equal(await both(database, "SELECT label, whole, pay FROM T", sums), false);
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
    assert.equal((await ask(database, sql, byTwo, true)).isPushed, isPushed, sql);
  }
  const byOne: PushedQuestion = { algorithm: "count", algorithmColumns: { label: "whole" } };
  assert.equal((await ask(database, chance, byOne, true)).isPushed, true);
  database.close();
});

test("more rows than the limit fail as they do without", async () => {
  const database = worldOf(some);
  const limits = { ...DEFAULT_QUERY_LIMITS, rows: 10 };
  const question: PushedQuestion = { algorithm: "count", algorithmColumns: { label: "whole" } };
  for (const push of [false, true]) {
    const { answer } = await ask(database, "SELECT label, whole FROM T", question, push, limits);
    assert.match(JSON.stringify(answer), /result_too_large/);
  }
  database.close();
});

test("groups with more text than is held are answered by their rows", async () => {
  const long = (index: number): string => String(index).padEnd(10_000, "x");
  const database = worldOf(Array.from({ length: 900 }, (_, index) => [1n, 1, "2000-01-01", 1n, long(index), 0.5]));
  const question: PushedQuestion = { algorithm: "count", algorithmColumns: { label: "whole" } };
  const asked = (most: number): string => `SELECT label, whole FROM T WHERE rowid <= ${String(most)}`;
  assert.equal(await both(database, asked(900), question), false);
  // Their documents are small enough for batches: each is one row.
  assert.equal(await both(database, asked(300), question), true);
  database.close();
});
