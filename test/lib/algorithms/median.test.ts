import assert from "node:assert/strict";
import { readdirSync, readlinkSync } from "node:fs";
import { test } from "node:test";
import fc from "fast-check";
import { SpillingValues } from "../../../lib/algorithms/spilling-values.ts";
import { AppError } from "../../../lib/errors.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const INTEGER = { kind: "integer" } as const;
const FLOAT = { kind: "float" } as const;

test("the middle of each list is found whether its values are spilled or not", async () => {
  const folder = await temporaryFolder();
  const lists = fc.array(
    fc.oneof(
      fc.record({
        type: fc.constant(INTEGER),
        values: fc.array(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })),
      }),
      fc.record({ type: fc.constant(FLOAT), values: fc.array(fc.double({ noNaN: true })) }),
    ),
    { maxLength: 6 },
  );
  fc.assert(
    fc.property(lists, fc.integer({ min: 1, max: 50 }), (given, maximumHeldValues) => {
      const values = new SpillingValues({ maximumHeldValues, folder });
      try {
        const numbers = given.map(({ type }) => values.open(type));
        // Value by value across the lists, so that runs have parts of several.
        for (let i = 0; given.some((list) => i < list.values.length); i++) {
          for (const [place, list] of given.entries()) {
            const value = list.values[i];
            if (value !== undefined) values.add(numbers[place] as number, value);
          }
        }
        for (const [place, { values: all }] of given.entries()) {
          const sorted = [...all].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
          const middle = values.middle(numbers[place] as number);
          if (all.length === 0) assert.equal(middle, undefined);
          else {
            const [lower, upper] = middle ?? [];
            assert.ok(lower == sorted[(all.length - 1) >> 1] && upper == sorted[all.length >> 1]);
          }
        }
      } finally {
        values.close();
      }
    }),
    { seed: 7, numRuns: 200 },
  );
  assert.deepEqual(readdirSync(folder), []);
});

test("values beyond the limit go to a file that has no name, so nothing stays behind even after a kill", async () => {
  const folder = await temporaryFolder();
  const values = new SpillingValues({ maximumHeldValues: 1000, folder });
  const list = values.open(INTEGER);
  for (let i = 0; i < 100_000; i++) values.add(list, BigInt((i * 7919) % 100_000));
  assert.ok(values.spilledBytes >= 99_000 * 8);
  assert.deepEqual(readdirSync(folder), []);
  assert.deepEqual(values.middle(list), [49_999n, 50_000n]);
  assert.equal(openFilesIn(folder), 1);
  values.close();
  values.close();
  assert.equal(openFilesIn(folder), 0);
});

test("long lists that lie behind each other in a run are each read from their own start", async () => {
  const values = new SpillingValues({ maximumHeldValues: 60_000, folder: await temporaryFolder() });
  try {
    const lists = [values.open(INTEGER), values.open(FLOAT), values.open(INTEGER)];
    for (let i = 0; i < 50_000; i++) {
      for (const [place, list] of lists.entries()) values.add(list, i * 10 + place);
    }
    for (const [place, list] of lists.entries()) {
      assert.deepEqual(values.middle(list)?.map(Number), [249_990 + place, 250_000 + place]);
    }
  } finally {
    values.close();
  }
});

test("more temporary space than the limit is refused, with the limit", async () => {
  const values = new SpillingValues({
    maximumHeldValues: 10,
    maximumSpilledBytes: 200,
    folder: await temporaryFolder(),
  });
  try {
    const list = values.open(FLOAT);
    assert.throws(
      () => {
        for (let i = 0; i < 100; i++) values.add(list, i);
      },
      (error) => error instanceof AppError && error.code === "result_too_large" && error.details.limit === 200,
    );
  } finally {
    values.close();
  }
});

test("a number of more than 64 bits is refused", () => {
  const values = new SpillingValues();
  const list = values.open({ kind: "decimal", precision: 38, scale: 0 });
  assert.throws(
    () => values.add(list, 2n ** 63n),
    (error) => error instanceof AppError && error.code === "type_mismatch",
  );
  values.close();
});

/** Open files of this process that were made in the folder. */
function openFilesIn(folder: string): number {
  return readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith(folder);
    } catch {
      // The folder's own listing was one of them, and is closed by now.
      return false;
    }
  }).length;
}
