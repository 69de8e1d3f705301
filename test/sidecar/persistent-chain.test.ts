/** A chain that serves many runs: real processes, real gRPC, the embedded bus. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test, type TestContext } from "node:test";
import { inspect } from "node:util";
import { MESSAGE_TYPES } from "../../lib/bus/message-types.ts";
import { FrameReader, takesCredit } from "../../lib/rpc/frames.ts";
import type { RunReport } from "../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import type { Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { eventually } from "../support/eventually.ts";
import { CREDITS, PersistentTestChain, WORK_QUEUE, type PersistentRun } from "../support/persistent-chain.ts";

const SOURCE = { program: "test/sdk/programs/source" };
const PASS = { program: "test/sdk/programs/pass" };
const WITHOUT_SDK = { program: "test/sdk/programs/without-sdk" };
const ENDLESS = { TEST_BATCHES: "1000000", TEST_REPEAT_FIRST: "true" };

function chunksOf({ frames }: PersistentRun): readonly Frame[] {
  return frames.filter(takesCredit);
}

function kinds({ reports }: PersistentRun): readonly unknown[] {
  return reports.map(({ state }) => state.case);
}

function failureCode(state: RunReport["state"]): string {
  assert.ok(state.case === "failed", inspect(state));
  return state.value.code;
}

test("one chain answers one run after another, two at once and of one request id, and ends by itself when idle", async (t) => {
  const persistent = await PersistentTestChain.start([SOURCE, PASS], { DYNAMOS_CHAIN_IDLE_MS: "3000" });
  t.after(() => persistent.chain.stop());
  const requestId = randomUUID();
  const runs = [
    await persistent.request("first", requestId),
    await persistent.request("second", requestId),
    await persistent.request("third"),
  ];
  for (const run of runs) assert.equal((await persistent.outcome(run)).case, "ended", persistent.chain.log);
  for (const [index, run] of runs.entries()) {
    assert.deepEqual(kinds(run), ["taken", "ended"]);
    const { state } = run.reports[0] as RunReport;
    assert.ok(state.case === "taken");
    assert.deepEqual([state.value.jobName, state.value.queue], [persistent.chain.runName, persistent.chain.runName]);
    const asked = run.frames.find(({ body }) => body.case === "attachment")?.body;
    assert.ok(asked?.case === "attachment");
    assert.equal(Buffer.from(asked.value.data).toString(), ["first", "second", "third"][index], "another run's answer");
    assert.ok(run.frames.every((frame) => frame.requestId === run.requestId && frame.attempt === 1));
    assert.equal(run.frames.at(-1)?.body.case, "end");
  }
  await eventually(() => persistent.chain.processes[0]?.exitCode === 0, { timeoutMs: 30_000 });
});

test("an agent to which the end frame is enough gets no report of the end", async (t) => {
  const persistent = await PersistentTestChain.start([SOURCE, PASS]);
  t.after(() => persistent.chain.stop());
  const enough = { endIsEnough: true };
  const run = await persistent.request("SELECT 1", undefined, enough);
  await eventually(() => run.frames.some(({ body }) => body.case === "end"), { timeoutMs: 40_000 });
  // What its agent is told nothing of is over all the same: the next ones find their places.
  const next = [await persistent.request(), await persistent.request()];
  for (const other of next) assert.equal((await persistent.outcome(other)).case, "ended", persistent.chain.log);
  assert.deepEqual(kinds(run), ["taken"]);
});

test("from its second run on a chain gives a small result to an agent that takes it so in one message", async (t) => {
  const persistent = await PersistentTestChain.start([SOURCE, PASS]);
  t.after(() => persistent.chain.stop());
  const whole = { endIsEnough: true, takesFollowing: true };
  for (const expected of [undefined, 1]) {
    const run = await persistent.request("SELECT 1", undefined, whole);
    await eventually(() => run.frames.some(({ body }) => body.case === "end"), { timeoutMs: 40_000 });
    if (expected !== undefined) assert.equal(run.messages.length, expected);
    const cases = run.frames.map(({ body }) => body.case);
    assert.deepEqual([cases[0], cases.at(-1)], ["start", "end"]);
    assert.ok(run.frames.every((frame) => frame.requestId === run.requestId && frame.attempt === 1));
    const reader = new FrameReader();
    for (const frame of run.frames) reader.accept(frame);
    assert.ok(reader.isEnded, "and it is whole");
  }
});

test("a run that fails or is cancelled does not end the others, and a full chain takes no more", async (t) => {
  const environment = { ...ENDLESS, DYNAMOS_CHAIN_CONCURRENCY: "2" };
  const persistent = await PersistentTestChain.start([{ ...SOURCE, environment }, PASS]);
  t.after(() => persistent.chain.stop());
  const first = await persistent.request("SELECT 1", undefined, { endIsEnough: true });
  const second = await persistent.request();
  await eventually(() => first.frames.length > 3 && second.frames.length > 3, { timeoutMs: 40_000 });
  const third = await persistent.request();
  await eventually(async () => ((await persistent.chain.bus.queueStatus(WORK_QUEUE))?.ready ?? 0) === 1);
  assert.deepEqual(kinds(third), []);
  await persistent.cancel(first);
  assert.equal(failureCode(await persistent.outcome(first)), "cancelled");
  await eventually(() => third.frames.length > 3, {
    timeoutMs: 20_000,
    describe: "the third to take the first's place",
  });
  assert.deepEqual(kinds(second), ["taken"]);
  await persistent.cancel(second);
  await persistent.cancel(third);
  await persistent.outcome(third);
});

test("a chain that is told to stop ends what it has, and takes nothing new", async (t) => {
  const persistent = await PersistentTestChain.start([SOURCE, PASS]);
  t.after(() => persistent.chain.stop());
  assert.equal((await persistent.outcome(await persistent.request())).case, "ended");
  persistent.chain.processes[0]?.kill("SIGTERM");
  await eventually(() => persistent.chain.processes[0]?.exitCode === 0, { timeoutMs: 20_000 });
  const late = await persistent.request();
  assert.deepEqual(kinds(late), []);
  assert.equal((await persistent.chain.bus.queueStatus(WORK_QUEUE))?.ready, 1);
});

test("a chain that has reached its age ends, though it is not idle", async (t) => {
  const limits = { DYNAMOS_CHAIN_MAX_AGE_MS: "1500", DYNAMOS_CHAIN_IDLE_MS: "600000" };
  const persistent = await PersistentTestChain.start([SOURCE, PASS], limits);
  t.after(() => persistent.chain.stop());
  await eventually(() => persistent.chain.processes[0]?.exitCode === 0, { timeoutMs: 30_000 });
});

test("kill -9 of a microservice in the middle fails its runs with job_failed, which another attempt may help", async (t) => {
  const persistent = await PersistentTestChain.start([{ ...SOURCE, environment: ENDLESS }, PASS]);
  t.after(() => persistent.chain.stop());
  const runs = [await persistent.request(), await persistent.request()];
  await eventually(() => runs.every(({ frames }) => frames.length > 3), { timeoutMs: 40_000 });
  persistent.chain.processes[2]?.kill("SIGKILL");
  for (const run of runs) {
    const outcome = await persistent.outcome(run);
    assert.equal(failureCode(outcome), "job_failed");
    assert.ok(outcome.case === "failed" && outcome.value.retryable);
  }
});

test("a request whose agent has gone is not run", async (t) => {
  const persistent = await PersistentTestChain.start([SOURCE]);
  t.after(() => persistent.chain.stop());
  await persistent.chain.bus.deleteQueue("VU-in-0123abcd-runs");
  const run = await persistent.request();
  await eventually(async () => ((await persistent.chain.bus.queueStatus(WORK_QUEUE))?.ready ?? 1) === 0, {
    timeoutMs: 20_000,
  });
  assert.deepEqual(run.frames, []);
});

test("a message that is no request goes to the dead letters, and the chain serves the one behind it", async (t) => {
  const persistent = await PersistentTestChain.start([SOURCE]);
  t.after(() => persistent.chain.stop());
  const { bus } = persistent.chain;
  // A field that ends before its length says so; and no run that an answer could be for.
  const unreadable = { type: MESSAGE_TYPES.sqlDataRequest, body: Buffer.from([0x0a, 0xff]) };
  await bus.publish(WORK_QUEUE, {
    ...unreadable,
    messageId: "unreadable",
    correlationId: "run-unreadable",
  });
  await bus.publish(WORK_QUEUE, { ...unreadable, messageId: "nobody's" });
  await bus.publish(WORK_QUEUE, {
    ...unreadable,
    type: MESSAGE_TYPES.credit,
    messageId: "credit",
    correlationId: "run-credit",
  });
  assert.equal((await persistent.outcome(await persistent.request())).case, "ended", persistent.chain.log);
  const letters = await bus.deadLetters(10);
  assert.deepEqual(letters.map(({ message }) => message.messageId).sort(), ["credit", "nobody's", "unreadable"]);
});

test("an element without the SDK serves runs side by side, and goes on after one that failed", async (t) => {
  const persistent = await PersistentTestChain.start([SOURCE, WITHOUT_SDK, PASS, WITHOUT_SDK]);
  t.after(() => persistent.chain.stop());
  const requestId = randomUUID();
  const runs = [await persistent.request("first", requestId), await persistent.request("second", requestId)];
  for (const run of runs) assert.equal((await persistent.outcome(run)).case, "ended", persistent.chain.log);
  for (const [index, { frames }] of runs.entries()) {
    const asked = frames.find(({ body }) => body.case === "attachment")?.body;
    assert.ok(asked?.case === "attachment");
    assert.equal(Buffer.from(asked.value.data).toString(), ["first", "second"][index], "another run's answer");
  }
  const failed = await persistent.request("FAIL");
  assert.equal(failureCode(await persistent.outcome(failed)), "query_invalid");
  assert.equal((await persistent.outcome(await persistent.request("third"))).case, "ended");
});

/** A run that has used its credits, in a chain whose work queue is gone. */
async function runWithoutWorkQueue(t: TestContext) {
  const persistent = await PersistentTestChain.start([{ ...SOURCE, environment: ENDLESS }, PASS]);
  t.after(() => persistent.chain.stop());
  const run = await persistent.request();
  await eventually(() => chunksOf(run).length === CREDITS, { timeoutMs: 40_000 });
  await persistent.chain.bus.deleteQueue(WORK_QUEUE);
  await eventually(() => persistent.chain.log.includes("the work queue is gone"), { timeoutMs: 20_000 });
  return { persistent, run };
}

