import assert from "node:assert/strict";
import { test } from "node:test";
import { eventually } from "./eventually.ts";

test("eventually resolves with the first truthy answer", async () => {
  let looks = 0;
  const answer = await eventually(() => (++looks === 3 ? "here" : undefined), { intervalMs: 1 });
  assert.equal(answer, "here");
  assert.equal(looks, 3);
});

test("eventually takes a throw for not yet, and gives the last one as the reason of its failure", async () => {
  await assert.rejects(
    eventually(() => assert.equal(1, 2, "one is not two"), { timeoutMs: 30, intervalMs: 1, describe: "equality" }),
    /Still waiting after 30 ms: equality \(last attempt: one is not two/,
  );
});

test("eventually fails also when the condition itself hangs", async () => {
  await assert.rejects(
    eventually(() => new Promise<boolean>(() => undefined), { timeoutMs: 30 }),
    /Still waiting after 30 ms/,
  );
});

test("eventually looks once more when this process stood still until the time was over", async () => {
  let isHere = false;
  const waiting = eventually(() => isHere, { timeoutMs: 30, intervalMs: 1 });
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 60);
  isHere = true;
  assert.equal(await waiting, true);
});
