/**
 * One hop of client streaming between two processes on this machine: chunks of 256 KiB through `lib/rpc` (frames, checksum,
 * one message under way), beside the same bytes through plain grpc-js. Prints MiB/s and the CPU time of both processes.
 *
 *     node dist/bench/rpc-hop.js [chunks]
 */
import { Client, credentials, Metadata, Server, ServerCredentials } from "@grpc/grpc-js";
import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { RpcClient } from "../lib/rpc/client.ts";
import { CHUNK_BYTES, FrameReader, FrameWriter } from "../lib/rpc/frames.ts";
import { MicroserviceService } from "../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import type { Frame } from "../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { startRpcServer } from "../lib/rpc/server.ts";
import { implement } from "../lib/rpc/service.ts";

const RAW_PATH = "/bench.Raw/Send";
const identity = (bytes: Buffer): Buffer => bytes;

/** The receiving process: both servers; sends their ports, and its CPU time when asked. */
async function receive(): Promise<void> {
  const framed = await startRpcServer({
    port: 0,
    implementations: [
      implement(MicroserviceService, {
        process: async (frames) => {
          const reader = new FrameReader();
          for await (const frame of frames) reader.accept(frame);
          return {};
        },
      }),
    ],
  });
  const raw = new Server();
  raw.register(
    RAW_PATH,
    (call: NodeJS.ReadableStream, callback: (error: null, answer: Buffer) => void) => {
      call.on("data", () => undefined);
      call.on("end", () => callback(null, Buffer.alloc(0)));
    },
    identity,
    identity,
    "clientStream",
  );
  const rawPort = await new Promise<number>((resolve, reject) => {
    raw.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) =>
      error ? reject(error) : resolve(port),
    );
  });
  process.on("message", () => process.send?.({ cpu: process.cpuUsage() }));
  process.send?.({ framedPort: framed.port, rawPort });
}

async function* frames(chunks: number): AsyncGenerator<Frame> {
  const writer = new FrameWriter({ provider: "VU", requestId: "r", attempt: 1 });
  const batch = new Uint8Array(CHUNK_BYTES);
  yield writer.start({});
  for (let index = 0; index < chunks; index++) yield* writer.batch(batch, 1);
  yield writer.end();
}

async function sendRaw(port: number, chunks: number): Promise<void> {
  const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
  const data = Buffer.alloc(CHUNK_BYTES);
  await new Promise<void>((resolve, reject) => {
    const call = client.makeClientStreamRequest(RAW_PATH, identity, identity, new Metadata(), (error) =>
      error ? reject(error) : resolve(),
    );
    let sent = 0;
    const write = (): void => {
      while (sent < chunks) {
        sent++;
        if (!call.write(data)) return void call.once("drain", write);
      }
      call.end();
    };
    write();
  });
  client.close();
}

async function main(): Promise<void> {
  const chunks = Number(process.argv[2] ?? 1000);
  const child = fork(fileURLToPath(import.meta.url), ["receive"]);
  const [ports] = (await once(child, "message")) as [{ framedPort: number; rawPort: number }];
  const childCpu = async (): Promise<number> => {
    child.send("cpu");
    const [{ cpu }] = (await once(child, "message")) as [{ cpu: NodeJS.CpuUsage }];
    return cpu.user + cpu.system;
  };
  const measure = async (name: string, work: () => Promise<unknown>): Promise<void> => {
    const before = [process.cpuUsage(), await childCpu()] as const;
    const start = performance.now();
    await work();
    const seconds = (performance.now() - start) / 1000;
    const own = process.cpuUsage(before[0]);
    const mib = (chunks * CHUNK_BYTES) / 1024 ** 2;
    const cpuSeconds = (own.user + own.system + (await childCpu()) - before[1]) / 1e6;
    console.log(
      `${name.padEnd(12)} ${(mib / seconds).toFixed(0).padStart(6)} MiB/s  ${((cpuSeconds / mib) * 1000).toFixed(2)} ms CPU per MiB`,
    );
  };
  const client = new RpcClient({ port: ports.framedPort, peer: "The bench's server" });
  for (let round = 0; round < 3; round++) {
    await measure("grpc-js", () => sendRaw(ports.rawPort, chunks));
    await measure("lib/rpc", () => client.stream(MicroserviceService.method.process, frames(chunks)));
  }
  client.close();
  child.kill();
}

await (process.argv[2] === "receive" ? receive() : main());
