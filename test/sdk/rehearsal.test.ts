/** A microservice's rehearsal: made-up runs through its own handler, before anybody asks. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { loadSettings } from "../../lib/config/env.ts";
import { AppError } from "../../lib/errors.ts";
import type { MicroservicePosition } from "../../lib/jobs/chain-environment.ts";
import { createLogger } from "../../lib/telemetry/logger.ts";
import type { Handler, MicroserviceContext, Rehearsal } from "../../sdk/typescript/handler.ts";
import {
  GROUPS_QUESTION,
  REHEARSAL_DATA_SET,
  REHEARSAL_ROWS,
  ROWS_QUESTION,
} from "../../sdk/typescript/rehearsal-data.ts";
import { rehearse } from "../../sdk/typescript/rehearsal.ts";

const IN_THE_MIDDLE: MicroservicePosition = {
  steward: "VU",
  jobName: "chain-0123abcd",
  role: "all",
  dataProviderCount: 1,
  sidecarPort: 1,
  port: 1,
  nextPort: 1,
  isFirst: false,
  isLast: false,
};
const JOINER: MicroservicePosition = {
  ...IN_THE_MIDDLE,
  steward: "SURF",
  role: "computeProvider",
  isFirst: true,
  dataProviderCount: 5,
};

function rehearsing(
  handle: Handler,
  options: { position?: MicroservicePosition; rehearsal?: Rehearsal; signal?: AbortSignal } = {},
): Promise<void> {
  const { position = IN_THE_MIDDLE, rehearsal = { requests: [ROWS_QUESTION] } } = options;
  return rehearse({
    definition: { name: "test", handle, rehearsal },
    position,
    logger: createLogger("test", {}, "silent"),
    loadSettings,
    signal: options.signal ?? new AbortController().signal,
  });
}

/** Passes all rows on, and notes what each run got. */
function recorder(): { handle: Handler; runs: { context: MicroserviceContext; rows: number; inputs: number }[] } {
  const runs: ReturnType<typeof recorder>["runs"] = [];
  const handle: Handler = async function* (inputs, context) {
    const run = { context, rows: 0, inputs: inputs.length };
    runs.push(run);
    const [first] = inputs;
    if (first?.schema !== undefined) yield { schema: first.schema };
    for (const { batches } of inputs) {
      for await (const batch of batches) {
        run.rows += batch.numRows;
        yield { batch };
      }
    }
  };
  return { handle, runs };
}

test("a rehearsal has a run per question over all made-up rows, under a grant of this party for them alone", async () => {
  const { handle, runs } = recorder();
  await rehearsing(handle, { rehearsal: { requests: [ROWS_QUESTION, GROUPS_QUESTION] } });
  assert.deepEqual(
    runs.map(({ rows, inputs, context }) => [rows, inputs, context.request.query, context.grant.steward]),
    [ROWS_QUESTION, GROUPS_QUESTION].map(({ query }) => [REHEARSAL_ROWS, 1, query, "VU"]),
  );
  const [granted] = runs.map(({ context }) => context.grant.dataSets.map(({ name }) => name));
  assert.deepEqual(granted, [REHEARSAL_DATA_SET.name]);
});

test("a joiner rehearses with two providers, whose grants it checks as ever, however many it is for", async () => {
  const { handle, runs } = recorder();
  await rehearsing(handle, { position: JOINER });
  const [run] = runs;
  assert.deepEqual([run?.inputs, run?.rows, run?.context.grants.length], [2, 2 * REHEARSAL_ROWS, 3]);
});

test("one that reads data gets the data set's file and no rows, and the file goes afterwards", async () => {
  const { handle, runs } = recorder();
  const location = { path: "/made/up.sqlite", contentHash: "made up" };
  let closed = 0;
  const openData = (): ReturnType<NonNullable<Rehearsal["openData"]>> =>
    Promise.resolve({ locations: { rehearsal: location }, close: () => Promise.resolve(void closed++) });
  const failure = rehearsing(handle, { rehearsal: { requests: [ROWS_QUESTION], openData } });
  // It makes no schema of its own, which its rehearsal notices.
  await assert.rejects(failure, (error) => error instanceof AppError && error.code === "internal");
  const { path, contentHash } = runs[0]?.context.data["rehearsal"] ?? {};
  assert.deepEqual([{ path, contentHash }, runs[0]?.rows, closed], [location, 0, 1]);
});

test("what a handler fails with, its rehearsal fails with: such a chain is not ready", async () => {
  const handle: Handler = async function* () {
    await Promise.resolve();
    throw new AppError("configuration_invalid", "There is no key.");
  };
  await assert.rejects(
    rehearsing(handle),
    (error) => error instanceof AppError && error.code === "configuration_invalid",
  );
});

test("a rehearsal ends when its process is told to stop", { timeout: 20_000 }, async () => {
  const stopping = new AbortController();
  const handle: Handler = async function* (inputs, { signal }) {
    const [input] = inputs;
    if (input?.schema !== undefined) yield { schema: input.schema };
    const stopped = once(signal, "abort");
    stopping.abort();
    await stopped;
    signal.throwIfAborted();
  };
  await assert.rejects(rehearsing(handle, { signal: stopping.signal }));
});
