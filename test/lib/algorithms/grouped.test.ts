import assert from "node:assert/strict";
import { test } from "node:test";
import { groupedToJson } from "../../../lib/algorithms/grouped-json.ts";
import { finishGrouped } from "../../../lib/algorithms/grouped-result.ts";
import { GroupedSummary, type GroupedSummaryOptions } from "../../../lib/algorithms/grouped.ts";
import { planGroupings, type AlgorithmRequest } from "../../../lib/algorithms/grouping-plan.ts";
import { ALGORITHMS } from "../../../lib/algorithms/registry.ts";
import type { CellValue, FieldSpec } from "../../../lib/data/field-types.ts";
import { AppError } from "../../../lib/errors.ts";
import { batchesOf, columns, rowsOf } from "../../support/rows.ts";

const fields = columns({ sex: "text", pay: "integer", hours: "float", born: "date" });
const rows: CellValue[][] = [
  ["V", 10n, 1.5, 0],
  ["M", 20n, 0.5, 365],
  ["V", 30n, null, null],
  [null, null, 2, -1],
];

function run(
  request: AlgorithmRequest,
  minimumGroupSize = 1,
  input: { fields: readonly FieldSpec[]; rows: readonly CellValue[][] } = { fields, rows },
  options: GroupedSummaryOptions = {},
) {
  const summary = GroupedSummary.start(planGroupings(input.fields, request), options);
  try {
    for (const batch of batchesOf(input.fields, input.rows, 2)) summary.addBatch(batch);
    const result = finishGrouped(summary, minimumGroupSize);
    return { ...result, rows: rowsOf(result.batches) };
  } finally {
    summary.close();
  }
}

function failure(work: () => unknown): AppError {
  try {
    work();
  } catch (error) {
    assert.ok(error instanceof AppError, String(error));
    return error;
  }
  return assert.fail("it was to fail");
}

test("a result has the group columns first, then a column per algorithm and value column, sorted by group", () => {
  const { rows: result, schema } = run({ algorithm: "sum, average", algorithmColumns: { sex: "pay, hours" } });
  assert.deepEqual(result, [
    { sex: null, sum_pay: null, average_pay: null, sum_hours: 2, average_hours: 2 },
    { sex: "M", sum_pay: 20n, average_pay: 20, sum_hours: 0.5, average_hours: 0.5 },
    { sex: "V", sum_pay: 40n, average_pay: 20, sum_hours: 1.5, average_hours: 1.5 },
  ]);
  assert.equal(schema.metadata.get("dynamos.groupColumns"), '["sex"]');
  assert.equal(schema.metadata.get("dynamos.algorithm"), "sum,average");
});

test("without group columns there is one group, also over no rows: its count is 0 and its sum is null", () => {
  const request = { algorithm: "count,sum,variance,median", algorithmColumns: { "*": "pay" } };
  const { rows: result } = run(request, 1, { fields, rows: [] });
  assert.deepEqual(result, [{ count_pay: 0n, sum_pay: null, variance_pay: null, median_pay: null }]);
});

test("count of * and count without columns count rows, count of a column what is not null", () => {
  assert.deepEqual(run({ algorithm: "count" }).rows, [{ count: 4n }]);
  assert.deepEqual(run({ algorithm: "count", algorithmColumns: { "": "*, pay" } }).rows, [
    { count: 4n, count_pay: 3n },
  ]);
  assert.deepEqual(run({ algorithm: "count", algorithmColumns: { sex: "" } }).rows.length, 3);
});

test("several groupings give the rows of each, told apart by their group columns' names", () => {
  const { rows: result } = run({ algorithm: "sum", algorithmColumns: { sex: "pay", "": "pay", "sex, born": "hours" } });
  assert.deepEqual(result.slice(0, 4), [
    { grouping: "sex", sex: null, born: null, sum_pay: null, sum_hours: null },
    { grouping: "sex", sex: "M", born: null, sum_pay: 20n, sum_hours: null },
    { grouping: "sex", sex: "V", born: null, sum_pay: 40n, sum_hours: null },
    { grouping: "", sex: null, born: null, sum_pay: 60n, sum_hours: null },
  ]);
  assert.equal(result.length, 8);
});

