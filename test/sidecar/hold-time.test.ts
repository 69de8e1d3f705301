import assert from "node:assert/strict";
import { test } from "node:test";
import { holdMsFor } from "../../sidecar/hold-time.ts";

const CASES: readonly (readonly [runMs: number, holdMs: number])[] = [
  [0, 50],
  [5, 50],
  [100, 200],
  [240, 480],
  [250, 500],
  [251, 50],
  [10_000, 50],
];

for (const [runMs, holdMs] of CASES) {
  test(`a full chain whose runs last ${runMs} ms holds a request for ${holdMs} ms`, () => {
    assert.equal(holdMsFor(runMs), holdMs);
  });
}
