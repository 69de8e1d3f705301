import assert from "node:assert/strict";
import { test } from "node:test";
import { PlanClock } from "./plan-clock.ts";

test("the time of a plan stands still while a request waits for its turn, and never goes back", () => {
  let nowMs = 0;
  const clock = new PlanClock(() => nowMs);
  clock.begins(0, 1_000);
  nowMs = 700;
  assert.equal(clock.now(), 700);
  nowMs = 5_000;
  assert.equal(clock.now(), 1_000);
  clock.begins(1_000, 4_500);
  assert.equal(clock.now(), 1_000);
  nowMs = 6_000;
  assert.equal(clock.now(), 2_000);
  nowMs = 60_000;
  assert.equal(clock.now(), 4_500);
  clock.begins(4_500, Infinity);
  nowMs = 70_000;
  assert.equal(clock.now(), 14_500);
});

test("a time of the plan is waited for, and one that has passed is not", async () => {
  const begin = Date.now();
  const clock = new PlanClock(() => Date.now() - begin);
  clock.begins(0, Infinity);
  await clock.until(0);
  assert.ok(Date.now() - begin < 100);
  await clock.until(150);
  assert.ok(clock.now() >= 150);
});
