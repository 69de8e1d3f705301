import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { binGroups, binValues } from "../../../microservices/sql-graph/bins.ts";

test("every value lies in exactly one bin, and borders are adjacent", () => {
  fc.assert(
    fc.property(
      fc.array(fc.double({ noNaN: true, min: -1e12, max: 1e12 }), { minLength: 1, maxLength: 500 }),
      (values) => {
        const bins = binValues(values, false);
        assert.ok(bins.length >= 1 && bins.length <= 32, `${bins.length} bins`);
        for (const [index, bin] of bins.entries()) {
          const isLast = index === bins.length - 1;
          const inside = values.filter(
            (value) => value >= bin.start && (value < bin.end || (isLast && value <= bin.end)),
          );
          assert.equal(bin.count, inside.length);
          if (!isLast) assert.equal(bin.end, bins[index + 1]?.start);
        }
        assert.equal(
          bins.reduce((sum, bin) => sum + bin.count, 0),
          values.length,
        );
      },
    ),
  );
});

test("borders are round, and a value on a border belongs to the bin that it begins", () => {
  const bins = binValues([0.1, 0.2, 0.3, 0.3, 0.5], false);
  assert.deepEqual(
    bins.map(({ start, count }) => [start, count]),
    [
      [0.1, 1],
      [0.2, 1],
      [0.3, 2],
      [0.4, 1],
    ],
  );
});

test("whole numbers get borders at whole numbers, and equal values one bin", () => {
  for (const bin of binValues([1, 2, 2, 3], true)) assert.ok(Number.isInteger(bin.start) && Number.isInteger(bin.end));
  assert.equal(binValues([7, 7, 7], true).length, 1);
  assert.equal(binValues([0, 0], false).length, 1);
  assert.deepEqual(binValues([], false), []);
});

test("groups share their borders", () => {
  const groups = binGroups(
    new Map([
      ["a", [1, 2, 3]],
      ["b", [90, 95]],
    ]),
    false,
  );
  const borders = [...groups.values()].map((bins) => bins.map((bin) => bin.start));
  assert.deepEqual(borders[0], borders[1]);
});
