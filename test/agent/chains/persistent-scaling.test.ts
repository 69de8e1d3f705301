/** How many persistent chains are started, and where. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { chainsToStart, freeSlots } from "../../../agent/chains/persistent-scaling.ts";

const cases: readonly (readonly [what: string, load: Partial<Parameters<typeof chainsToStart>[0]>, count: number])[] = [
  ["nothing waits", { ready: 0 }, 0],
  ["one waits, and there is no chain", { ready: 1 }, 1],
  ["one waits, and a chain is on its way", { ready: 1, starting: 1 }, 0],
  ["as many wait as the chain on its way takes", { ready: 4, starting: 1 }, 0],
  ["more wait than the chain on its way takes", { ready: 5, starting: 1 }, 1],
  ["some wait although a chain runs: it is full", { ready: 1, running: 1 }, 1],
  ["many wait", { ready: 100 }, 3],
  ["many wait, and two run", { ready: 100, running: 2 }, 1],
  ["many wait, and there are as many as there may be", { ready: 100, running: 2, starting: 1 }, 0],
  ["more run than there may be, since the limit was lowered", { ready: 9, running: 5 }, 0],
];

for (const [what, load, count] of cases) {
  test(`${what}: ${count} chains are started`, () => {
    assert.equal(chainsToStart({ ready: 0, starting: 0, running: 0, concurrency: 4, max: 3, ...load }), count);
  });
}

test("a slot whose chain lives is not free; one whose chain has ended gets the next generation", () => {
  const chains = [
    { name: "vu-chain-0123abcd-89abcdef-0-4", phase: "failed" },
    { name: "vu-chain-0123abcd-89abcdef-0-5", phase: "succeeded" },
    { name: "vu-chain-0123abcd-89abcdef-1-0", phase: "running" },
    { name: "vu-chain-0123abcd-89abcdef-3-0", phase: "starting" },
  ] as const;
  assert.deepEqual(freeSlots(chains, 4), [
    { slot: 0, generation: 6 },
    { slot: 2, generation: 0 },
  ]);
});

test("two instances that know the same jobs choose the same slot, so that one chain is started and not two", () => {
  const chains = [{ name: "vu-chain-0123abcd-89abcdef-0-0", phase: "failed" }] as const;
  assert.deepEqual(freeSlots(chains, 2), freeSlots([...chains], 2));
});
