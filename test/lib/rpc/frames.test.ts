import { fromBinary, toBinary } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../lib/errors.ts";
import {
  CHUNK_BYTES,
  FrameOrder,
  FrameReader,
  FrameWriter,
  fromFailureMessage,
  readParts,
  toFailureMessage,
  type StreamPart,
} from "../../../lib/rpc/frames.ts";
import { frameBytes } from "../../../lib/rpc/frame-bytes.ts";
import { FrameSchema, type Frame } from "../../../lib/rpc/gen/dynamos/v1/stream_pb.ts";

const identity = { provider: "VU", requestId: "r", attempt: 1 };
const bytes = (length: number, seed = 1): Uint8Array =>
  Uint8Array.from({ length }, (_, index) => (index * 31 + seed) % 256);

function stream(...batches: readonly Uint8Array[]): Frame[] {
  const writer = new FrameWriter(identity);
  const frames = [writer.start({ arrowSchema: bytes(10) })];
  for (const batch of batches) frames.push(...writer.batch(batch, 5));
  frames.push(writer.end({ withheldGroups: 2 }));
  return frames;
}

function read(frames: readonly Frame[], maxBatchBytes?: number): readonly StreamPart[] {
  const reader = new FrameReader(maxBatchBytes === undefined ? {} : { maxBatchBytes });
  return frames.map((frame) => reader.accept(frame)).filter((part) => part !== undefined);
}

/** A deep enough copy with some fields changed. */
function altered(frame: Frame | undefined, changes: Partial<Frame>): Frame {
  assert.ok(frame);
  return { ...frame, ...changes };
}

function throws(code: string, message: RegExp, work: () => unknown): void {
  assert.throws(work, (error: unknown) => {
    assert.ok(error instanceof AppError);
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  });
}

for (const length of [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 17]) {
  test(`a batch of ${length} bytes comes out as it went in, in chunks of at most 256 KiB`, () => {
    const batch = bytes(length);
    const frames = stream(batch, bytes(3, 2));
    for (const { body } of frames) {
      if (body.case === "chunk") assert.ok(body.value.data.byteLength <= CHUNK_BYTES);
    }
    assert.equal(frames.length, Math.max(1, Math.ceil(length / CHUNK_BYTES)) + 3);
    const parts = read(frames);
    assert.deepEqual(
      parts.map(({ kind }) => kind),
      ["start", "batch", "batch", "end"],
    );
    const [, first, second, end] = parts;
    assert.ok(first?.kind === "batch" && second?.kind === "batch" && end?.kind === "end");
    assert.ok(Buffer.from(first.bytes).equals(batch));
    assert.ok(Buffer.from(second.bytes).equals(bytes(3, 2)));
    assert.equal(end.end.rows, 10n);
    assert.deepEqual(end.notes, { withheldGroups: 2 });
  });
}

test("a frame's bytes are what protobuf-es reads as that frame", () => {
  const frames = [0, 1, 127, 128, 16_383, 16_384, CHUNK_BYTES + 1].flatMap((length) => stream(bytes(length)));
  for (const frame of frames) {
    const read = fromBinary(FrameSchema, frameBytes(frame));
    assert.deepEqual(toBinary(FrameSchema, read), toBinary(FrameSchema, frame));
    assert.equal(frameBytes(frame).byteLength, toBinary(FrameSchema, frame).byteLength);
  }
});

test("an attachment larger than a chunk comes out whole, and does not touch the checksum of the rows", () => {
  const writer = new FrameWriter(identity);
  const data = bytes(CHUNK_BYTES * 2 + 5);
  const attachment = { name: "graph.png", mediaType: "image/png", data };
  const parts = read([writer.start({}), ...writer.attachment(attachment), ...writer.batch(bytes(9), 1), writer.end()]);
  const [, second] = parts;
  assert.ok(second?.kind === "attachment");
  assert.equal(second.name, "graph.png");
  assert.ok(Buffer.from(second.data).equals(data));
  assert.equal(parts.at(-1)?.kind, "end");
});

test("frames that come twice are taken once", () => {
  const frames = stream(bytes(CHUNK_BYTES + 9), bytes(8));
  const twice = frames.flatMap((frame, index) => [frame, frame, ...frames.slice(0, index)]);
  assert.deepEqual(read(twice), read(frames));
});

