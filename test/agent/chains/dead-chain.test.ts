import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { tellsOfDeadChain } from "../../../agent/chains/dead-chain.ts";
import { AppError, ERROR_KINDS, type ErrorCode } from "../../../lib/errors.ts";

/** All that a job runner, or a queue that is gone, says of one chain. */
const DEATHS: readonly ErrorCode[] = [
  "cancelled",
  "job_failed",
  "job_start_failed",
  "memory_limit_exceeded",
  "not_found",
];

describe("an error before a chain has taken its request", () => {
  for (const code of Object.keys(ERROR_KINDS) as ErrorCode[]) {
    const isDeath = DEATHS.includes(code);
    test(`with code ${code} ${isDeath ? "tells of that chain's death" : "says nothing of that chain"}`, () => {
      assert.equal(tellsOfDeadChain(new AppError(code, "It failed."), "VU"), isDeath);
      assert.equal(tellsOfDeadChain(new AppError(code, "It failed.", { party: "VU" }), "VU"), isDeath);
    });
  }

  test("that another party answered says nothing of that chain", () => {
    assert.equal(tellsOfDeadChain(new AppError("job_failed", "It failed.", { party: "UVA" }), "VU"), false);
  });
});
