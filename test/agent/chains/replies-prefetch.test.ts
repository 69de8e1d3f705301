import assert from "node:assert/strict";
import { test } from "node:test";
import { repliesPrefetch } from "../../../agent/chains/persistent-chains.ts";
import { MAX_PREFETCH } from "../../../lib/bus/message-bus.ts";
import { AppError } from "../../../lib/errors.ts";

test("the queue that runs' replies share has room for the credits of all runs", () => {
  assert.ok(repliesPrefetch({ DYNAMOS_MAX_RUNS: 4, DYNAMOS_CREDITS: 8 }) >= 2 * 4 * 8);
  const most = repliesPrefetch({ DYNAMOS_MAX_RUNS: 31, DYNAMOS_CREDITS: 1024 });
  assert.ok(most >= 2 * 31 * 1024 && most <= MAX_PREFETCH);
});

test("settings that ask for more room than a queue has are refused by name", () => {
  assert.throws(
    () => repliesPrefetch({ DYNAMOS_MAX_RUNS: 64, DYNAMOS_CREDITS: 1024 }),
    (error) =>
      error instanceof AppError &&
      error.code === "configuration_invalid" &&
      /DYNAMOS_MAX_RUNS \(64\).*DYNAMOS_CREDITS \(1024\)/.test(error.message),
  );
});
