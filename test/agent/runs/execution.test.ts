import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { execute } from "../../../agent/runs/execution.ts";
import type { MessageBus } from "../../../lib/bus/message-bus.ts";
import { openMessageBus } from "../../../lib/bus/open.ts";
import { runQueue, runReplyQueue } from "../../../lib/bus/queues.ts";
import { systemClock } from "../../../lib/clock.ts";
import { AppError } from "../../../lib/errors.ts";
import type { JobRunner, JobSpec } from "../../../lib/jobs/job-runner.ts";
import { RunRequestSchema } from "../../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { createLogger } from "../../../lib/telemetry/logger.ts";
import { newTraceContext } from "../../../lib/telemetry/trace-context.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const RUN = "analyst-0a1b2c3d-vu-0123456789ab-1-aaaaa";

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
    end: async () => undefined,
  } as unknown as JobRunner;
  const request = create(RunRequestSchema, { requestId: "a request", attempt: 1, credits: 2 });
  const spec = { name: RUN, deadlineMs: Date.now() + 60_000 } as JobSpec;
  const logger = createLogger("test", {}, "info", { write: () => undefined });
  const events = execute(
    { bus: breaking, runner, clock: systemClock, logger, isTraced: false },
    { spec, request, trace: newTraceContext() },
    new AbortController().signal,
  );
  await assert.rejects(events.next(), { code: "job_start_failed" });
  const left = async (): Promise<boolean> =>
    (await bus.queueStatus(runQueue(RUN))) !== undefined || (await bus.queueStatus(runReplyQueue(RUN))) !== undefined;
  assert.ok(await left());
  isAway = false;
  await eventually(async () => !(await left()), { timeoutMs: 20_000 });
});
