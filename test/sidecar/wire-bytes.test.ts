/** The bytes of 30,000 rows on every wire that they cross (`test/support/wire-bytes.ts` counts them). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { wiresByComputeToData, wiresByDataThroughTtp, type Wires } from "../support/wire-bytes.ts";

/** What the issue allows; 4.04 MB in the thesis, 1.22 MB as the prototype's JSON answer. */
const LIMIT = 300_000;
const ROWS = 30_000;

function assertSmall(wires: Wires, expected: number): void {
  assert.equal(Object.keys(wires).length, expected);
  const large = Object.entries(wires).filter(([, bytes]) => bytes > LIMIT);
  assert.deepEqual(large, [], `of ${JSON.stringify(wires)}`);
}

test("30,000 rows by computeToData take at most 300 kB on every wire, anonymized or not", async (t) => {
  for (const wires of await wiresByComputeToData(ROWS)) {
    assertSmall(wires, 10);
    t.diagnostic(JSON.stringify(wires));
  }
});

test("30,000 rows by dataThroughTtp take at most 300 kB on every wire, from one provider or two", async (t) => {
  for (const [place, wires] of (await wiresByDataThroughTtp(ROWS)).entries()) {
    assertSmall(wires, 9 + 3 * (place + 1));
    t.diagnostic(JSON.stringify(wires));
  }
});
