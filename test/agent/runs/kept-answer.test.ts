import assert from "node:assert/strict";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { create } from "@bufbuild/protobuf";
import { KeptAnswer } from "../../../agent/runs/kept-answer.ts";
import { AppError } from "../../../lib/errors.ts";
import { FrameSchema, type Frame } from "../../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const never = new AbortController().signal;

function chunk(sequence: number, bytes = 10): Frame {
  const body = { case: "chunk", value: { data: new Uint8Array(bytes).fill(sequence) } } as const;
  return create(FrameSchema, { provider: "VU", sequence: BigInt(sequence), body });
}

async function* framesOf(count: number, bytes?: number): AsyncGenerator<Frame> {
  for (let sequence = 0; sequence < count; sequence += 1) yield chunk(sequence, bytes);
}

async function sequences(frames: AsyncIterable<Frame>): Promise<number[]> {
  const found: number[] = [];
  for await (const frame of frames) found.push(Number(frame.sequence));
  return found;
}

async function keptIn(
  context: TestContext,
  maxBytes: number,
  stallMs = 60_000,
): Promise<{ answer: KeptAnswer; folder: string }> {
  const folder = await temporaryFolder();
  const answer = KeptAnswer.atPath(join(folder, "answer"), { maxBytes, stallMs });
  context.after(() => answer.remove());
  return { answer, folder };
}

describe("a kept answer", () => {
  test("gives every reader the same frames, during the run and after it", async (context) => {
    const { answer } = await keptIn(context, 10_000);
    const early = sequences(answer.read(never));
    await answer.record(framesOf(5), never);
    assert.deepEqual(await early, [0, 1, 2, 3, 4]);
    assert.deepEqual(await sequences(answer.read(never)), [0, 1, 2, 3, 4]);
  });

  test("fails every reader at the place where the run failed", async (context) => {
    const { answer } = await keptIn(context, 10_000);
    await answer.record(
      (async function* () {
        yield chunk(0);
        throw new AppError("job_failed", "The chain broke.");
      })(),
      never,
    );
    const seen: number[] = [];
    await assert.rejects(
      async () => {
        for await (const frame of answer.read(never)) seen.push(Number(frame.sequence));
      },
      { code: "job_failed" },
    );
    assert.deepEqual(seen, [0]);
    assert.equal(answer.hasFailed, true);
  });

  test("stops growing at its limit and passes the rest to the first reader only", async (context) => {
    const { answer, folder } = await keptIn(context, 5_000);
    let produced = 0;
    const recording = answer.record(
      (async function* () {
        for (; produced < 50; produced += 1) yield chunk(produced, 1_000);
      })(),
      never,
    );
    const reader = answer.read(never);
    assert.equal((await reader.next()).value?.sequence, 0n);
    while (!answer.isPassing) await new Promise((resolve) => setImmediate(resolve));
    assert.ok(produced < 10, "the run waits for its reader once the limit is reached");
    await assert.rejects(sequences(answer.read(never)), { code: "already_exists" });
    assert.deepEqual((await sequences(reader)).at(-1), 49);
    await recording;
    assert.ok((await stat(join(folder, "answer"))).size <= 5_000);
  });

  test("keeps nothing where its limit is zero", async (context) => {
    const { answer, folder } = await keptIn(context, 0);
    const recording = answer.record(framesOf(20), never);
    assert.equal((await sequences(answer.read(never))).length, 20);
    await recording;
    assert.deepEqual(await readdir(folder), []);
  });

  test("deletes its file when it is removed, and ends its readers", async (context) => {
    const { answer, folder } = await keptIn(context, 100);
    const recording = answer.record(framesOf(20), never);
    const reader = answer.read(never);
    await reader.next();
    while (!answer.isPassing) await new Promise((resolve) => setImmediate(resolve));
    await answer.remove();
    await recording;
    await assert.rejects(sequences(reader));
    assert.deepEqual(await readdir(folder), []);
  });

  test("gives the rest to the next reader when the first left before anything was passed to it", async (context) => {
    const { answer } = await keptIn(context, 30);
    const recording = answer.record(framesOf(20), never);
    const first = answer.read(never);
    await first.next();
    await first.return();
    assert.equal((await sequences(answer.read(never))).length, 20);
    await recording;
  });

  test("leaves off waiting for its reader when the run is ended, and ends the run's frames", async (context) => {
    const { answer } = await keptIn(context, 0);
    const ending = new AbortController();
    let isClosed = false;
    const recording = answer.record(
      (async function* () {
        try {
          yield* framesOf(20);
        } finally {
          isClosed = true;
        }
      })(),
      ending.signal,
    );
    while (!answer.isPassing) await new Promise((resolve) => setImmediate(resolve));
    ending.abort(new AppError("cancelled", "Nobody reads."));
    await recording;
    assert.equal(isClosed, true);
    assert.equal(answer.hasFailed, true);
  });

  test("fails when its reader takes nothing for too long, and the reader hears why", async (context) => {
    const { answer } = await keptIn(context, 0, 20);
    const recording = answer.record(framesOf(20), never);
    const reader = answer.read(never);
    await reader.next();
    await recording;
    await assert.rejects(sequences(reader), { code: "time_limit_exceeded", message: /DYNAMOS_STALL_TIMEOUT_MS/ });
  });
});
