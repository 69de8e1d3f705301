/**
 * Throughput and latency of the embedded bus between two processes:
 * `node dist/bench/embedded-bus.js [chunks] [chunk bytes] [chunks under way] [sidecar]`. Prints one line of JSON.
 *
 * The publisher keeps at most `chunks under way` unsettled, as credits do between a provider and a receiver. With the word
 * `sidecar` each of the two has a messaging sidecar between itself and the bus (`bench/messaging-sidecar.ts` compares).
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openMessageBus } from "../lib/bus/open.ts";
import { RpcClient, reply } from "../lib/bus/rpc.ts";
import { startSidecar } from "./start-sidecar.ts";

const CREDIT_EVERY = 4;

if (process.send === undefined) await measure();
else await receive(process.argv[2] ?? "", Number(process.argv[3]));

async function measure(): Promise<void> {
  const [chunks = 2000, chunkBytes = 256 * 1024, underWay = 16] = process.argv.slice(2, 5).map(Number);
  const folder = await mkdtemp(join(tmpdir(), "dynamos-bench-"));
  const file = join(folder, "bus.sqlite");
  const direct = `embedded:${file}`;
  const sidecars =
    process.argv[5] === "sidecar"
      ? await Promise.all(["a", "b"].map((name) => startSidecar(direct, folder, name)))
      : [];
  const [ownUrl, otherUrl] = [sidecars[0]?.url ?? direct, sidecars[1]?.url ?? direct];
  const bus = await openMessageBus(ownUrl);
  for (const queue of ["data", "echo"]) await bus.declareQueue(queue, { kind: "run" });
  await bus.declareQueue("credit", { kind: "run" });
  const child = fork(new URL(import.meta.url), [otherUrl, String(chunks)]);
  await once(child, "message");

  let credits = underWay;
  let wake = (): void => undefined;
  const consumer = await bus.consume("credit", async ({ body }) => {
    credits += body[0] ?? 0;
    wake();
    return "accept";
  });
  const body = Buffer.alloc(chunkBytes, 7);
  const done = once(child, "message");
  const start = performance.now();
  for (let sent = 0; sent < chunks; sent += 1) {
    while (credits === 0) await new Promise<void>((resolve) => (wake = resolve));
    credits -= 1;
    void bus.publish("data", { type: "frame", body });
  }
  await done;
  const seconds = (performance.now() - start) / 1000;
  await consumer.close();
  const roundTripsMs = await roundTrips(new RpcClient(bus, { replyQueue: "bench-in-1" }));
  await bus.close();
  const fileBytes = (await stat(file)).size;
  child.send("end");
  await once(child, "exit");
  await Promise.all(sidecars.map((sidecar) => sidecar.stop()));
  await rm(folder, { recursive: true });
  const result = {
    chunks,
    chunkBytes,
    underWay,
    seconds: Number(seconds.toFixed(2)),
    megabytesPerSecond: Number(((chunks * chunkBytes) / 1e6 / seconds).toFixed(1)),
    messagesPerSecond: Math.round(chunks / seconds),
    fileMegabytes: Number((fileBytes / 1e6).toFixed(1)),
    ...roundTripsMs,
  };
  console.log(JSON.stringify(result));
}

async function roundTrips(rpc: RpcClient): Promise<{ roundTripMedianMs: number; roundTripWorstMs: number }> {
  const times: number[] = [];
  for (let call = 0; call < 200; call += 1) {
    const start = performance.now();
    await rpc.call("echo", "credit", Buffer.from("x"));
    times.push(performance.now() - start);
  }
  await rpc.close();
  times.sort((a, b) => a - b);
  return { roundTripMedianMs: Number(times[100]?.toFixed(1)), roundTripWorstMs: Number(times[199]?.toFixed(1)) };
}

async function receive(url: string, chunks: number): Promise<void> {
  const bus = await openMessageBus(url);
  let received = 0;
  await bus.consume("data", async () => {
    received += 1;
    if (received % CREDIT_EVERY === 0)
      void bus.publish("credit", { type: "credit", body: Uint8Array.of(CREDIT_EVERY) });
    if (received === chunks) process.send?.("done");
    return "accept";
  });
  await bus.consume("echo", async (question) => {
    await reply(bus, question, { type: "credit", body: question.body });
    return "accept";
  });
  process.once("message", () => void bus.close().then(() => process.disconnect()));
  process.send?.("ready");
}
