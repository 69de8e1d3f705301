import assert from "node:assert/strict";
import { test } from "node:test";
import type { RecordBatch } from "apache-arrow";
import { chooseChart, type ChartInput } from "../../../microservices/sql-graph/chart-choice.ts";
import { planChart, type ChartPlan } from "../../../microservices/sql-graph/chart-plan.ts";
import { chartTable, groupedBy, resultBatch } from "./sample-result.ts";

function planOf(batch: RecordBatch, input: ChartInput = {}): ChartPlan {
  const table = chartTable(batch);
  return planChart(table, chooseChart(table, input));
}

const grouped = resultBatch(
  { Functcat: "text", Geslacht: "text", average_HOOPgeb: "float", count_Unieknr: "integer" },
  [
    ["UD", "V", 48.5, 10n],
    ["UD", "M", 50.25, 12n],
    ["Docent", "V", 30, 4n],
  ],
  groupedBy("Functcat", "Geslacht"),
);

const raw = resultBatch(
  { Geslacht: "text", HOOPgeb: "money", Taakomv: "float" },
  Array.from({ length: 60 }, (_, row) => [row % 2 === 0 ? "M" : "V", BigInt(row * 100), row / 10]),
);

test("a category and a number make bars, in an order that does not depend on the rows'", () => {
  const rows = [
    ["B 10", 1],
    ["B 9", 2],
    ["A", 3],
  ];
  const plan = planOf(resultBatch({ name: "text", v: "float" }, rows));
  assert.equal(plan.kind, "bar");
  assert.deepEqual(plan.categories, ["A", "B 9", "B 10"]);
  assert.deepEqual(planOf(resultBatch({ name: "text", v: "float" }, rows.toReversed())).categories, plan.categories);
});

test("two categories make grouped bars of the first number, and say which numbers are not shown", () => {
  const plan = planOf(grouped);
  assert.equal(plan.kind, "bar");
  assert.equal(plan.title, "average_HOOPgeb by Functcat and Geslacht");
  assert.deepEqual(plan.categories, ["Docent", "UD"]);
  assert.deepEqual(plan.series, ["M", "V"]);
  assert.deepEqual(plan.notes, ["Not shown: count_Unieknr"]);
  assert.deepEqual(plan.points[0], { x: "UD", y: 48.5, series: "V" });
});

test("a grouping column of numbers is a category, ordered by size", () => {
  const rows = [
    [10n, 1],
    [-2n, 2],
    [9n, 3],
  ] as [bigint, number][];
  const plan = planOf(resultBatch({ Schaal: "integer", average_x: "float" }, rows, groupedBy("Schaal")));
  assert.equal(plan.kind, "bar");
  assert.deepEqual(plan.categories, ["-2", "9", "10"]);
});

test("a date and a number make a line; a category beside them, a line each", () => {
  const rows = [
    [0, "M", 1],
    [0, "V", 2],
    [365, "M", 3],
    [365, "V", 4],
  ] as [number, string, number][];
  const plan = planOf(resultBatch({ Peildat: "date", Geslacht: "text", average_x: "float" }, rows));
  assert.equal(plan.kind, "line");
  assert.deepEqual([plan.x.is, plan.series], ["time", ["M", "V"]]);
  assert.deepEqual(plan.points[2], { x: 365 * 86_400_000, y: 3, series: "M" });
});

test("a single date is a bar, since a line needs two", () => {
  const plan = planOf(resultBatch({ Peildat: "date", average_x: "float" }, [[0, 5]], groupedBy("Peildat")));
  assert.deepEqual([plan.kind, plan.categories], ["bar", ["1970-01-01"]]);
});

test("a category and many raw numbers make boxes, two numbers a scatter plot, one a histogram", () => {
  assert.equal(planOf(raw).kind, "box");
  const rows = Array.from({ length: 9 }, (_, row) => [row, row * row]);
  assert.equal(planOf(resultBatch({ a: "float", b: "float" }, rows)).kind, "scatter");
  assert.equal(
    planOf(
      resultBatch(
        { a: "float" },
        rows.map(([a]) => [a as number]),
      ),
    ).kind,
    "histogram",
  );
});

test("categories alone are counted", () => {
  const plan = planOf(resultBatch({ Geslacht: "text" }, [["M"], ["V"], ["M"], [null]]));
  assert.deepEqual([plan.kind, plan.y.title], ["bar", "rows"]);
  assert.deepEqual(
    plan.points.map(({ x, y }) => [x, y]),
    [
      ["M", 2],
      ["V", 1],
      ["(none)", 1],
    ],
  );
});

