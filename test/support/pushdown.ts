/** Questions that are asked twice, of the rows and of the states that an engine aggregates: the answers must be the same. */
import assert from "node:assert/strict";
import type { RecordBatch } from "apache-arrow";
import fc from "fast-check";
import { columnReaders } from "../../lib/data/column-reader.ts";
import { PARTIAL_STATES } from "../../lib/data/field-metadata.ts";
import { fieldsOf } from "../../lib/data/field-types.ts";
import { BatchDecoder } from "../../lib/data/ipc.ts";
import { AppError } from "../../lib/errors.ts";
import type { DataSet, Table } from "../../lib/model/dataset.ts";
import { runAlgorithm } from "../../microservices/sql-algorithm/algorithm.ts";
import { FRAME, type WriteFrame } from "../../microservices/sql-query/frames.ts";
import type { PushedQuestion } from "../../microservices/sql-query/pushdown.ts";
import { DEFAULT_QUERY_LIMITS, type QueryLimits } from "../../microservices/sql-query/query-protocol.ts";

/** A value as both engines take it: booleans as 0 and 1, decimals as numbers, dates as texts. */
export type Value = bigint | number | string | null;

/** Runs a query, with the question where states may be sent. */
export type Stream = (
  sql: string,
  question: PushedQuestion | undefined,
  limits: QueryLimits,
  write: WriteFrame,
) => unknown;

/** A column of each type; the last is sensitive. */
export const table: Table = {
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
/** With the one table. */
export const dataSet: DataSet = { name: "d", type: "sqlite", tables: [table], sensitive_columns: { T: ["secret"] } };

/** What became of a question. */
export interface Outcome {
  readonly isPushed: boolean;
  readonly answer: unknown;
}

/** Query, then algorithm, as in a chain; all that an analyst could see. */
export async function ask(
  stream: Stream,
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
    const write: WriteFrame = (kind, payload) => {
      const bytes = Uint8Array.from(payload);
      if (kind === FRAME.schema) decoder = new BatchDecoder(bytes);
      else if (decoder) batches.push(decoder.decode(bytes));
    };
    await stream(sql, push ? question : undefined, limits, write);
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

/** Asks in both ways; whether states were sent. Fails where the answers differ. */
export async function both(stream: Stream, sql: string, question: PushedQuestion): Promise<boolean> {
  const rows = await ask(stream, sql, question, false);
  const states = await ask(stream, sql, question, true);
  assert.deepEqual(states.answer, rows.answer);
  assert.equal(rows.isPushed, false);
  return states.isPushed;
}

const nullable = <T extends Value>(values: fc.Arbitrary<T>): fc.Arbitrary<T | null> =>
  fc.oneof({ weight: 1, arbitrary: fc.constant(null) }, { weight: 5, arbitrary: values });
/** Rows of all columns but the last two. */
export const rowsOf = fc.array(
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
    nullable(
      fc.constantFrom(
        "a",
        "A",
        "",
        "é",
        "zürich",
        "\u{1F600}",
        "\uFFFD",
        "\uFEFFa",
        "it's",
        "a very long text that is long",
      ),
    ),
    nullable(fc.constantFrom(1.5, -2.25, 1e300)),
  ),
  { maxLength: 60 },
);

/** That the rows have values of. */
export const columns = ["whole", "pay", "born", "member", "label", "height"];
/** Of any of these columns. */
export const questions = fc.record({
  algorithm: fc.subarray(["count", "sum", "average", "min", "max"], { minLength: 1 }).map((names) => names.join(",")),
  algorithmColumns: fc.dictionary(
    fc.constantFrom("", "*", "whole", "pay", "born", "member", "label", "label, member", "height"),
    fc.subarray([...columns, "*"], { minLength: 1 }).map((names) => names.join(",")),
    { minKeys: 1, maxKeys: 2 },
  ),
});
/** Columns whose values these algorithms take, so that states can say the answer. */
const columnsOf: Readonly<Record<string, readonly string[]>> = {
  "count,sum,average,min,max": ["whole", "pay"],
  "average,max": ["whole", "pay", "born"],
  "min,max": ["whole", "pay", "born", "member", "label"],
  count: [...columns, "*"],
};

/** Of columns that take the algorithms. */
export const answerableQuestions = fc.constantFrom(...Object.entries(columnsOf)).chain(([algorithm, taken]) =>
  fc.record({
    algorithm: fc.constant(algorithm),
    algorithmColumns: fc.dictionary(
      fc.constantFrom("", "whole", "pay", "born", "member", "label", "label, member", "born, pay"),
      fc.subarray([...taken], { minLength: 1 }).map((names) => names.join(",")),
      { minKeys: 1, maxKeys: 3 },
    ),
  }),
);

/** Forty rows in which every group has several. */
export const some: readonly (readonly Value[])[] = Array.from({ length: 40 }, (_, index) => [
  BigInt(index % 7),
  (index * 37) / 100,
  `2022-01-${String(1 + (index % 28)).padStart(2, "0")}`,
  BigInt(index % 2),
  index % 9 === 0 ? null : `label ${String(index % 4)}`,
  index / 8,
]);
/** All algorithms, of the columns that have sums. */
export const sums: PushedQuestion = {
  algorithm: "count,sum,average,min,max",
  algorithmColumns: { label: "whole,pay" },
};
