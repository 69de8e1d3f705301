import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { TestChain } from "../support/chain.ts";
import { eventually } from "../support/eventually.ts";

const SOURCE = "test/sdk/programs/source";

test("a chain that was started ahead says when it is ready, and what it has taken before anything else, and takes nothing more", async (t) => {
  const chain = await TestChain.start({
    programs: [{ program: SOURCE, environment: { TEST_BATCHES: "60", TEST_ROWS_PER_BATCH: "32768" } }],
    sidecarEnvironment: { DYNAMOS_CHAIN_WARM: "true" },
  });
  t.after(() => chain.stop());
  const told = (): (string | undefined)[] => chain.reports.map(({ state }) => state.case);
  await eventually(() => told().length > 0, { timeoutMs: 20_000 });
  assert.deepEqual(told(), ["ready"]);
  // Held up, so that the run is still under way when another request comes.
  chain.isTaking = false;
  await chain.request({ credits: 2 });
  await eventually(() => told().length > 1, { timeoutMs: 20_000 });
  assert.deepEqual(told().slice(0, 2), ["ready", "taken"]);
  await chain.request({ requestId: randomUUID() });
  const refused = await eventually(async () => (await chain.bus.deadLetters(1))[0], { timeoutMs: 20_000 });
  assert.deepEqual([refused.queue, refused.reason], [chain.runName, "rejected"]);
  await chain.takeAgain();
  await eventually(() => told().includes("ended"), { timeoutMs: 20_000 });
});

test("an element without the SDK waits in a chain that was started ahead, serves its one request, and ends", async (t) => {
  const programs = [{ program: SOURCE }, { program: "test/sdk/programs/without-sdk" }];
  const warm = { DYNAMOS_CHAIN_WARM: "true" };
  const chain = await TestChain.start({
    programs: programs.map(({ program }) => ({ program, environment: warm })),
    sidecarEnvironment: warm,
  });
  t.after(() => chain.stop());
  const told = (): (string | undefined)[] => chain.reports.map(({ state }) => state.case);
  await eventually(() => told().includes("ready"), { timeoutMs: 30_000 });
  await chain.request();
  await eventually(() => told().includes("ended"), { timeoutMs: 30_000 });
  await eventually(() => chain.processes.every(({ exitCode }) => exitCode === 0), { timeoutMs: 30_000 });
});