for (let missing = 0; missing < 5; missing++) {
  test(`a stream without its frame ${missing} is refused`, () => {
    const frames = stream(bytes(CHUNK_BYTES + 9), bytes(8));
    frames.splice(missing, 1);
    const reader = new FrameReader();
    let error: unknown;
    try {
      for (const frame of frames) reader.accept(frame);
    } catch (thrown) {
      error = thrown;
    }
    assert.ok(missing === 4 ? !reader.isEnded : error instanceof AppError && error.code === "job_failed");
  });
}

test("a changed byte is found at the end", () => {
  const frames = stream(bytes(100));
  const chunk = frames[1]?.body;
  assert.ok(chunk?.case === "chunk");
  const data = Uint8Array.from(chunk.value.data);
  data[50] = (data[50] ?? 0) ^ 1;
  frames[1] = altered(frames[1], { body: { case: "chunk", value: { ...chunk.value, data } } });
  throws("job_failed", /checksum/, () => read(frames));
});

test("an end that counts other batches than came is refused", () => {
  const frames = stream(bytes(100));
  const end = frames[2]?.body;
  assert.ok(end?.case === "end");
  frames[2] = altered(frames[2], { body: { case: "end", value: { ...end.value, batches: 7n } } });
  throws("job_failed", /says 7 batches, and 1 came/, () => read(frames));
});

test("frames in an order that makes no sense are refused", () => {
  const [start, first, second, end] = stream(bytes(CHUNK_BYTES + 1));
  const at = (frame: Frame | undefined, sequence: bigint): Frame => altered(frame, { sequence });
  throws("job_failed", /does not belong there/, () => read([at(first, 0n)]));
  throws("job_failed", /does not belong there/, () => read([at(start, 0n), at(start, 1n)]));
  throws("job_failed", /in the middle of a chunk/, () => read([at(start, 0n), at(first, 1n), at(end, 2n)]));
  throws("job_failed", /does not belong there/, () =>
    read([start, first, second, end, at(end, 4n)].map((f, i) => at(f, BigInt(i)))),
  );
  throws("job_failed", /unknown kind/, () =>
    read([at(start, 0n), altered(start, { sequence: 1n, body: { case: undefined } })]),
  );
});

test("a batch above the limit is refused before it is put together", () => {
  const frames = stream(bytes(CHUNK_BYTES * 4));
  throws("batch_too_large", /more than 600000 bytes/, () => read(frames, 600_000));
});

test("a failure frame is thrown as the error it carries, wherever it comes", () => {
  const failure = new AppError("time_limit_exceeded", "Too slow: 5 s.", {
    party: "UVA",
    retryable: true,
    place: { line: 3 },
    details: { limit: 5 },
  });
  const writer = new FrameWriter(identity);
  const start = writer.start({});
  const frame = writer.failure(failure);
  for (const frames of [[frame], [start, frame], [start, altered(frame, { sequence: 99n })]]) {
    assert.throws(
      () => read(frames),
      (error: unknown) => {
        assert.ok(error instanceof AppError);
        assert.deepEqual({ ...error, message: error.message }, { ...failure, message: failure.message });
        return true;
      },
    );
  }
  assert.equal(fromFailureMessage({ ...toFailureMessage(failure), code: "from_the_future" }).code, "internal");
});

test("a source that just ends is a failure that names its provider", async () => {
  async function* cutShort(): AsyncGenerator<Frame> {
    yield* stream(bytes(10)).slice(0, 2);
  }
  const kinds: string[] = [];
  await assert.rejects(
    async () => {
      for await (const part of readParts(cutShort(), "VU")) kinds.push(part.kind);
    },
    (error: unknown) => error instanceof AppError && error.code === "job_failed" && /stream of VU/.test(error.message),
  );
  assert.deepEqual(kinds, ["start", "batch"]);
});

test("order: a newer attempt is told from an older one and from a repetition", () => {
  const order = new FrameOrder();
  const [start, chunk] = stream(bytes(3));
  const of = (frame: Frame | undefined, attempt: number): Frame => altered(frame, { attempt });
  assert.equal(order.judge(of(start, 2)), "next");
  assert.equal(order.judge(of(chunk, 2)), "next");
  assert.equal(order.judge(of(start, 1)), "stale");
  assert.equal(order.judge(of(start, 2)), "duplicate");
  assert.equal(order.judge(of(start, 3)), "newAttempt");
  assert.equal(order.judge(of(chunk, 2)), "stale");
  assert.equal(order.judge(of(chunk, 3)), "next");
  throws("job_failed", /frame 0 is missing/, () => order.judge(of(chunk, 4)));
});
