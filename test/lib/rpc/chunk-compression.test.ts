import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { deflateRawSync } from "node:zlib";
import { create } from "@bufbuild/protobuf";
import { Server, ServerCredentials } from "@grpc/grpc-js";
import fc from "fast-check";
import { AppError } from "../../../lib/errors.ts";
import { chunkContent, ChunkCompressor, DEFLATE_RAW, PAYING_RATIO } from "../../../lib/rpc/chunk-compression.ts";
import { RpcClient } from "../../../lib/rpc/client.ts";
import { frameBytes } from "../../../lib/rpc/frame-bytes.ts";
import { FrameRecoder } from "../../../lib/rpc/frame-recoding.ts";
import { sendFrames, type SendOptions } from "../../../lib/rpc/frame-sending.ts";
import { CHUNK_BYTES, FrameReader, FrameWriter, readParts } from "../../../lib/rpc/frames.ts";
import { MicroserviceService, StreamReceiptSchema } from "../../../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import { ChunkSchema, FrameSchema, type Chunk, type Frame } from "../../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { startRpcServer } from "../../../lib/rpc/server.ts";
import { implement, methodDefinition } from "../../../lib/rpc/service.ts";

const ALWAYS = 0;

function stream(batches: readonly Uint8Array[]): Frame[] {
  const writer = new FrameWriter({ provider: "VU", requestId: "r", attempt: 1 });
  return [writer.start({}), ...batches.flatMap((batch) => [...writer.batch(batch, 1)]), writer.end()];
}

function recoded(frames: readonly Frame[], mayCompress: boolean, ratio: number = ALWAYS): Frame[] {
  const recoder = new FrameRecoder(ratio);
  return frames.map((frame) => recoder.recode(frame, mayCompress));
}

function batchesOf(frames: readonly Frame[]): Buffer[] {
  const reader = new FrameReader();
  const parts = frames.map((frame) => reader.accept(frame)).filter((part) => part !== undefined);
  assert.ok(reader.isEnded);
  return parts.flatMap((part) => (part.kind === "batch" ? [Buffer.from(part.bytes)] : []));
}

function chunksOf(frames: readonly Frame[]): Chunk[] {
  return frames.flatMap(({ body }) => (body.case === "chunk" ? [body.value] : []));
}

function invalid(message: RegExp, work: () => unknown): void {
  assert.throws(work, (error: unknown) => {
    assert.ok(error instanceof AppError);
    assert.equal(error.code, "data_invalid");
    assert.match(error.message, message);
    return true;
  });
}

const repetitive = (length: number): Uint8Array => Uint8Array.from({ length }, (_, index) => index % 7);

test("whatever goes in compressed comes out as it was, and again when it is made plain for a receiver on the way", () => {
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 2000 }),
    fc.nat(2 * CHUNK_BYTES + 9).map(repetitive),
    fc.nat(2 * CHUNK_BYTES + 9).map((length) => new Uint8Array(randomBytes(length))),
  );
  fc.assert(
    fc.property(fc.array(bytes, { maxLength: 4 }), fc.constantFrom(ALWAYS, 1.5, 4), (batches, ratio) => {
      const plain = stream(batches);
      const compressed = recoded(plain, true, ratio);
      assert.deepEqual(
        batchesOf(compressed),
        batches.map((batch) => Buffer.from(batch)),
      );
      assert.deepEqual(
        recoded(compressed, false).map((frame) => frameBytes(frame)),
        plain.map((frame) => frameBytes(frame)),
      );
    }),
    { numRuns: 60 },
  );
});

test("a chunk is compressed where that pays, and one that does not pay is tried ever more seldom", () => {
  const [compressed] = chunksOf(recoded(stream([repetitive(CHUNK_BYTES)]), true, PAYING_RATIO.hop));
  assert.ok(compressed !== undefined && compressed.data.byteLength < CHUNK_BYTES / 50);
  const compressor = new ChunkCompressor(PAYING_RATIO.bus);
  const noise = new Uint8Array(randomBytes(1000));
  for (const skipped of [1, 2, 4, 8, 16, 32, 64, 64]) {
    assert.equal(compressor.compress(noise), undefined);
    for (let chunk = 0; chunk < skipped; chunk++) assert.equal(compressor.compress(repetitive(1000)), undefined);
  }
  assert.ok(compressor.compress(repetitive(1000)));
});

test("after noise a sample tells whether a chunk is worth a trial, wherever in it the noise is", () => {
  const noise = new Uint8Array(randomBytes(CHUNK_BYTES));
  const half = (first: Uint8Array, second: Uint8Array): Uint8Array =>
    Buffer.concat([first.subarray(0, CHUNK_BYTES / 2), second.subarray(0, CHUNK_BYTES / 2)]);
  const plain = repetitive(CHUNK_BYTES);
  for (const worthIt of [plain, half(plain, noise), half(noise, plain)]) {
    const compressor = new ChunkCompressor(PAYING_RATIO.bus);
    for (let trial = 0; trial < 3; trial++) {
      assert.equal(compressor.compress(noise), undefined);
      for (let skipped = 0; skipped < 2 ** trial; skipped++) assert.equal(compressor.compress(plain), undefined);
    }
    const compressed = compressor.compress(worthIt);
    assert.ok(compressed !== undefined && compressed.data.byteLength < 0.6 * CHUNK_BYTES);
  }
});

