/**
 * One hop of a chain between two processes, beside plain grpc-js with the same bytes: frames with checksums, compressed where it
 * pays, and one message under way, as elements of a chain send them (`lib/rpc/frame-sending.ts`); and the same with Arrow batches
 * that are encoded before and decoded behind. `node dist/bench/hop.js receive` is the other process.
 */
import { Client, credentials, Metadata, Server, ServerCredentials } from "@grpc/grpc-js";
import { fork } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { RecordBatch } from "apache-arrow";
import { BatchBuilder } from "../lib/data/batch-builder.ts";
import { encodeBatch } from "../lib/data/ipc.ts";
import type { RpcAddress } from "../lib/rpc/address.ts";
import { RpcClient } from "../lib/rpc/client.ts";
import { sendFrames } from "../lib/rpc/frame-sending.ts";
import { CHUNK_BYTES, FrameReader, FrameWriter } from "../lib/rpc/frames.ts";
import { MicroserviceService } from "../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import type { Frame } from "../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { batchFrames, readRecordBatches, schemaBytes } from "../lib/rpc/record-batches.ts";
import { startRpcServer } from "../lib/rpc/server.ts";
import { implement } from "../lib/rpc/service.ts";
import { secondsOf } from "./measured.ts";
import { readings } from "./readings-data.ts";

const RAW_PATH = "/bench.Raw/Send";
const PROVIDER = "VU";
/** About as many as fill a chunk. */
const BATCH_ROWS = 3_500;
const identity = (bytes: Buffer): Buffer => bytes;

/** Both ends of a hop; each function sends so many chunks, and resolves with the seconds that it took. */
export interface Hop {
  /** Bytes of one chunk, and of one batch of {@link Hop.arrow} as it is sent. */
  readonly chunkBytes: number;
  readonly batchBytes: number;
  readonly raw: (chunks: number) => Promise<number>;
  readonly framed: (chunks: number) => Promise<number>;
  /** As {@link Hop.framed}, by a UNIX socket instead of TCP. */
  readonly socketFile: (chunks: number) => Promise<number>;
  readonly arrow: (batches: number) => Promise<number>;
  close(): void;
}

/** Starts the other process and connects. */
export async function openHop(): Promise<Hop> {
  const folder = await mkdtemp(join(tmpdir(), "dynamos-hop-"));
  const socketPath = join(folder, "hop.sock");
  const child = fork(fileURLToPath(import.meta.url), ["receive", socketPath]);
  const [ports] = (await once(child, "message")) as [{ framed: number; arrow: number; raw: number }];
  const peer = "The measurement's other process";
  const [framed, arrow] = [ports.framed, ports.arrow].map((port) => new RpcClient({ port, peer }));
  const socketFile = new RpcClient({ socketPath, peer });
  const raw = new Client(`127.0.0.1:${String(ports.raw)}`, credentials.createInsecure());
  const batch = readingsBatch();
  const send = (client: RpcClient | undefined, frames: AsyncIterable<Frame>): Promise<number> =>
    secondsOf(async () => client && sendFrames(client, MicroserviceService.method.process, frames));
  return {
    chunkBytes: CHUNK_BYTES,
    batchBytes: encodeBatch(batch).byteLength,
    raw: (chunks) => secondsOf(() => sendRaw(raw, chunks)),
    framed: (chunks) => send(framed, frames(chunks)),
    socketFile: (chunks) => send(socketFile, frames(chunks)),
    arrow: (batches) => send(arrow, arrowFrames(batch, batches)),
    close: () => {
      for (const client of [framed, arrow, socketFile, raw]) client?.close();
      child.kill();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** The receiving process: one server for each; tells their ports. */
async function receive(socketPath: string): Promise<void> {
  const takeFrames = async (frames: AsyncIterable<Frame>): Promise<void> => {
    const reader = new FrameReader();
    for await (const frame of frames) reader.accept(frame);
  };
  const framed = await serve(takeFrames);
  await serve(takeFrames, { socketPath });
  const arrow = await serve(async (frames) => {
    let rows = 0;
    for await (const part of readRecordBatches(frames, PROVIDER)) if (part.kind === "batch") rows += part.batch.numRows;
    if (rows === 0) throw new Error("No rows came.");
  });
  process.send?.({ framed, arrow, raw: await serveRaw() });
}

/** Resolves with the port; with 0 for a socket file. */
async function serve(
  take: (frames: AsyncIterable<Frame>) => Promise<void>,
  address: RpcAddress = { port: 0 },
): Promise<number> {
  const server = await startRpcServer({
    ...address,
    implementations: [
      implement(MicroserviceService, {
        process: async (frames) => {
          await take(frames);
          return {};
        },
      }),
    ],
  });
  return server.port;
}

function serveRaw(): Promise<number> {
  const server = new Server();
  const take = (call: NodeJS.ReadableStream, answer: (error: null, bytes: Buffer) => void): void => {
    call.on("data", () => undefined);
    call.on("end", () => answer(null, Buffer.alloc(0)));
  };
  server.register(RAW_PATH, take, identity, identity, "clientStream");
  return new Promise((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) =>
      error ? reject(error) : resolve(port),
    );
  });
}

function sendRaw(client: Client, chunks: number): Promise<void> {
  const data = randomBytes(CHUNK_BYTES);
  return new Promise((resolve, reject) => {
    const call = client.makeClientStreamRequest(RAW_PATH, identity, identity, new Metadata(), (error) =>
      error ? reject(error) : resolve(),
    );
    let sent = 0;
    const write = (): void => {
      while (sent < chunks) {
        sent += 1;
        if (!call.write(data)) return void call.once("drain", write);
      }
      call.end();
    };
    write();
  });
}

async function* frames(chunks: number): AsyncGenerator<Frame> {
  const writer = new FrameWriter({ provider: PROVIDER, requestId: "r", attempt: 1 });
  const data = randomBytes(CHUNK_BYTES);
  yield writer.start({});
  for (let index = 0; index < chunks; index += 1) yield* writer.batch(data, 1);
  yield writer.end();
}

async function* arrowFrames(batch: RecordBatch, batches: number): AsyncGenerator<Frame> {
  const writer = new FrameWriter({ provider: PROVIDER, requestId: "r", attempt: 1 });
  yield writer.start({ arrowSchema: schemaBytes(batch.schema) });
  for (let index = 0; index < batches; index += 1) yield* batchFrames(writer, batch);
  yield writer.end();
}

/** A batch as queries give them: whole numbers, floats, decimals, dates, texts, and nulls. */
export function readingsBatch(rows = BATCH_ROWS): RecordBatch {
  const builder = new BatchBuilder([
    { name: "id", type: { kind: "integer" }, nullable: false },
    { name: "level", type: { kind: "float" }, nullable: true },
    { name: "amount", type: { kind: "decimal", precision: 12, scale: 2 }, nullable: true },
    { name: "day", type: { kind: "date" }, nullable: true },
    { name: "station", type: { kind: "text" }, nullable: true },
    { name: "code", type: { kind: "integer" }, nullable: true },
  ]);
  for (const { id, level, amountCents, day, station, code } of readings({ first: 0, count: rows, seed: 1 })) {
    const [amount, whole] = [amountCents, code].map((value) => (value === null ? null : BigInt(value)));
    builder.append([id, level, amount ?? null, day, station, whole ?? null]);
  }
  return builder.build();
}

if (process.argv[2] === "receive" && process.argv[1] === fileURLToPath(import.meta.url))
  await receive(process.argv[3] ?? "");
