import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { binningFor } from "../../../lib/algorithms/histogram-bins.ts";
import type { CellValue, FieldType } from "../../../lib/data/field-types.ts";
import { AppError } from "../../../lib/errors.ts";

const INTEGER: FieldType = { kind: "integer" };
const FLOAT: FieldType = { kind: "float" };
const DATE: FieldType = { kind: "date" };
const TIMESTAMP: FieldType = { kind: "timestamp" };
const CENTS: FieldType = { kind: "decimal", precision: 10, scale: 2 };

function binOf(type: FieldType, value: NonNullable<CellValue>, parameters?: unknown): readonly [CellValue, CellValue] {
  const binning = binningFor(type, parameters);
  const ends = binning.ends(binning.keyOf(value));
  assert.ok(ends, `the bin of ${String(value)} has no ends`);
  return ends;
}

function day(text: string): number {
  return Date.parse(`${text}T00:00:00Z`) / 86_400_000;
}

test("numbers fall into the fixed grid, whatever else there is", () => {
  assert.deepEqual(binOf(FLOAT, 0.3), [0.3, 0.32]);
  assert.deepEqual(binOf(FLOAT, 1), [1, 1.1]);
  assert.deepEqual(binOf(FLOAT, 2345.6), [2200, 2400]);
  assert.deepEqual(binOf(FLOAT, 9.99), [9.5, 10]);
  assert.deepEqual(binOf(FLOAT, -2345.6), [-2400, -2200]);
  assert.deepEqual(binOf(FLOAT, 0), [0, 1e-9]);
  assert.deepEqual(binOf(FLOAT, 1e-300), [0, 1e-9]);
  assert.deepEqual(binOf(FLOAT, -1e-300), [-1e-9, 0]);
  assert.deepEqual(binOf(FLOAT, Infinity), [Infinity, Infinity]);
  assert.deepEqual(binOf(FLOAT, Number.NaN), [Number.NaN, Number.NaN]);
  assert.deepEqual(binOf(FLOAT, Number.MAX_VALUE), [1.7e308, Infinity]);
  assert.deepEqual(binOf(INTEGER, 0n), [0, 1]);
  assert.deepEqual(binOf(INTEGER, 7n), [7, 8]);
  assert.deepEqual(binOf(INTEGER, 19n), [19, 20]);
  assert.deepEqual(binOf(INTEGER, 21n), [20, 22]);
  assert.deepEqual(binOf(INTEGER, 1984n), [1900, 2000]);
  assert.deepEqual(binOf(CENTS, 7n), [0.07, 0.08]);
  assert.deepEqual(binOf(CENTS, 254_312n), [2400, 2600]);
});

test("every number lies in its bin of the grid", () => {
  fc.assert(
    fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (value) => {
      const [start, end] = binOf(FLOAT, value) as [number, number];
      assert.ok(
        end > 0 ? start <= value && value < end : start < value && value <= end,
        `${value} in ${start} to ${end}`,
      );
    }),
    { seed: 8, numRuns: 2000 },
  );
});

test("a width with an origin gives bins without rounding errors, also below the origin", () => {
  assert.deepEqual(binOf(FLOAT, 0.3, { width: 0.1 }), [0.3, 0.4]);
  assert.deepEqual(binOf(FLOAT, -0.05, { width: 0.1 }), [-0.1, 0]);
  assert.deepEqual(binOf(INTEGER, 17n, { width: 5, origin: 1 }), [16, 21]);
  assert.deepEqual(binOf(CENTS, 249_999n, { width: 500 }), [2000, 2500]);
});

test("given edges hold their start, the last bin its end too, and what is outside has bins without an end", () => {
  const parameters = { bins: [0, 10, 20.5] };
  assert.deepEqual(binOf(INTEGER, 0n, parameters), [0, 10]);
  assert.deepEqual(binOf(INTEGER, 10n, parameters), [10, 20.5]);
  assert.deepEqual(binOf(CENTS, 2050n, parameters), [10, 20.5]);
  assert.deepEqual(binOf(CENTS, 2051n, parameters), [20.5, null]);
  assert.deepEqual(binOf(FLOAT, -0.1, parameters), [null, 0]);
  assert.deepEqual(binOf(FLOAT, -Infinity, parameters), [null, 0]);
});

test("dates and timestamps fall into calendar units", () => {
  assert.deepEqual(binOf(DATE, day("1984-02-29")), [day("1984-01-01"), day("1985-01-01")]);
  assert.deepEqual(binOf(DATE, day("1984-12-31"), { unit: "quarter" }), [day("1984-10-01"), day("1985-01-01")]);
  assert.deepEqual(binOf(DATE, day("1900-02-28"), { unit: "month" }), [day("1900-02-01"), day("1900-03-01")]);
  assert.deepEqual(binOf(DATE, day("0050-06-01")), [day("0050-01-01"), day("0051-01-01")]);
  assert.deepEqual(binOf(DATE, -1, { unit: "day" }), [-1, 0]);
  assert.deepEqual(binOf(TIMESTAMP, -1n, { unit: "hour" }), [-3_600_000_000n, 0n]);
  assert.deepEqual(binOf(DATE, day("2020-05-05"), { bins: ["2020-01-01", "2021-01-01"] }), [
    day("2020-01-01"),
    day("2021-01-01"),
  ]);
});

test("parameters that do not fit are refused with the reason", () => {
  for (const [type, parameters, reason] of [
    [INTEGER, { bins: [1] }, /bins/],
    [INTEGER, { bins: [2, 1] }, /ascend/],
    [INTEGER, { bins: ["2020-01-01", "2021-01-01"] }, /numbers/],
    [DATE, { bins: [1, 2] }, /ISO/],
    [DATE, { width: 3 }, /unit/],
    [DATE, { unit: "hour" }, /hours/],
    [INTEGER, { unit: "year" }, /width/],
    [INTEGER, { width: 0 }, /width/],
    [INTEGER, { width: 1, bins: [1, 2] }, /only one/],
    [INTEGER, { origin: 1 }, /width/],
    [INTEGER, { size: 3 }, /size/],
    [INTEGER, 5, /object/],
  ] as const) {
    assert.throws(
      () => binningFor(type, parameters),
      (error) => error instanceof AppError && error.code === "invalid_argument" && reason.test(error.message),
      JSON.stringify(parameters),
    );
  }
});

test("a key that no bin has is known as such", () => {
  for (const key of ["", "x", "1e0", "11e999", "21e0", "-1", "007e1", "24e01"]) {
    assert.equal(binningFor(FLOAT, {}).ends(key), undefined, key);
  }
  assert.equal(binningFor(FLOAT, { bins: [1, 2] }).ends("3"), undefined);
  assert.equal(binningFor(FLOAT, { width: 1 }).ends("1.5"), undefined);
  assert.equal(binningFor(DATE, {}).ends("5"), undefined);
});