test("a compressed chunk that becomes more than it says is refused before it takes the memory", () => {
  const bomb = deflateRawSync(Buffer.alloc(100 * 1024 * 1024));
  const before = process.memoryUsage().arrayBuffers;
  const chunk = { data: bomb, compression: DEFLATE_RAW, uncompressedBytes: CHUNK_BYTES };
  invalid(/becomes more than the 262144 bytes it says/, () => chunkContent(chunk, CHUNK_BYTES));
  assert.ok(process.memoryUsage().arrayBuffers - before < 4 * 1024 * 1024);
  const honest = { ...chunk, uncompressedBytes: 100 * 1024 * 1024 };
  invalid(/the limit is 262144/, () => chunkContent(honest, CHUNK_BYTES));
});

test("a compressed chunk that is damaged, cut off, of another size or of an unknown compression is data_invalid", () => {
  const data = deflateRawSync(repetitive(5000));
  const chunk = { data, compression: DEFLATE_RAW, uncompressedBytes: 5000 };
  assert.equal(chunkContent(chunk, CHUNK_BYTES).byteLength, 5000);
  invalid(/damaged/, () => chunkContent({ ...chunk, data: data.subarray(0, -3) }, CHUNK_BYTES));
  invalid(/damaged/, () => chunkContent({ ...chunk, data: Buffer.alloc(50, 255) }, CHUNK_BYTES));
  invalid(/damaged/, () => chunkContent({ ...chunk, data: Buffer.alloc(0) }, CHUNK_BYTES));
  invalid(/became 5000 bytes, but says 5001/, () => chunkContent({ ...chunk, uncompressedBytes: 5001 }, CHUNK_BYTES));
  invalid(/"zstd" is not known/, () => chunkContent({ ...chunk, compression: "zstd" }, CHUNK_BYTES));
});

test("a byte that changed on the way is found behind whoever compresses or decompresses, too", () => {
  for (const mayCompress of [true, false]) {
    const frames = recoded(stream([repetitive(9000), repetitive(100)]), !mayCompress);
    const [chunk] = chunksOf(frames);
    assert.ok(chunk);
    const place = frames.findIndex(({ body }) => body.case === "chunk");
    const end = frames.at(-1);
    assert.ok(end?.body.case === "end");
    // As if a relay had taken a stream whose checksum does not fit.
    const wrongEnd = {
      ...end,
      body: { ...end.body, value: { ...end.body.value, checksum: end.body.value.checksum ^ 1 } },
    };
    const damaged = [...frames.slice(0, -1), wrongEnd];
    assert.ok(place > 0);
    assert.throws(() => batchesOf(recoded(damaged, mayCompress)), /checksum/);
  }
});

/** Takes one stream at a server of ours. */
async function takenByOurs(frames: readonly Frame[]): Promise<Frame[]> {
  const taken: Frame[] = [];
  const process = async (incoming: AsyncIterable<Frame>): Promise<object> => {
    for await (const frame of incoming) taken.push(frame);
    return {};
  };
  const server = await startRpcServer({ port: 0, implementations: [implement(MicroserviceService, { process })] });
  // It says what it understands, however long it takes it to.
  await sendTo(server.port, frames, { acceptanceWaitMs: 20_000 });
  await server.close();
  return taken;
}

/** Takes one stream at a server of grpc-js alone, as another language's would be: it says nothing before its answer. */
async function takenByAnother(frames: readonly Frame[]): Promise<Frame[]> {
  const taken: Frame[] = [];
  const method = methodDefinition(MicroserviceService.method.process);
  const server = new Server();
  server.register(
    method.path,
    (call: NodeJS.ReadableStream, answer: (error: null, value: unknown) => void) => {
      call.on("data", (frame: unknown) => taken.push(frame as Frame));
      call.on("end", () => answer(null, create(StreamReceiptSchema)));
    },
    method.responseSerialize as never,
    method.requestDeserialize as never,
    "clientStream",
  );
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    );
  });
  await sendTo(port, frames);
  server.forceShutdown();
  return taken;
}

async function sendTo(port: number, frames: readonly Frame[], options: SendOptions = {}): Promise<void> {
  const client = new RpcClient({ port, peer: "the server" });
  const source = async function* (): AsyncGenerator<Frame> {
    yield* frames;
  };
  await sendFrames(client, MicroserviceService.method.process, source(), options);
  client.close();
}

test("a receiver of ours gets compressed chunks; one that does not say that it understands them gets plain ones", async () => {
  const batches = [repetitive(CHUNK_BYTES + 5), repetitive(40_000)];
  const plain = stream(batches);
  const wanted = batches.map((batch) => Buffer.from(batch));
  const ours = await takenByOurs(plain);
  assert.deepEqual(
    chunksOf(ours).map(({ compression }) => compression),
    [DEFLATE_RAW, "", DEFLATE_RAW],
  );
  assert.deepEqual(batchesOf(ours), wanted);
  for (const sent of [plain, recoded(plain, true)]) {
    const others = await takenByAnother(sent);
    assert.ok(chunksOf(others).every(({ compression }) => compression === ""));
    assert.deepEqual(batchesOf(others), wanted);
  }
});

test("a damaged chunk fails the stream as a reader sees it", async () => {
  const frames = stream([repetitive(9000)]).map((frame) =>
    frame.body.case === "chunk"
      ? create(FrameSchema, {
          ...frame,
          body: {
            case: "chunk",
            value: create(ChunkSchema, { data: Buffer.alloc(9), compression: DEFLATE_RAW, uncompressedBytes: 9000 }),
          },
        })
      : frame,
  );
  const source = async function* (): AsyncGenerator<Frame> {
    yield* frames;
  };
  await assert.rejects(
    async () => {
      for await (const part of readParts(source(), "VU")) assert.notEqual(part.kind, "batch");
    },
    (error: unknown) => error instanceof AppError && error.code === "data_invalid",
  );
});