test("entries with the same group columns are one grouping, since nothing would tell their rows apart", () => {
  const request = { algorithm: "sum", algorithmColumns: { "": "pay", "*": "hours, pay" } };
  assert.deepEqual(run(request).rows, [{ sum_pay: 60n, sum_hours: 4 }]);
  const groups = { algorithm: "count", algorithmColumns: { "sex,born": "pay", "sex, born": "hours", sex: "pay" } };
  assert.deepEqual(
    run(groups).rows.map((row) => row["grouping"]),
    ["sex, born", "sex, born", "sex, born", "sex, born", "sex", "sex", "sex"],
  );
});

test("other names of algorithms and any case of columns are understood", () => {
  const { rows: result } = run({ algorithm: "AVG, stddev", algorithmColumns: { SEX: "Pay" } });
  assert.deepEqual(Object.keys(result[0] ?? {}), ["sex", "average_pay", "standardDeviation_pay"]);
});

test("minima and maxima of every type, text by code points, NaN and minus zero included", () => {
  const input = {
    fields: columns({ a: "text", b: "float", c: "boolean", d: "date", e: "timestamp", z: "float" }),
    rows: [
      ["\u{1f642}", 1, true, 5, 7n, 0],
      ["\uffee", Number.NaN, false, -5, -7n, -0],
      ["\u{10ffff}", 0, true, 0, 0n, 0],
    ] as CellValue[][],
  };
  const { rows: result } = run({ algorithm: "min,max", algorithmColumns: { "": "a,b,c,d,e,z" } }, 1, input);
  assert.deepEqual(result, [
    {
      ...{ min_a: "\uffee", max_a: "\u{10ffff}", min_b: Number.NaN, max_b: Number.NaN, min_c: false, max_c: true },
      ...{ min_d: -5, max_d: 5, min_e: -7n, max_e: 7n, min_z: -0, max_z: 0 },
    },
  ]);
});

test("a sum of integers beyond 64 bits becomes a decimal instead of a wrong number", () => {
  const input = { fields: columns({ n: "integer" }), rows: [[2n ** 62n], [2n ** 62n], [2n ** 62n]] };
  const { rows: result, fields: types } = run({ algorithm: "sum", algorithmColumns: { "": "n" } }, 1, input);
  assert.deepEqual(result, [{ sum_n: 3n * 2n ** 62n }]);
  assert.deepEqual(types[0]?.type, { kind: "decimal", precision: 38, scale: 0 });
});

test("the variance is right where floating-point formulas lose all digits", () => {
  const offsets = [4, 7, 13, 16];
  const input = {
    fields: columns({ x: "float", n: "integer" }),
    rows: offsets.map((offset) => [1e15 + offset, 10n ** 18n + BigInt(offset)]),
  };
  const request = { algorithm: "variance,standardDeviation", algorithmColumns: { "": "x,n" } };
  const [result] = run(request, 1, input).rows;
  assert.deepEqual([result?.variance_x, result?.variance_n], [30, 30]);
  assert.equal(result?.standardDeviation_x, Math.sqrt(30));
});

test("the mean and the median of dates are instants", () => {
  const { rows: result } = run({ algorithm: "average,median", algorithmColumns: { "": "born" } }, 1, {
    fields,
    rows: [
      [null, null, null, 0],
      [null, null, null, 1],
    ],
  });
  assert.deepEqual(result, [{ average_born: 43_200_000_000n, median_born: 43_200_000_000n }]);
});

