/** A data provider's chain: sidecar, microservices, sidecar; real processes, real gRPC, the embedded bus. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { inspect } from "node:util";
import { TestChain } from "../support/chain.ts";

const SOURCE = "test/sdk/programs/source";
const PASS = "test/sdk/programs/pass";

test("a chain of three microservices brings its rows, attachment and notes to the return address, in order", async (t) => {
  const chain = await TestChain.start({ programs: [{ program: SOURCE }, { program: PASS }, { program: PASS }] });
  t.after(() => chain.stop());
  await chain.request();
  const outcome = await chain.outcome();

  assert.equal(outcome.case, "ended", inspect(outcome));
  assert.deepEqual(
    chain.numbers(),
    Array.from({ length: 30 }, (_, index) => BigInt(index)),
  );
  const parts = chain.parts();
  assert.deepEqual(
    parts.map(({ kind }) => kind),
    ["start", "batch", "batch", "batch", "attachment", "end"],
  );
  assert.deepEqual(
    chain.reports.map(({ state }) => state.case),
    ["handingOn", "ended"],
  );
  const end = parts.at(-1);
  assert.ok(end?.kind === "end");
  assert.deepEqual(end.notes, {
    madeBy: "source",
    minimumGroupSize: 1,
    passed: { VU: { rows: 30, grantedBy: "VU" } },
    passedLast: { VU: { rows: 30, grantedBy: "VU" } },
  });
  assert.deepEqual(await chain.exitCodes(), [0, 0, 0, 0], chain.log);
});
