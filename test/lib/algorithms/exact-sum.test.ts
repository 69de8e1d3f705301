import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { binaryParts, nearestDouble, squareRoot } from "../../../lib/algorithms/exact-rational.ts";
import { ExactFloatSum, ExactFloatSumJson } from "../../../lib/algorithms/exact-sum.ts";
import { Value } from "@sinclair/typebox/value";

const finite = fc.double({ noNaN: true, noDefaultInfinity: true });
/** Doubles of every magnitude, subnormals and the largest ones included, that cancel often. */
const wild = fc.oneof(
  finite,
  fc.constantFrom(Number.MAX_VALUE, -Number.MAX_VALUE, Number.MIN_VALUE, -Number.MIN_VALUE, 1e16, -1e16, 1, -1, 0, -0),
  fc
    .tuple(finite, fc.integer({ min: -1074, max: 1023 }))
    .map(([x, e]) => (Number.isFinite(x * 2 ** e) ? x * 2 ** e : x)),
);

function sumOf(values: readonly number[], square = false): ExactFloatSum {
  const sum = new ExactFloatSum();
  for (const value of values) {
    if (square) sum.addSquare(value);
    else sum.add(value);
  }
  return sum;
}

/** The oracle: everything as a multiple of 2^-2148, in bigints. */
function oracle(values: readonly number[], square = false): bigint {
  return values.reduce((total, value) => {
    const { mantissa, exponent } = binaryParts(value);
    return square
      ? total + ((mantissa * mantissa) << BigInt(2 * exponent + 2148))
      : total + (mantissa << BigInt(exponent + 2148));
  }, 0n);
}

function scaled(sum: ExactFloatSum): bigint {
  const { numerator, denominator } = sum.toRational();
  return (numerator << 2148n) / denominator;
}

test("a sum of doubles is exact, whatever their magnitudes", () => {
  fc.assert(
    fc.property(fc.array(wild, { maxLength: 60 }), (values) => scaled(sumOf(values)) === oracle(values)),
    { seed: 31, numRuns: 500 },
  );
});

test("a sum of squares is exact, whatever the magnitudes", () => {
  fc.assert(
    fc.property(fc.array(wild, { maxLength: 40 }), (values) => scaled(sumOf(values, true)) === oracle(values, true)),
    { seed: 32, numRuns: 500 },
  );
});

test("any order, any grouping and a way through JSON give the same bits", () => {
  fc.assert(
    fc.property(fc.array(wild, { maxLength: 40 }), fc.infiniteStream(fc.nat()), (values, random) => {
      const straight = sumOf(values);
      const shuffled = values
        .map((value) => ({ value, key: random.next().value as number }))
        .sort((a, b) => a.key - b.key)
        .map(({ value }) => value);
      const cut = values.length === 0 ? 0 : (random.next().value as number) % values.length;
      const right = sumOf(shuffled.slice(cut));
      const through = ExactFloatSum.fromJson(
        JSON.parse(JSON.stringify(sumOf(shuffled.slice(0, cut)).toJson())) as never,
      );
      right.merge(through);
      assert.ok(Object.is(straight.toNumber(), right.toNumber()));
      assert.deepEqual(straight.toJson(), right.toJson());
      assert.ok(Value.Check(ExactFloatSumJson, right.toJson()));
    }),
    { seed: 33, numRuns: 500 },
  );
});

test("sums that cancel leave exactly what is left", () => {
  assert.equal(sumOf([1e16, 1, -1e16]).toNumber(), 1);
  assert.equal(sumOf([0.1, 0.2, -0.3]).toNumber(), 2 ** -55);
  assert.equal(sumOf([Number.MAX_VALUE, Number.MAX_VALUE, -Number.MAX_VALUE]).toNumber(), Number.MAX_VALUE);
  assert.equal(sumOf([Number.MAX_VALUE, Number.MAX_VALUE]).toNumber(), Number.POSITIVE_INFINITY);
});

test("NaN and infinities decide the sum in any order", () => {
  assert.equal(sumOf([1, Infinity, 2]).toNumber(), Infinity);
  assert.equal(sumOf([-Infinity, 1]).toNumber(), -Infinity);
  assert.ok(Number.isNaN(sumOf([Infinity, -Infinity]).toNumber()));
  assert.ok(Number.isNaN(sumOf([Number.NaN, Infinity]).toNumber()));
  assert.equal(sumOf([-Infinity], true).toNumber(), Infinity);
});

test("a fraction is rounded to the nearest double, ties to even, down to the subnormals", () => {
  fc.assert(
    fc.property(wild, (value) => {
      const { mantissa, exponent } = binaryParts(value);
      const shift = BigInt(exponent + 1074 + 3);
      // Less than half a unit above the value's magnitude must round back to it.
      const sign = mantissa < 0n ? -1n : 1n;
      const near = nearestDouble({ numerator: (mantissa << shift) + sign, denominator: 1n << 1077n });
      assert.ok(near === value || (value === 0 && near === 0), `${near} is not ${value}`);
    }),
    { seed: 34, numRuns: 2000 },
  );
  assert.equal(nearestDouble({ numerator: (1n << 54n) + 1n, denominator: 2n }), 2 ** 53);
  assert.equal(nearestDouble({ numerator: (1n << 54n) + 3n, denominator: 2n }), 2 ** 53 + 2);
  assert.equal(nearestDouble({ numerator: 1n, denominator: 3n }), 1 / 3);
  assert.equal(nearestDouble({ numerator: -1n, denominator: 1n << 1075n }), -0);
});

test("a square root is right also where its square is beyond the doubles", () => {
  assert.equal(squareRoot({ numerator: 2n, denominator: 1n }), Math.SQRT2);
  assert.ok(Math.abs(squareRoot({ numerator: 10n ** 600n, denominator: 1n }) / 1e300 - 1) < 1e-15);
  assert.equal(squareRoot({ numerator: 1n, denominator: 1n << 2000n }), 2 ** -1000);
  assert.equal(squareRoot({ numerator: 0n, denominator: 1n }), 0);
});