test("groups of fewer rows than the minimum are withheld and counted, in the result and in what leaves", () => {
  const request = { algorithm: "sum", algorithmColumns: { sex: "pay" } };
  const { rows: result, withheld } = run(request, 2);
  assert.deepEqual(result, [{ sex: "V", sum_pay: 40n }]);
  assert.deepEqual(withheld, { groups: 2, bins: 0, values: 0 });
  const summary = GroupedSummary.start(planGroupings(fields, request));
  for (const batch of batchesOf(fields, rows)) summary.addBatch(batch);
  const json = groupedToJson(summary, 2);
  assert.equal(json.withheldGroups, 2);
  assert.deepEqual(
    json.groups.map(([, , cells]) => cells),
    [["V"]],
  );
});

test("bins of fewer values than the minimum are withheld and counted, in the result and in what leaves", () => {
  const input = { fields: columns({ n: "integer" }), rows: [[1n], [1n], [2n]] };
  const request = { algorithm: "histogram", algorithmColumns: { "": "n" } };
  const { rows: result, withheld } = run(request, 2, input);
  assert.deepEqual(result, [{ column: "n", binStart: 1, binEnd: 2, count: 2n }]);
  assert.deepEqual(withheld, { groups: 0, bins: 1, values: 0 });
  const summary = GroupedSummary.start(planGroupings(input.fields, request));
  for (const batch of batchesOf(input.fields, input.rows)) summary.addBatch(batch);
  assert.deepEqual(groupedToJson(summary, 2).groups[0]?.[3], [{ count: 2, states: [{ "10e-1": "2" }] }]);
  assert.equal(groupedToJson(summary, 2).withheldBins, 1);
});

test("values of fewer persons than the minimum are withheld in a group of many rows, and counted", () => {
  const input = {
    fields: columns({ one: "integer", two: "integer", none: "integer" }),
    rows: Array.from({ length: 50 }, (_, i): CellValue[] => [i === 7 ? 4711n : null, i < 2 ? 1234n : null, null]),
  };
  const values = ALGORITHMS.filter(({ shape }) => shape === "value");
  const request = {
    algorithm: values.map(({ name }) => name).join(),
    algorithmColumns: { "": "*, one, two, none" },
  };
  const { rows: result, withheld } = run(request, 3, input);
  const shown = Object.entries(result[0] ?? {}).filter(([, value]) => value !== null);
  assert.deepEqual(Object.fromEntries(shown), { count: 50n, count_none: 0n });
  assert.deepEqual(withheld, { groups: 0, bins: 0, values: 2 * values.length });
  const two = run(request, 2, input);
  assert.deepEqual([two.rows[0]?.sum_one, two.rows[0]?.sum_two, two.withheld.values], [null, 2468n, values.length]);

  const summary = GroupedSummary.start(planGroupings(input.fields, request));
  for (const batch of batchesOf(input.fields, input.rows)) summary.addBatch(batch);
  const json = groupedToJson(summary, 3);
  summary.close();
  assert.doesNotMatch(JSON.stringify(json), /4711|1234|2468/);
  assert.equal(json.withheldValues, 2 * values.filter(({ mergeable }) => mergeable).length);
});

test("the summary of a histogram does not tell by the number of all values what withheld bins hold", () => {
  const input = { fields: columns({ n: "integer" }), rows: [[1n], [1n], [2n], [null]] };
  const request = { algorithm: "histogram", algorithmColumns: { "": "n" } };
  const summary = GroupedSummary.start(planGroupings(input.fields, request));
  for (const batch of batchesOf(input.fields, input.rows)) summary.addBatch(batch);
  const [group] = groupedToJson(summary, 2).groups;
  assert.equal(group?.[3][0]?.count, 2);
});

test("an unknown algorithm or column is an error that lists the known ones", () => {
  const unknown = failure(() => run({ algorithm: "mode", algorithmColumns: { "": "pay" } }));
  assert.equal(unknown.code, "algorithm_unknown");
  assert.deepEqual(
    unknown.details.known,
    ALGORITHMS.map(({ name }) => name),
  );
  for (const algorithmColumns of [{ "": "salary" }, { gender: "pay" }]) {
    const error = failure(() => run({ algorithm: "sum", algorithmColumns }));
    assert.equal(error.code, "column_unknown");
    assert.deepEqual(error.details.known, ["sex", "pay", "hours", "born"]);
  }
});

