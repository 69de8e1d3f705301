/**
 * The promise of the whole folder: pooled answers equal an independent computation over the union of the rows. The oracle
 * below shares no code with the algorithms and goes another way: two passes over fractions of bigints.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { CellValue } from "../../../lib/data/field-types.ts";
import { groupedToJson } from "../../../lib/algorithms/grouped-json.ts";
import { finishGrouped } from "../../../lib/algorithms/grouped-result.ts";
import { GroupedSummary } from "../../../lib/algorithms/grouped.ts";
import { planGroupings, type AlgorithmRequest } from "../../../lib/algorithms/grouping-plan.ts";
import { poolSummaries } from "../../../lib/algorithms/pooled.ts";
import { batchesOf, columns, rowsOf } from "../../support/rows.ts";

const fields = columns({
  sex: "text",
  whole: "integer",
  money: { kind: "decimal", precision: 15, scale: 3 },
  real: "float",
  born: "date",
});
const VALUE_NAMES = ["whole", "money", "real"] as const;
/** Floats of the test are multiples of this, so the oracle can compute in bigints. */
const REAL_UNIT = 2 ** -20;

/** Values with large offsets, that cancel, that repeat; and nulls. */
const row = fc.tuple(
  fc.option(fc.constantFrom("M", "V", "", "é", "\u{1f642}")),
  fc.option(fc.oneof(fc.bigInt({ min: -5n, max: 5n }), fc.constantFrom(10n ** 18n, -(10n ** 18n), 10n ** 18n + 1n))),
  fc.option(fc.oneof(fc.bigInt({ min: -5000n, max: 5000n }), fc.constantFrom(10n ** 14n + 7n, -(10n ** 14n) - 7n))),
  fc.option(
    fc
      .tuple(fc.integer({ min: -(2 ** 30), max: 2 ** 30 }), fc.constantFrom(0, 2 ** 50, -(2 ** 50), 2 ** 52))
      .map(([fraction, offset]) => (offset + fraction) * REAL_UNIT),
  ),
  fc.option(fc.integer({ min: -20_000, max: 20_000 })),
);
type Row = readonly CellValue[];

const parts = fc.array(fc.array(row, { maxLength: 30 }), { minLength: 1, maxLength: 5 });

const REQUEST: AlgorithmRequest = {
  algorithm: "count, sum, average, min, max, variance, standardDeviation",
  algorithmColumns: { sex: "whole, money, real", "": "whole, money, real, *" },
};

function summarize(rows: readonly Row[], request: AlgorithmRequest = REQUEST): GroupedSummary {
  const summary = GroupedSummary.start(planGroupings(fields, request));
  for (const batch of batchesOf(fields, rows, 7)) summary.addBatch(batch);
  return summary;
}

function wire(summary: GroupedSummary, minimumGroupSize = 1): unknown {
  return JSON.parse(JSON.stringify(groupedToJson(summary, minimumGroupSize)));
}

test("pooled answers equal an independent computation over the union of all stewards' rows", () => {
  fc.assert(
    fc.property(parts, (stewards) => {
      const { result } = poolSummaries(
        stewards.map((rows, i) => ({ provider: `S${i}`, summary: wire(summarize(rows)) })),
      );
      checkAgainstOracle(rowsOf(result?.batches ?? []), stewards.flat());
    }),
    { seed: 3, numRuns: 300 },
  );
});

test("where all rows meet in one place, the answer is the same, bit for bit", () => {
  fc.assert(
    fc.property(parts, (stewards) => {
      const { result } = poolSummaries(
        stewards.map((rows, i) => ({ provider: `S${i}`, summary: wire(summarize(rows)) })),
      );
      const together = finishGrouped(summarize(stewards.flat()), 1);
      assert.deepEqual(rowsOf(result?.batches ?? []), rowsOf(together.batches));
    }),
    { seed: 4, numRuns: 100 },
  );
});

test("merging is commutative and associative, bit for bit", () => {
  fc.assert(
    fc.property(
      fc.array(row, { maxLength: 20 }),
      fc.array(row, { maxLength: 20 }),
      fc.array(row, { maxLength: 20 }),
      (a, b, c) => {
        const leftFirst = summarize(a);
        leftFirst.merge(summarize(b));
        leftFirst.merge(summarize(c));
        const rightFirst = summarize(c);
        rightFirst.merge(summarize(b));
        const swapped = summarize(a);
        swapped.merge(rightFirst);
        assert.deepEqual(sorted(wire(leftFirst)), sorted(wire(swapped)));
      },
    ),
    { seed: 5, numRuns: 100 },
  );
});

