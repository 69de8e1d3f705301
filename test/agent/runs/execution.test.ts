import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { ColdChain } from "../../../agent/chains/cold-chain.ts";
import type { ClaimedChain } from "../../../agent/chains/claimed-chain.ts";
import { execute } from "../../../agent/runs/execution.ts";
import type { Delivery, MessageBus } from "../../../lib/bus/message-bus.ts";
import { openMessageBus } from "../../../lib/bus/open.ts";
import { runQueue, runReplyQueue } from "../../../lib/bus/queues.ts";
import { systemClock } from "../../../lib/clock.ts";
import { AppError } from "../../../lib/errors.ts";
import type { JobRunner, JobSpec, JobStatus } from "../../../lib/jobs/job-runner.ts";
import { MESSAGE_TYPES } from "../../../lib/bus/message-types.ts";
import { joined } from "../../../lib/rpc/frame-groups.ts";
import { FrameWriter, toFailureMessage } from "../../../lib/rpc/frames.ts";
import { RunReportSchema, RunRequestSchema } from "../../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { EndSchema, FrameSchema, StartSchema } from "../../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { createLogger } from "../../../lib/telemetry/logger.ts";
import { newTraceContext } from "../../../lib/telemetry/trace-context.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const RUN = "analyst-0a1b2c3d-vu-0123456789ab-1-aaaaa";
const SPEC = { name: RUN, deadlineMs: Date.now() + 60_000 } as JobSpec;
const logger = createLogger("test", {}, "info", { write: () => undefined });
const notFound = new AppError("not_found", "There is no such job.");
/** A runner that has no job of this name. */
const NO_JOB = {
  watch: async function* (): AsyncGenerator<JobStatus> {
    throw notFound;
  },
  end: async () => undefined,
};

test("the queues of a run that ended while the bus was away are removed when it is back", async (t) => {
  const bus = await openMessageBus(`embedded:${join(await temporaryFolder(), "bus.db")}`);
  t.after(() => bus.close());
  let isAway = false;
  const breaking: MessageBus = Object.assign(Object.create(bus) as MessageBus, {
    declareQueue: bus.declareQueue.bind(bus),
    consume: bus.consume.bind(bus),
    publish: bus.publish.bind(bus),
    deleteQueue: async (queue: string) => {
      if (isAway) throw new AppError("unavailable", "The bus is away.");
      await bus.deleteQueue(queue);
    },
  });
  const runner = {
    start: async () => {
      isAway = true;
      throw new AppError("job_start_failed", "There are no programs.");
    },
    ...NO_JOB,
  } as unknown as JobRunner;
  const request = create(RunRequestSchema, { requestId: "a request", attempt: 1, credits: 2 });
  const events = execute(
    { bus: breaking, clock: systemClock, logger },
    { chain: new ColdChain({ bus: breaking, runner }, SPEC), request, trace: newTraceContext() },
    new AbortController().signal,
  );
  await assert.rejects(events.next(), { code: "job_start_failed" });
  const left = async (): Promise<boolean> =>
    (await bus.queueStatus(runQueue(RUN))) !== undefined || (await bus.queueStatus(runReplyQueue(RUN))) !== undefined;
  assert.ok(await left());
  isAway = false;
  await eventually(async () => !(await left()), { timeoutMs: 20_000 });
});

test("an answer does not wait for its job's end; the job is ended once it has had some time to end by itself", async (t) => {
  const bus = await openMessageBus(`embedded:${join(await temporaryFolder(), "bus.db")}`);
  t.after(() => bus.close());
  const calls: string[] = [];
  let finish = (): void => undefined;
  const podIsGone = new Promise<void>((resolve) => (finish = resolve));
  const runner = {
    start: async () => undefined,
    watch: async function* (): AsyncGenerator<JobStatus> {
      yield { name: RUN, phase: "running" };
      calls.push("watched");
      await podIsGone;
      yield { name: RUN, phase: "succeeded" };
    },
    end: async () => void calls.push("ended"),
  } as unknown as JobRunner;
  const reply = runReplyQueue(RUN);
  const ids = { requestId: "a request", attempt: 1 };
  const request = create(RunRequestSchema, { ...ids, credits: 2, returnAddress: "elsewhere", reportAddress: reply });
  const events = execute(
    { bus, clock: systemClock, logger },
    { chain: new ColdChain({ bus, runner }, SPEC), request, trace: newTraceContext() },
    new AbortController().signal,
  );
  const first = events.next();
  await eventually(() => calls.includes("watched"));
  const state = { case: "ended" as const, value: create(EndSchema, { rows: 0n, batches: 0n }) };
  const body = toBinary(RunReportSchema, create(RunReportSchema, { ...ids, state }));
  await bus.publish(reply, { type: MESSAGE_TYPES.runReport, body });
  assert.equal((await first).value?.kind, "ended");
  assert.equal((await events.next()).done, true);
  assert.ok(!calls.includes("ended"));
  finish();
  await eventually(() => calls.includes("ended"));
});

