import assert from "node:assert/strict";
import { test } from "node:test";
import { BatchBuilder } from "../../../lib/data/batch-builder.ts";
import { columnReader } from "../../../lib/data/column-reader.ts";
import { PAYING_RATIO } from "../../../lib/rpc/chunk-compression.ts";
import { FrameRecoder } from "../../../lib/rpc/frame-recoding.ts";
import { FrameWriter } from "../../../lib/rpc/frames.ts";
import type { Chunk, Frame } from "../../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { batchFrames, readRecordBatches, schemaBytes, unchangedBatchFrames } from "../../../lib/rpc/record-batches.ts";

const IDENTITY = { provider: "VU", requestId: "r", attempt: 1 };

/** Batches of so many rows each, with a text that repeats. */
function stream(...sizes: readonly number[]): Frame[] {
  const builder = new BatchBuilder([{ name: "t", type: { kind: "text" }, nullable: true }], { dictionaries: true });
  const writer = new FrameWriter(IDENTITY);
  const frames: Frame[] = [];
  for (const rows of sizes) {
    for (let row = 0; row < rows; row++) builder.append([`text ${String(row % 9)}`]);
    const batch = builder.build();
    if (frames.length === 0) frames.push(writer.start({ arrowSchema: schemaBytes(batch.schema) }));
    frames.push(...batchFrames(writer, batch));
  }
  return [...frames, writer.end()];
}

function compressed(frames: readonly Frame[]): Frame[] {
  const recoder = new FrameRecoder(PAYING_RATIO.bus);
  return frames.map((frame) => recoder.recode(frame, true));
}

async function* iterate<Item>(items: readonly Item[]): AsyncGenerator<Item> {
  yield* items;
}

/** What who passes on every batch sends. */
async function passedOn(frames: readonly Frame[], pass: typeof unchangedBatchFrames): Promise<Frame[]> {
  const writer = new FrameWriter(IDENTITY);
  const sent: Frame[] = [];
  for await (const part of readRecordBatches(iterate(frames), "VU")) {
    if (part.kind === "start" && part.schema) sent.push(writer.start({ arrowSchema: schemaBytes(part.schema) }));
    if (part.kind === "batch") sent.push(...pass(writer, part.batch));
    if (part.kind === "end") sent.push(writer.end());
  }
  return sent;
}

function chunksOf(frames: readonly Frame[]): Chunk[] {
  return frames.flatMap(({ body }) => (body.case === "chunk" ? [body.value] : []));
}

async function textsOf(frames: readonly Frame[]): Promise<unknown[]> {
  const texts: unknown[] = [];
  for await (const part of readRecordBatches(iterate(frames), "VU")) {
    if (part.kind !== "batch") continue;
    const reader = columnReader(part.batch, 0);
    for (let row = 0; row < part.batch.numRows; row++) texts.push(reader.get(row));
  }
  return texts;
}

test("a batch that is passed on unchanged goes on as it came, compressed, plain or in several chunks", async () => {
  // The last takes more than a chunk.
  const plain = stream(500, 10, 100_000);
  for (const frames of [plain, compressed(plain)]) {
    const sent = await passedOn(frames, unchangedBatchFrames);
    assert.deepEqual(await textsOf(sent), await textsOf(plain));
    for (const [index, chunk] of chunksOf(sent).slice(0, 2).entries()) {
      const came = chunksOf(frames)[index];
      assert.equal(chunk.compression, came?.compression);
      assert.ok(Buffer.from(chunk.data).equals(came?.data ?? new Uint8Array()));
    }
  }
  assert.notEqual(chunksOf(await passedOn(compressed(plain), unchangedBatchFrames))[0]?.compression, "");
});

test("a batch of which nobody says that it is unchanged is written anew, with what was changed in place", async () => {
  const frames = compressed(stream(500));
  const sent = await passedOn(frames, (writer, batch) => {
    (batch.data.children[0]?.values as Int32Array).fill(3);
    return batchFrames(writer, batch);
  });
  assert.deepEqual([...new Set(await textsOf(sent))], ["text 3"]);
});
