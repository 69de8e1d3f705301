/** An attempt's place in a persistent chain, where two chains take its request: a real bus, no chains. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { PersistentPlace, type PersistentPlaceDependencies } from "../../../agent/chains/persistent-place.ts";
import type { Delivery, Settlement } from "../../../lib/bus/message-bus.ts";
import { openMessageBus } from "../../../lib/bus/open.ts";
import { systemClock } from "../../../lib/clock.ts";
import type { AppError } from "../../../lib/errors.ts";
import { RunReportSchema, RunRequestSchema, type RunReport } from "../../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { unrecordedTraceContext } from "../../../lib/telemetry/trace-context.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const CHAINS = ["first-chain", "second-chain"] as const;

function takenBy(chain: string): RunReport {
  return create(RunReportSchema, { state: { case: "taken", value: { jobName: chain, queue: chain } } });
}

test("an attempt that two chains have taken fails, and is ended at both", async (context) => {
  const bus = await openMessageBus(`embedded:${join(await temporaryFolder(), "bus.db")}`);
  context.after(() => bus.close());
  for (const chain of CHAINS) await bus.declareQueue(chain, { kind: "run" });
  let take: ((delivery: Delivery, report: RunReport) => Promise<Settlement>) | undefined;
  const dependencies = {
    bus,
    clock: systemClock,
    pool: { offer: async () => undefined, taken: () => undefined, forget: () => undefined },
    replies: {
      addressOf: () => "replies",
      add: async (_run: string, taker: { readonly take: typeof take }) => void (take = taker.take),
      remove: () => undefined,
    },
    onServed: () => undefined,
  } as unknown as PersistentPlaceDependencies;
  const place = new PersistentPlace(dependencies, "run-1", new AbortController().signal);
  const failures: AppError[] = [];
  const begun = place.begin({
    request: create(RunRequestSchema, { requestId: "asked" }),
    trace: unrecordedTraceContext(),
    receiver: { take: async () => "accept", fail: (error) => failures.push(error) },
  });
  await new Promise(setImmediate);
  const delivery = {} as Delivery;
  await take?.(delivery, takenBy(CHAINS[0]));
  await begun;
  assert.deepEqual(failures, []);
  await take?.(delivery, takenBy(CHAINS[1]));
  assert.deepEqual(
    failures.map(({ code }) => code),
    ["job_failed"],
  );
  await place.end(0, false);
  for (const chain of CHAINS) assert.equal((await bus.queueStatus(chain))?.ready, 1, `a cancel for ${chain}`);
});
