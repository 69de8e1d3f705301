import assert from "node:assert/strict";
import { test } from "node:test";
import { BatchBuilder } from "../../../lib/data/batch-builder.ts";
import type { FieldSpec } from "../../../lib/data/field-types.ts";
import { AppError } from "../../../lib/errors.ts";
import { answerFrames, readAnswerFrames } from "../../../lib/rpc/answer-frames.ts";
import { jsonAnswer } from "../../../lib/rpc/answer-stream.ts";
import { PAYING_RATIO } from "../../../lib/rpc/chunk-compression.ts";
import { FrameRecoder } from "../../../lib/rpc/frame-recoding.ts";
import { FrameWriter, readParts } from "../../../lib/rpc/frames.ts";
import type { Frame } from "../../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { batchFrames, schemaBytes } from "../../../lib/rpc/record-batches.ts";

const HEADING = { requestId: "r", jobName: "ada-1", archetype: "computeToData", provider: "VU" };
const FIELDS: readonly FieldSpec[] = [
  { name: "n", type: { kind: "integer" }, nullable: true },
  { name: "é", type: { kind: "text" }, nullable: true },
];

/** Two batches, compressed as on the bus, a document, and notes. */
function someFrames(): Frame[] {
  const builder = new BatchBuilder(FIELDS, { dictionaries: true });
  const writer = new FrameWriter({ provider: "VU", requestId: "r", attempt: 1 });
  const frames: Frame[] = [];
  for (const batch of [0, 1]) {
    for (let row = 0; row < 500; row++) builder.append([BigInt(row * batch), row % 7 === 0 ? null : `ß${row % 5}"`]);
    const built = builder.build();
    const start = { arrowSchema: schemaBytes(built.schema), grants: ["secret"], creditQueue: "secret" };
    if (batch === 0) frames.push(writer.start(start));
    frames.push(...batchFrames(writer, built));
  }
  frames.push(...writer.attachment({ name: "summary.json", mediaType: "application/json", data: Buffer.from("[1]") }));
  frames.push(writer.end({ notes: ["a note"] }));
  const recoder = new FrameRecoder(PAYING_RATIO.bus);
  return frames.map((frame) => recoder.recode(frame, true));
}

async function* iterate<Item>(items: Iterable<Item>, fault?: Error): AsyncGenerator<Item> {
  yield* items;
  if (fault !== undefined) throw fault;
}

async function written(frames: AsyncIterable<Frame>): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of answerFrames(frames, HEADING)) pieces.push(piece);
  return Buffer.concat(pieces);
}

function* cut(bytes: Buffer, size: number): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function asJson(frames: AsyncIterable<Frame>, heading = HEADING): Promise<string> {
  let text = "";
  for await (const piece of jsonAnswer(readParts(frames, "VU"), heading)) text += piece;
  return text;
}

test("an answer as frames gives the JSON that its frames give, however its bytes are cut", async () => {
  const frames = someFrames();
  assert.ok(frames.some(({ body }) => body.case === "chunk" && body.value.compression !== ""));
  const expected = await asJson(iterate(frames));
  assert.equal((JSON.parse(expected) as { readonly rows: unknown[] }).rows.length, 1000);
  const bytes = await written(iterate(frames));
  for (const size of [1, 3, 64, bytes.length]) {
    const { heading, frames: read } = await readAnswerFrames("VU", iterate(cut(bytes, size)));
    assert.deepEqual(heading, HEADING);
    assert.equal(await asJson(read, heading), expected);
  }
});

test("of the start only the schema goes out", async () => {
  assert.equal((await written(iterate(someFrames()))).indexOf("secret"), -1);
});

test("a failure before the second frame is thrown, so that the answer has a status", async () => {
  const fault = new AppError("query_invalid", "No.");
  for (const frames of [[], someFrames().slice(0, 1)]) {
    await assert.rejects(answerFrames(iterate(frames, fault), HEADING).next(), fault);
  }
  await assert.rejects(answerFrames(iterate(someFrames().slice(0, 1)), HEADING).next(), { code: "job_failed" });
});

test("a later failure is the last frame, and closes the JSON as it does where the frames themselves are written", async () => {
  const fault = new AppError("job_failed", "The chain was killed.", { details: { container: "sql-query" } });
  const some = someFrames().slice(0, 2);
  const bytes = await written(iterate(some, fault));
  const { frames, heading } = await readAnswerFrames("VU", iterate([bytes]));
  const text = await asJson(frames, heading);
  assert.equal(text, await asJson(iterate(some, fault)));
  const { status, problem } = JSON.parse(text) as { readonly status: string; readonly problem: unknown };
  assert.equal(status, "failed");
  assert.deepEqual(
    Object.entries(problem as object).filter(([name]) => ["code", "party", "container"].includes(name)),
    [
      ["container", "sql-query"],
      ["code", "job_failed"],
      ["party", "VU"],
    ],
  );
});

test("a body that ends within a frame is interrupted, one that is no such answer is refused", async () => {
  const bytes = await written(iterate(someFrames()));
  const { frames } = await readAnswerFrames("VU", iterate([bytes.subarray(0, bytes.length - 1)]));
  await assert.rejects(
    async () => {
      for await (const _frame of frames);
    },
    { code: "stream_interrupted", party: "VU" },
  );
  await assert.rejects(readAnswerFrames("VU", iterate([])), { code: "stream_interrupted", party: "VU" });
  await assert.rejects(readAnswerFrames("VU", iterate([Buffer.from('{"rows":[]}')])), { code: "data_invalid" });
  await assert.rejects(readAnswerFrames("VU", iterate([Buffer.from([1, 0, 0, 0, 0x7b])])), { code: "data_invalid" });
  // A heading, and behind it a byte that begins no field of a frame.
  const { frames: noFrames } = await readAnswerFrames(
    "VU",
    iterate([Buffer.from([2, 0, 0, 0, 0x7b, 0x7d, 1, 0, 0, 0, 0xff])]),
  );
  await assert.rejects(noFrames.next(), { code: "data_invalid" });
});