test("the work queue's end lets what runs go on, and ends the chain after it", async (t) => {
  const { persistent, run } = await runWithoutWorkQueue(t);
  await persistent.credit(run, CREDITS);
  await eventually(() => chunksOf(run).length === 2 * CREDITS, { describe: "more of the run", timeoutMs: 20_000 });
  assert.deepEqual(kinds(run), ["taken"]);
  await persistent.cancel(run);
  assert.equal(failureCode(await persistent.outcome(run)), "cancelled");
  await eventually(() => persistent.chain.processes[0]?.exitCode === 0, { timeoutMs: 20_000 });
});

test("a chain that ends already fails its runs when its own queue is lost", async (t) => {
  const { persistent, run } = await runWithoutWorkQueue(t);
  await persistent.chain.bus.deleteQueue(persistent.chain.runName);
  assert.equal(failureCode(await persistent.outcome(run)), "job_failed");
});

test("a request that comes again while it runs, or after, is not run twice", async (t) => {
  const environment = { ...ENDLESS, DYNAMOS_CHAIN_CONCURRENCY: "2" };
  const persistent = await PersistentTestChain.start([{ ...SOURCE, environment }, PASS]);
  t.after(() => persistent.chain.stop());
  const run = await persistent.request();
  await eventually(() => chunksOf(run).length === CREDITS, { timeoutMs: 40_000 });
  await persistent.repeat(run);
  const status = async (): Promise<number> => (await persistent.chain.bus.queueStatus(WORK_QUEUE))?.ready ?? 1;
  await eventually(async () => (await status()) === 0, { describe: "the repetition to be settled" });
  await persistent.credit(run, CREDITS);
  await eventually(() => chunksOf(run).length >= 2 * CREDITS, {
    describe: "the first one to go on",
    timeoutMs: 20_000,
  });
  // Of a second run beside it there would be a report, and its rows from their start.
  assert.deepEqual(kinds(run), ["taken"]);
  const sequences = chunksOf(run).map(({ sequence }) => Number(sequence));
  assert.deepEqual(
    sequences,
    [...sequences.keys()].map((index) => (sequences[0] ?? 0) + index),
  );
  await persistent.cancel(run);
  await persistent.outcome(run);
  const reports = kinds(run);
  await persistent.repeat(run);
  const next = await persistent.request();
  await eventually(() => chunksOf(next).length === CREDITS, { describe: "the request behind it", timeoutMs: 20_000 });
  assert.deepEqual(kinds(run), reports);
  await persistent.cancel(next);
  await persistent.outcome(next);
});
