/** Three hundred thousand rows of six typed columns, at one steward and at three, against an oracle; `npm run bench -- rows` has ten million. */
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { measureSize, type Sized } from "../../bench/rows.ts";

const ROWS = 300_000;
const LIMIT_MIB = 256;

describe(`${String(ROWS)} rows of 64-bit integers, floats, decimals, dates, texts and nulls, anonymized`, () => {
  let sized: Sized;

  // Compares every group's counts and sums with the oracle's.
  before(async () => (sized = await measureSize(ROWS)));

  test("give the oracle's counts and sums by computeToData, and by dataThroughTtp from three stewards", () => {
    for (const [way, { asked }] of Object.entries(sized.times)) assert.ok(asked.bytes > 0, way);
  });

  test(`and no process ever had more than ${String(LIMIT_MIB)} MiB of memory`, () => {
    for (const [program, mebibytes] of [...sized.loadingPeaks, ...sized.peaks])
      assert.ok(mebibytes <= LIMIT_MIB, `${program} had ${String(mebibytes)} MiB`);
    for (const element of [
      "agent",
      "sidecar",
      "sql-query/main",
      "query-child",
      "sql-anonymize",
      "sql-algorithm",
      "sql-aggregate",
    ])
      assert.ok(
        [...sized.peaks.keys()].some((program) => program.includes(element)),
        `${element} was not seen`,
      );
  });

  test("and the bus held no more than what is under way", () => {
    assert.ok(sized.busBytes < 64e6, `${String(sized.busBytes)} bytes`);
  });
});
