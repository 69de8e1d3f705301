import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { withAttempts } from "../../../agent/runs/attempts.ts";
import type { ExecutionEvent } from "../../../agent/runs/execution.ts";
import { AppError } from "../../../lib/errors.ts";
import { EndSchema, FrameSchema } from "../../../lib/rpc/gen/dynamos/v1/stream_pb.ts";

const never = new AbortController().signal;
const failed = (): AppError =>
  new AppError("job_failed", "A container stopped.", { details: { container: "sql-query" } });

function frame(attempt: number, kind: "start" | "chunk"): ExecutionEvent {
  return { kind: "frame", frame: create(FrameSchema, { attempt, body: { case: kind, value: {} } }) };
}
const ended: ExecutionEvent = { kind: "ended", end: create(EndSchema) };

async function run(
  script: (attempt: number) => readonly (ExecutionEvent | AppError)[],
  firstAttempt = 1,
): Promise<{ events: ExecutionEvent[]; retries: number[]; error: AppError | undefined }> {
  const events: ExecutionEvent[] = [];
  const retries: number[] = [];
  const attempts = withAttempts(
    "SURF",
    firstAttempt,
    async function* (attempt) {
      for (const step of script(attempt)) {
        if (step instanceof AppError) throw step;
        yield step;
      }
    },
    never,
    (_error, next) => retries.push(next),
  );
  try {
    for await (const event of attempts) events.push(event);
  } catch (error) {
    return { events, retries, error: error as AppError };
  }
  return { events, retries, error: undefined };
}

describe("attempts at a data request", () => {
  test("a retryable failure before anything was handed on leads to a second attempt, of which alone the caller sees", async () => {
    const { events, retries, error } = await run((attempt) =>
      attempt === 1 ? [frame(1, "start"), failed()] : [frame(2, "start"), frame(2, "chunk"), ended],
    );
    assert.equal(error, undefined);
    assert.deepEqual(retries, [2]);
    assert.deepEqual(
      events.map((event) =>
        event.kind === "frame" ? `${String(event.frame.attempt)} ${event.frame.body.case}` : event.kind,
      ),
      ["2 start", "2 chunk", "ended"],
    );
  });

  test("after rows were handed on, the failure is stream_interrupted and nothing is repeated", async () => {
    const { error, retries } = await run((attempt) => [frame(attempt, "start"), frame(attempt, "chunk"), failed()]);
    assert.equal(error?.code, "stream_interrupted");
    assert.equal(error.details["reason"], "job_failed");
    assert.deepEqual(retries, []);
  });

  test("a data provider counts as having handed on from its report, before its rows are seen here", async () => {
    const { error } = await run(() => [{ kind: "handingOn" }, failed()]);
    assert.equal(error?.code, "stream_interrupted");
  });

  test("a failure that no repeat can mend is reported at once", async () => {
    const { error, retries } = await run(() => [new AppError("query_invalid", "no such column")]);
    assert.equal(error?.code, "query_invalid");
    assert.deepEqual(retries, []);
  });

  test("there are two attempts at most, counted from where an earlier life of the request left off", async () => {
    const { error, retries } = await run(() => [failed()], 3);
    assert.equal(error?.code, "job_failed");
    assert.deepEqual(retries, [4]);
  });

  test("a failure of another party is not ours to retry", async () => {
    const { error, retries } = await run(() => [failed().withParty("VU")]);
    assert.equal(error?.code, "job_failed");
    assert.deepEqual(retries, []);
    assert.deepEqual((await run(() => [failed().withParty("SURF")])).retries, [2]);
  });
});
