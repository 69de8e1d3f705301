import assert from "node:assert/strict";
import { test } from "node:test";
import { groupedToJson } from "../../../lib/algorithms/grouped-json.ts";
import { GroupedSummary } from "../../../lib/algorithms/grouped.ts";
import { planGroupings, type AlgorithmRequest } from "../../../lib/algorithms/grouping-plan.ts";
import { poolSummaries } from "../../../lib/algorithms/pooled.ts";
import { TYPE_UNKNOWN } from "../../../lib/data/field-metadata.ts";
import type { CellValue, FieldSpec } from "../../../lib/data/field-types.ts";
import { AppError } from "../../../lib/errors.ts";
import { batchesOf, columns, rowsOf } from "../../support/rows.ts";

function summaryOf(
  fields: readonly FieldSpec[],
  rows: readonly CellValue[][],
  request: AlgorithmRequest,
  minimumGroupSize = 1,
): Record<string, unknown> {
  const summary = GroupedSummary.start(planGroupings(fields, request));
  try {
    for (const batch of batchesOf(fields, rows)) summary.addBatch(batch);
    return JSON.parse(JSON.stringify(groupedToJson(summary, minimumGroupSize))) as Record<string, unknown>;
  } finally {
    summary.close();
  }
}

function rowsOfPooled(parts: Record<string, unknown>, minimumGroupSize = 1) {
  const list = Object.entries(parts).map(([provider, summary]) => ({ provider, summary }));
  return rowsOf(poolSummaries(list, minimumGroupSize).result?.batches ?? []);
}

const BY_SEX: AlgorithmRequest = { algorithm: "sum,count", algorithmColumns: { sex: "pay" } };
const fields = columns({ sex: "text", pay: "integer" });

test("stewards' groups are merged, and the answer names who is in it and how many groups were kept back", () => {
  const parts = [
    {
      provider: "VU",
      summary: summaryOf(
        fields,
        [
          ["V", 1n],
          ["V", 2n],
          ["M", 5n],
        ],
        BY_SEX,
        2,
      ),
    },
    {
      provider: "UVA",
      summary: summaryOf(
        fields,
        [
          ["V", 10n],
          ["X", 7n],
        ],
        BY_SEX,
      ),
    },
  ];
  const { result, notes } = poolSummaries(parts, 2);
  assert.deepEqual(rowsOf(result?.batches ?? []), [{ sex: "V", sum_pay: 13n, count_pay: 3n }]);
  assert.deepEqual(notes, {
    providers: ["UVA", "VU"],
    withheldGroups: 2,
    withheldBins: 0,
    withheldValues: 0,
    withheldGroupsByProvider: { UVA: 0, VU: 1 },
    notPooled: [],
  });
});

test("a whole that every steward withheld is not shown as an empty one", () => {
  const request = { algorithm: "count" };
  const small = summaryOf(fields, [["V", 1n]], request, 10);
  const { result, notes } = poolSummaries([{ provider: "VU", summary: small }]);
  assert.deepEqual(rowsOf(result?.batches ?? []), []);
  assert.equal(notes.withheldGroups, 1);
});

test("values that a steward withholds are not pooled, and those of too few in the pool are withheld there", () => {
  const request: AlgorithmRequest = { algorithm: "sum,count", algorithmColumns: { "": "*, pay" } };
  const part = (values: number, minimum: number) =>
    summaryOf(
      fields,
      Array.from({ length: 10 }, (_, i) => ["V", i < values ? 100n : null]),
      request,
      minimum,
    );
  const pooled = (parts: Record<string, unknown>, minimum: number) => {
    const list = Object.entries(parts).map(([provider, summary]) => ({ provider, summary }));
    const { result, notes } = poolSummaries(list, minimum);
    return [...rowsOf(result?.batches ?? []), notes.withheldValues];
  };
  const shown = (sum: bigint | null, values: bigint | null) => ({ count: 20n, sum_pay: sum, count_pay: values });
  // Each steward shows its own, or keeps it back: 2 values (sum, count) each.
  assert.deepEqual(pooled({ A: part(2, 3), B: part(4, 3) }, 3), [shown(400n, 4n), 2]);
  assert.deepEqual(pooled({ A: part(2, 3), B: part(2, 3) }, 3), [shown(null, null), 4]);
  assert.deepEqual(pooled({ A: part(0, 3), B: part(2, 3) }, 3), [shown(null, null), 2]);
  assert.deepEqual(pooled({ A: part(0, 3), B: part(0, 3) }, 3), [shown(null, 0n), 0]);
  // One without a minimum may not show with the other's what that one's minimum forbids.
  assert.deepEqual(pooled({ A: part(2, 1), B: part(0, 3) }, 3), [shown(null, null), 2]);
  assert.deepEqual(pooled({ A: part(2, 1), B: part(1, 1) }, 3), [shown(300n, 3n), 0]);
});

test("columns whose types differ are widened: integers with floats and decimals, decimals of two scales", () => {
  const request: AlgorithmRequest = { algorithm: "sum,min,variance", algorithmColumns: { g: "x" } };
  const of = (type: FieldSpec["type"], g: FieldSpec["type"], rows: CellValue[][]) =>
    summaryOf(columns({ g, x: type }), rows, request);
  const integer = of({ kind: "integer" }, { kind: "integer" }, [[1n, 3n]]);
  const float = of({ kind: "float" }, { kind: "float" }, [[1, 0.5]]);
  assert.deepEqual(rowsOfPooled({ A: integer, B: float }), [{ g: 1, sum_x: 3.5, min_x: 0.5, variance_x: 3.125 }]);
  const cents = of({ kind: "decimal", precision: 10, scale: 2 }, { kind: "integer" }, [[1n, 150n]]);
  const mills = of({ kind: "decimal", precision: 10, scale: 3 }, { kind: "integer" }, [[1n, 500n]]);
  assert.deepEqual(rowsOfPooled({ A: cents, B: mills, C: integer }), [
    { g: 1n, sum_x: 5000n, min_x: 500n, variance_x: 19 / 12 },
  ]);
});

