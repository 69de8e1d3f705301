import assert from "node:assert/strict";
import { test } from "node:test";
import { prefetchOf } from "../../sidecar/chain-relay.ts";

test("a run queue has room for every credit of every provider, and for what is no data", () => {
  for (const [credits, providers] of [
    [8, 1],
    [1024, 1],
    [8, 100],
    [1024, 100],
  ] as const) {
    assert.ok(prefetchOf(credits, providers) > credits * providers + 2 * providers, `${credits} × ${providers}`);
  }
  assert.ok(prefetchOf(8, 0) > 8, "a chain that reads data itself gets credits back");
  assert.ok(prefetchOf(8, 2) < 100, "and holds no more than it may be sent");
});
