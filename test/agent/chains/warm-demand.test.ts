import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { warmTargets, type ShapeDemand } from "../../../agent/chains/warm-demand.ts";

const NOW = 1_000_000;
const RULES = { windowMs: 100_000, coverMs: 2_000, ceiling: 4 };

/** Claims and expected requests so many ms ago. */
function ago(claims: readonly number[], expected: readonly number[] = []): ShapeDemand {
  return { claims: claims.map((ms) => NOW - ms), expected: expected.map((ms) => NOW - ms) };
}

function targets(demands: Readonly<Record<string, ShapeDemand>>, ceiling = RULES.ceiling): Record<string, number> {
  return Object.fromEntries(warmTargets(new Map(Object.entries(demands)), { ...RULES, ceiling }, NOW));
}

describe("how many warm chains a shape has", () => {
  test("none without demand, or when it is long past", () => {
    assert.deepEqual(targets({ idle: ago([]), past: ago([100_000, 200_000], [100_001]) }), {});
  });

  test("one for requests that come one at a time", () => {
    assert.deepEqual(targets({ a: ago([90_000, 50_000, 3_000, 10]) }), { a: 1 });
  });

  test("one for an approval whose request is still to come", () => {
    assert.deepEqual(targets({ a: ago([], [5_000]) }), { a: 1 });
  });

  test("as many as came within the time that a chain takes to get ready, at any moment of the window", () => {
    assert.deepEqual(targets({ a: ago([60_000, 60_500, 61_900, 10]) }), { a: 3 });
  });

  test("no more than the ceiling, of all together", () => {
    const burst = ago([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert.deepEqual(targets({ a: burst }), { a: 4 });
    assert.deepEqual(targets({ a: burst }, 0), {});
    assert.deepEqual(targets({ a: burst, b: ago([20_000]) }), { a: 3, b: 1 });
    assert.deepEqual(targets({ a: burst, b: burst }), { a: 2, b: 2 });
  });

  test("where the ceiling does not suffice for one each, those asked for most of late", () => {
    assert.deepEqual(targets({ a: ago([1]), b: ago([1_000, 2_000]), c: ago([2_000]) }, 2), { b: 1, a: 1 });
  });

  test("where the ceiling does not suffice, what is asked now overtakes what was asked often before", () => {
    const before = ago(Array.from({ length: 16 }, (_, index) => 60_000 + index * 2_500));
    assert.deepEqual(targets({ before, now: ago([100]) }, 1), { now: 1 });
  });
});