test("results without groups are a bar each", () => {
  const plan = planOf(resultBatch({ sum_x: "integer", max_x: "integer" }, [[10n, 4n]], groupedBy()));
  assert.equal(plan.kind, "bar");
  assert.deepEqual(plan.points, [
    { x: "sum_x", y: 10 },
    { x: "max_x", y: 4 },
  ]);
});

test("the algorithm's histogram is drawn as it was counted, one column of it at a time", () => {
  const rows = [
    ["M", "HOOPgeb", 10, 20, 2n],
    ["M", "HOOPgeb", 0, 10, 1n],
    ["V", "HOOPgeb", 0, 10, 5n],
    ["M", "Taakomv", 0, 1, 9n],
  ] as [string, string, number, number, bigint][];
  const plan = planOf(
    resultBatch(
      { Geslacht: "text", column: "text", binStart: "float", binEnd: "float", count: "integer" },
      rows,
      groupedBy("Geslacht"),
    ),
  );
  assert.equal(plan.kind, "histogram");
  assert.equal(plan.title, "Distribution of HOOPgeb by Geslacht");
  assert.deepEqual(plan.points, [
    { x: 0, x2: 10, y: 1, series: "M" },
    { x: 10, x2: 20, y: 2, series: "M" },
    { x: 0, x2: 10, y: 5, series: "V" },
  ]);
  assert.deepEqual(plan.notes, ["Not shown: Taakomv"]);
});

test("input decides over shape", () => {
  assert.equal(planOf(raw, { kind: "histogram" }).kind, "histogram");
  const scatter = planOf(raw, { kind: "scatter", x: "Taakomv", y: "HOOPgeb" });
  assert.deepEqual(
    [scatter.kind, scatter.x.title, scatter.y.title, scatter.series],
    ["scatter", "Taakomv", "HOOPgeb", ["M", "V"]],
  );
  const bar = planOf(grouped, { y: "count_Unieknr", x: "Geslacht", series: "Functcat" });
  assert.deepEqual(
    [bar.kind, bar.x.title, bar.y.title, bar.seriesTitle],
    ["bar", "Geslacht", "count_Unieknr", "Functcat"],
  );
});

test("an unknown kind or column is refused with the known ones", () => {
  assert.throws(() => planOf(raw, { kind: "pie" }), {
    code: "invalid_argument",
    message: /"pie".*bar, line, histogram, box, scatter/,
  });
  assert.throws(() => planOf(raw, { x: "Salaris" }), {
    code: "column_unknown",
    message: /"Salaris".*Geslacht, HOOPgeb, Taakomv/,
  });
});

test("a kind that the columns cannot make is refused with what it needs", () => {
  assert.throws(() => planOf(raw, { kind: "bar" }), { code: "invalid_argument", message: /one value.*kind box/ });
  assert.throws(() => planOf(raw, { kind: "scatter", y: "Geslacht" }), {
    code: "invalid_argument",
    message: /"Geslacht" holds no numbers.*HOOPgeb, Taakomv/,
  });
  const text = resultBatch({ a: "text" }, [["x"]]);
  assert.throws(() => planOf(text, { kind: "histogram" }), { code: "invalid_argument", message: /a \(category\)/ });
});

test("the system's own columns are neither drawn nor known", () => {
  const batch = resultBatch({ Geslacht: "text", average_x: "float", __summary: "text" }, [
    ["M", 1, "a"],
    ["M", 2, "b"],
  ]);
  assert.equal(planOf(batch).kind, "box");
  assert.throws(() => planOf(batch, { series: "__summary" }), { code: "column_unknown" });
});

test("what a picture leaves out is said in it: rows without a value, and categories beyond what can be read", () => {
  const gaps = planOf(
    resultBatch({ a: "text", v: "float" }, [
      ["x", 1],
      ["y", null],
      ["z", NaN],
    ]),
  );
  assert.deepEqual(gaps.notes, ["2 rows without a value to draw are not shown"]);
  const many = planOf(
    resultBatch(
      { a: "text", v: "float" },
      Array.from({ length: 1812 }, (_, row) => [`n ${row}`, row]),
    ),
  );
  assert.deepEqual(many.notes, ["The first 30 of 1,812 values of a"]);
  assert.equal(many.points.length, 30);
});