test("pooled histograms count what each bin of the union holds", () => {
  const request: AlgorithmRequest = { algorithm: "histogram", algorithmColumns: { sex: "whole, money, real" } };
  fc.assert(
    fc.property(parts, (stewards) => {
      const { result } = poolSummaries(
        stewards.map((rows, i) => ({ provider: `S${i}`, summary: wire(summarize(rows, request)) })),
      );
      const bins = rowsOf(result?.batches ?? []);
      for (const name of VALUE_NAMES) {
        for (const sex of new Set(stewards.flat().map((cells) => cells[0] ?? null))) {
          const values = valuesOf(
            stewards.flat().filter((cells) => cells[0] === sex),
            name,
          );
          const ours = bins.filter((bin) => bin.sex === sex && bin.column === name);
          assert.equal(
            ours.reduce((sum, bin) => sum + (bin.count as bigint), 0n),
            BigInt(values.length),
          );
          for (const bin of ours) {
            const inside = values.filter((value) =>
              isInBin(asNumber(name, value), bin.binStart as number, bin.binEnd as number),
            );
            assert.equal(bin.count, BigInt(inside.length), `${String(bin.binStart)} to ${String(bin.binEnd)}`);
          }
        }
      }
    }),
    { seed: 6, numRuns: 60 },
  );
});

/** Positive bins hold their start, negative ones (their mirror image) their end. */
function isInBin(value: number, start: number, end: number): boolean {
  return end > 0 ? value >= start && value < end : value > start && value <= end;
}

function sorted(json: unknown): unknown {
  const document = json as { groups: unknown[] };
  return { ...document, groups: document.groups.map((group) => JSON.stringify(group)).sort() };
}

function checkAgainstOracle(answer: readonly Record<string, CellValue>[], rows: readonly Row[]): void {
  const bySex = new Map<CellValue, Row[]>();
  for (const cells of rows) bySex.set(cells[0] ?? null, [...(bySex.get(cells[0] ?? null) ?? []), cells]);
  const ofGroups = answer.filter((cells) => cells.grouping === "sex");
  assert.equal(ofGroups.length, bySex.size);
  for (const cells of ofGroups) checkGroup(cells, bySex.get(cells.sex ?? null) ?? []);
  const [total] = answer.filter((cells) => cells.grouping === "");
  assert.ok(total);
  assert.equal(total.count, BigInt(rows.length));
  checkGroup(total, rows);
}

function checkGroup(answer: Record<string, CellValue>, rows: readonly Row[]): void {
  for (const name of VALUE_NAMES) {
    const values = valuesOf(rows, name);
    const cell = (algorithm: string): CellValue => answer[`${algorithm}_${name}`] ?? null;
    assert.equal(cell("count"), BigInt(values.length));
    if (values.length === 0) {
      for (const algorithm of ["sum", "average", "min", "max", "variance"]) assert.equal(cell(algorithm), null);
      continue;
    }
    const total = values.reduce((sum, value) => sum + value, 0n);
    const n = BigInt(values.length);
    assert.equal(
      cell("min"),
      asCell(
        name,
        values.reduce((a, b) => (a < b ? a : b)),
      ),
    );
    assert.equal(
      cell("max"),
      asCell(
        name,
        values.reduce((a, b) => (a > b ? a : b)),
      ),
    );
    if (name === "real") assertClose(cell("sum"), Number(total) * REAL_UNIT);
    else assert.equal(cell("sum"), total);
    assertClose(cell("average"), ratio(total, n) * UNIT[name]);
    if (n === 1n) {
      assert.equal(cell("variance"), null);
      continue;
    }
    // Two passes: deviations from the mean, n times each, then squared.
    const squares = values.reduce((sum, value) => sum + (value * n - total) ** 2n, 0n);
    const variance = ratio(squares, n * n * (n - 1n)) * UNIT[name] ** 2;
    assertClose(cell("variance"), variance);
    assertClose(cell("standardDeviation"), Math.sqrt(variance));
  }
}

const UNIT = { whole: 1, money: 1e-3, real: REAL_UNIT };

function valuesOf(rows: readonly Row[], name: (typeof VALUE_NAMES)[number]): bigint[] {
  const place = 1 + VALUE_NAMES.indexOf(name);
  return rows
    .map((cells) => cells[place])
    .filter((value) => value !== null)
    .map((value) => (typeof value === "number" ? BigInt(value / REAL_UNIT) : (value as bigint)));
}

function asCell(name: string, value: bigint): CellValue {
  return name === "real" ? Number(value) * REAL_UNIT : value;
}

function asNumber(name: keyof typeof UNIT, value: bigint): number {
  return name === "money" ? Number(`${value}e-3`) : Number(value) * UNIT[name];
}

/** a / b for numbers beyond doubles: 60 digits, then one rounding. */
function ratio(a: bigint, b: bigint): number {
  return Number((a * 10n ** 60n) / b) / 1e60;
}

function assertClose(actual: CellValue, expected: number): void {
  assert.equal(typeof actual, "number");
  const error = Math.abs((actual as number) - expected);
  assert.ok(error <= 1e-9 * Math.abs(expected), `${String(actual)} is not ${expected}`);
}