test("an algorithm on values of a type that it does not take is a type_mismatch that names both", () => {
  const error = failure(() => run({ algorithm: "sum", algorithmColumns: { "": "sex" } }));
  assert.equal(error.code, "type_mismatch");
  assert.match(error.message, /sum does not work on the column "sex" of type text/);
});

test("an algorithm other than count asks for value columns", () => {
  const error = failure(() => run({ algorithm: "sum" }));
  assert.equal(error.code, "invalid_argument");
  assert.match(error.message, /The columns are: sex, pay, hours, born/);
});

test("a histogram is not mixed with other algorithms, nor numbers with dates in one", () => {
  assert.equal(
    failure(() => run({ algorithm: "histogram,count", algorithmColumns: { "": "pay" } })).code,
    "invalid_argument",
  );
  assert.equal(
    failure(() => run({ algorithm: "histogram", algorithmColumns: { "": "pay,born" } })).code,
    "type_mismatch",
  );
});

test("two result columns of one name are refused", () => {
  const input = { fields: columns({ sum_pay: "text", pay: "integer" }), rows: [] };
  const error = failure(() => run({ algorithm: "sum", algorithmColumns: { sum_pay: "pay" } }, 1, input));
  assert.match(error.message, /two columns "sum_pay"/);
});

test("more groups than the limit are refused, with the limit", () => {
  const input = { fields: columns({ n: "integer" }), rows: Array.from({ length: 11 }, (_, i) => [BigInt(i)]) };
  const grouped = { algorithm: "count", algorithmColumns: { n: "*" } };
  assert.equal(run(grouped, 1, input, { maximumGroups: 11 }).rows.length, 11);
  const error = failure(() => run(grouped, 1, input, { maximumGroups: 10 }));
  assert.equal(error.code, "result_too_large");
  assert.deepEqual(error.details, { limit: 10 });
  const bins = {
    algorithm: "histogram",
    algorithmColumns: { "": "n" },
    algorithmParameters: { histogram: { width: 1 } },
  };
  assert.equal(failure(() => run(bins, 1, input, { maximumGroups: 10 })).code, "result_too_large");
});

test("more values than the limit are refused, since each takes memory", () => {
  const input = { fields: columns({ n: "integer" }), rows: Array.from({ length: 11 }, (_, i) => [BigInt(i)]) };
  const request = { algorithm: "count,sum", algorithmColumns: { n: "n" } };
  assert.equal(run(request, 1, input, { maximumSummaries: 22 }).rows.length, 11);
  const error = failure(() => run(request, 1, input, { maximumSummaries: 21 }));
  assert.equal(error.code, "result_too_large");
  assert.deepEqual(error.details, { limit: 21 });
});

test("a result of many groups comes in several batches", () => {
  const input = { fields: columns({ n: "integer" }), rows: Array.from({ length: 9000 }, (_, i) => [BigInt(i)]) };
  const { batches, rows: result } = run({ algorithm: "count", algorithmColumns: { n: "*" } }, 1, input);
  assert.equal(batches.length, 2);
  assert.deepEqual(result[8999], { n: 8999n, count: 1n });
});

test("groups of 0 and -0 are one; keys of several columns do not run together", () => {
  const input = {
    fields: columns({ a: "text", b: "text", z: "float" }),
    rows: [
      ["1:x", "", -0],
      ["1", ":x", 0],
      ["", null, Number.NaN],
      ["", null, Number.NaN],
    ] as CellValue[][],
  };
  assert.equal(run({ algorithm: "count", algorithmColumns: { "a,b": "*" } }, 1, input).rows.length, 3);
  assert.deepEqual(run({ algorithm: "count", algorithmColumns: { z: "*" } }, 1, input).rows, [
    { z: 0, count: 2n },
    { z: Number.NaN, count: 2n },
  ]);
});