test("a histogram pools over columns of different numeric types", () => {
  const request: AlgorithmRequest = { algorithm: "histogram", algorithmColumns: { "": "x" } };
  const integer = summaryOf(columns({ x: "integer" }), [[3n], [12n], [-3n], [0n]], request);
  const float = summaryOf(columns({ x: "float" }), [[3], [3.05], [12.5], [-3]], request);
  assert.deepEqual(rowsOfPooled({ A: integer, B: float }), [
    { column: "x", binStart: -3.2, binEnd: -3, count: 2n },
    { column: "x", binStart: 0, binEnd: 1e-9, count: 1n },
    { column: "x", binStart: 3, binEnd: 3.2, count: 3n },
    { column: "x", binStart: 12, binEnd: 13, count: 2n },
  ]);
});

test("a column of nulls of unknown type pools with any type", () => {
  const [spec] = columns({ x: "text" });
  const nulls = [{ ...(spec as FieldSpec), metadata: { [TYPE_UNKNOWN]: "true" } }];
  const request: AlgorithmRequest = { algorithm: "average,min", algorithmColumns: { "": "x" } };
  const unknown = summaryOf(nulls, [[null]], request);
  assert.deepEqual(rowsOfPooled({ A: unknown, B: summaryOf(columns({ x: "float" }), [[0.5]], request) }), [
    { average_x: 0.5, min_x: 0.5 },
  ]);
  const texts = { algorithm: "min", algorithmColumns: { "": "x" } };
  const [text] = [summaryOf(columns({ x: "text" }), [["a"]], texts)];
  assert.deepEqual(rowsOfPooled({ A: summaryOf(nulls, [[null]], texts), B: text }), [{ min_x: "a" }]);
  assert.deepEqual(rowsOfPooled({ A: text, B: summaryOf(nulls, [[null]], texts) }), [{ min_x: "a" }]);
  assert.deepEqual(rowsOfPooled({ A: unknown, B: unknown }), [{ average_x: null, min_x: null }]);
});

test("types that do not widen are a type_mismatch that names the party", () => {
  const request: AlgorithmRequest = { algorithm: "min", algorithmColumns: { "": "x" } };
  const parts = [
    { provider: "UVA", summary: summaryOf(columns({ x: "text" }), [["a"]], request) },
    { provider: "VU", summary: summaryOf(columns({ x: "integer" }), [[1n]], request) },
  ];
  assert.throws(
    () => poolSummaries(parts),
    (error) => error instanceof AppError && error.code === "type_mismatch" && error.party === "VU",
  );
});

test("a median does not pool: the answer says so, and pools what was asked beside it", () => {
  const both: AlgorithmRequest = { algorithm: "median,average", algorithmColumns: { "": "pay" } };
  const { result, notes } = poolSummaries([{ provider: "VU", summary: summaryOf(fields, [["V", 4n]], both) }]);
  assert.deepEqual(rowsOf(result?.batches ?? []), [{ average_pay: 4 }]);
  assert.deepEqual(notes.notPooled, ["median"]);
  const only = poolSummaries([{ provider: "VU", summary: summaryOf(fields, [], { ...both, algorithm: "median" }) }]);
  assert.equal(only.result, undefined);
  assert.deepEqual(only.notes.notPooled, ["median"]);
});

test("a malformed summary is data_invalid and names its party", () => {
  const good = summaryOf(fields, [["V", 1n]], BY_SEX);
  const group = (good.groups as unknown[][])[0] as unknown[];
  const bad: unknown[] = [
    undefined,
    null,
    "summary",
    {},
    { ...good, version: 2 },
    { ...good, extra: 1 },
    { ...good, algorithms: ["sum", "drop"] },
    { ...good, algorithms: ["median"] },
    { ...good, groups: [[7, ...group.slice(1)]] },
    { ...good, groups: [group, group] },
    { ...good, groups: [[group[0], group[1], [], group[3]]] },
    { ...good, groups: [[group[0], group[1], [5], group[3]]] },
    { ...good, groups: [[group[0], group[1], group[2], [{ count: 1, states: [{ n: "1", sum: "1e5" }, "1"] }]]] },
    { ...good, groups: [[group[0], group[1], group[2], [{ count: 1, states: ["1"] }]]] },
    { ...good, groups: [[group[0], group[1], group[2], [{ count: -1, states: [{ n: "1", sum: "1" }, "1"] }]]] },
    { ...good, groups: [[group[0], group[1], group[2], []]] },
    { ...good, groups: [[group[0], group[1], group[2], [null, null]]] },
    { ...good, groups: [[group[0], "-1", group[2], group[3]]] },
    { ...good, withheldGroups: -1 },
    { ...good, withheldValues: -1 },
  ];
  for (const summary of bad) {
    assert.throws(
      () => poolSummaries([{ provider: "VU", summary }]),
      (error) => error instanceof AppError && error.code === "data_invalid" && error.party === "VU",
      JSON.stringify(summary),
    );
  }
});

test("summaries of different requests are not pooled", () => {
  const parts = [
    { provider: "UVA", summary: summaryOf(fields, [], BY_SEX) },
    { provider: "VU", summary: summaryOf(fields, [], { ...BY_SEX, algorithm: "count" }) },
  ];
  assert.throws(
    () => poolSummaries(parts),
    (error) => error instanceof AppError && error.code === "data_invalid",
  );
});
