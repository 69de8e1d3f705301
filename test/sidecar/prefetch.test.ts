import assert from "node:assert/strict";
import { test } from "node:test";
import { MAX_PREFETCH } from "../../lib/bus/message-bus.ts";
import { prefetchOf, runsWithRoom } from "../../sidecar/chain-relay.ts";

test("a run queue has room for every credit of every provider, and for what is no data", () => {
  for (const [credits, providers] of [
    [8, 1],
    [1024, 1],
    [8, 100],
    [1024, 63],
  ] as const) {
    assert.ok(prefetchOf(credits, providers) > credits * providers + 2 * providers, `${credits} × ${providers}`);
  }
  assert.ok(prefetchOf(8, 0) > 8, "a chain that reads data itself gets credits back");
  assert.ok(prefetchOf(8, 2) < 100, "and holds no more than it may be sent");
});

test("no allowed settings ask for more messages than a consumer may hold", () => {
  assert.equal(prefetchOf(1024, 100), MAX_PREFETCH);
  for (const [credits, providers, concurrency] of [
    [1024, 1, 62],
    [1024, 3, 22],
    [1024, 100, 1000],
    [8, 1, 1000],
  ] as const) {
    const ofRun = prefetchOf(credits, providers);
    const runs = runsWithRoom(concurrency, ofRun);
    assert.ok(runs >= 1 && runs * ofRun <= MAX_PREFETCH, `${credits} × ${providers} × ${concurrency}`);
  }
});

test("a chain serves as many runs at once as were asked for, where there is room", () => {
  assert.equal(runsWithRoom(4, prefetchOf(1024, 3)), 4);
  assert.equal(runsWithRoom(62, prefetchOf(1024, 1)), 61);
});