test("where the end frame is enough, nothing more is waited for, and the chain is not told to end the run", async (t) => {
  const bus = await openMessageBus(`embedded:${join(await temporaryFolder(), "bus.db")}`);
  t.after(() => bus.close());
  const ids = { requestId: "a request", attempt: 1 };
  const request = create(RunRequestSchema, { ...ids, returnAddress: "r", reportAddress: "r", endIsEnough: true });
  const bodies = [
    { case: "start" as const, value: create(StartSchema) },
    { case: "end" as const, value: create(EndSchema, { rows: 0n, batches: 0n }) },
  ];
  const ends: boolean[] = [];
  const chain: ClaimedChain = {
    lifetime: "persistent",
    name: RUN,
    replyQueue: "r",
    begin: async ({ receiver }) => {
      for (const [index, body] of bodies.entries()) {
        const frame = create(FrameSchema, { provider: "VU", ...ids, sequence: BigInt(index), body });
        const delivery = { type: MESSAGE_TYPES.frame, messageId: String(index), body: toBinary(FrameSchema, frame) };
        void receiver.take({ ...delivery, redelivered: false, redeliveryCount: 0, headers: {} } as Delivery);
      }
    },
    watch: async function* (signal): AsyncGenerator<JobStatus> {
      yield { name: RUN, phase: "running" };
      await systemClock.sleep(60_000, signal);
    },
    end: async (_lastStepsMs, isWhole) => void ends.push(isWhole),
    close: async () => undefined,
  };
  const plan = { chain, request, trace: newTraceContext() };
  const kinds: string[] = [];
  for await (const event of execute({ bus, clock: systemClock, logger }, plan, new AbortController().signal)) {
    kinds.push(event.kind === "frame" ? String(event.frame.body.case) : event.kind);
  }
  assert.deepEqual(kinds, ["start", "end", "ended"]);
  assert.deepEqual(ends, [true]);
});

test("frames in one message come one by one, and the message is settled with the last of them", async (t) => {
  const bus = await openMessageBus(`embedded:${join(await temporaryFolder(), "bus.db")}`);
  t.after(() => bus.close());
  const ids = { requestId: "a request", attempt: 1 };
  const request = create(RunRequestSchema, { ...ids, returnAddress: "r", reportAddress: "r", endIsEnough: true });
  const writer = new FrameWriter({ provider: "VU", ...ids });
  const frames = [writer.start({}), ...writer.batch(Buffer.from("rows"), 1), writer.end()];
  const body = toBinary(FrameSchema, joined(frames));
  let settled: Promise<unknown> = Promise.resolve();
  let isSettled = false;
  const chain: ClaimedChain = {
    lifetime: "persistent",
    name: RUN,
    replyQueue: "r",
    begin: async ({ receiver }) => {
      const delivery = { type: MESSAGE_TYPES.frame, messageId: "1", body, redeliveryCount: 0, headers: {} };
      settled = receiver.take(delivery as Delivery).then(() => (isSettled = true));
    },
    watch: async function* (signal): AsyncGenerator<JobStatus> {
      yield { name: RUN, phase: "running" };
      await systemClock.sleep(60_000, signal);
    },
    end: async () => undefined,
    close: async () => undefined,
  };
  const plan = { chain, request, trace: newTraceContext() };
  const seen: unknown[] = [];
  for await (const event of execute({ bus, clock: systemClock, logger }, plan, new AbortController().signal)) {
    if (event.kind === "frame") seen.push([event.frame.body.case, event.frame.requestId, isSettled]);
  }
  const each = (kind: string): unknown => [kind, ids.requestId, false];
  assert.deepEqual(seen, [each("start"), each("chunk"), each("end")]);
  await settled;
});

test("where the sidecar knows only that a part is gone, the failure is what the job runner says of it", async (t) => {
  const bus = await openMessageBus(`embedded:${join(await temporaryFolder(), "bus.db")}`);
  t.after(() => bus.close());
  let isReported = (): void => undefined;
  const reported = new Promise<void>((resolve) => (isReported = resolve));
  const outOfMemory = { code: "memory_limit_exceeded", detail: "too much", retryable: false, party: "VU" } as const;
  const runner = {
    start: async () => undefined,
    watch: async function* (): AsyncGenerator<JobStatus> {
      yield { name: RUN, phase: "running" };
      await reported;
      yield {
        name: RUN,
        phase: "failed",
        failure: { ...outOfMemory, details: { container: "sql-query", log: ["x"] } },
      };
    },
    end: async () => undefined,
  } as unknown as JobRunner;
  const reply = runReplyQueue(RUN);
  const ids = { requestId: "a request", attempt: 1 };
  const request = create(RunRequestSchema, { ...ids, credits: 2, returnAddress: "elsewhere", reportAddress: reply });
  const events = execute(
    { bus, clock: systemClock, logger },
    { chain: new ColdChain({ bus, runner }, SPEC), request, trace: newTraceContext() },
    new AbortController().signal,
  );
  const first = events.next();
  const connectionDropped = new AppError("job_failed", "The first microservice stopped: connection dropped.");
  const state = { case: "failed" as const, value: toFailureMessage(connectionDropped) };
  const body = toBinary(RunReportSchema, create(RunReportSchema, { ...ids, state }));
  const rejected = assert.rejects(first, (error) => {
    assert.ok(error instanceof AppError);
    assert.deepEqual([error.code, error.details], ["memory_limit_exceeded", { container: "sql-query" }]);
    return true;
  });
  await eventually(async () => (await bus.queueStatus(reply)) !== undefined);
  await bus.publish(reply, { type: MESSAGE_TYPES.runReport, body });
  await eventually(async () => (await bus.queueStatus(reply))?.ready === 0);
  isReported();
  await rejected;
});
