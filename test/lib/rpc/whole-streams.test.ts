import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { create } from "@bufbuild/protobuf";
import { AppError } from "../../../lib/errors.ts";
import { RpcClient } from "../../../lib/rpc/client.ts";
import { joined } from "../../../lib/rpc/frame-groups.ts";
import { sendFrames } from "../../../lib/rpc/frame-sending.ts";
import { FrameReader, FrameWriter } from "../../../lib/rpc/frames.ts";
import {
  MicroserviceService,
  StreamReceiptSchema,
  type StreamReceipt,
} from "../../../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import type { Frame } from "../../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { startRpcServer, type RpcServer } from "../../../lib/rpc/server.ts";
import { implement, type CallContext } from "../../../lib/rpc/service.ts";
import { SharedStreams, WholeStreams } from "../../../lib/rpc/whole-streams.ts";
import { newTraceContext } from "../../../lib/telemetry/trace-context.ts";
import { eventually } from "../../support/eventually.ts";

type Take = (frames: AsyncIterable<Frame>, context: CallContext) => Promise<StreamReceipt>;

/** A taker of streams as elements of chains with many runs are, and a client of it. */
class Taker {
  readonly whole: WholeStreams;
  readonly client: RpcClient;
  readonly server: RpcServer;
  /** How many came by calls of their own. */
  readonly alone: () => number;

  private constructor(whole: WholeStreams, server: RpcServer, alone: () => number) {
    this.whole = whole;
    this.server = server;
    this.alone = alone;
    this.client = new RpcClient({ port: server.port, peer: "the taker", connectLimitMs: 20_000 });
  }

  static async start(t: TestContext, take: Take, port = 0): Promise<Taker> {
    const whole = new WholeStreams(take);
    let alone = 0;
    const process: Take = (frames, context) => {
      alone += 1;
      return take(frames, context);
    };
    const implementations = [implement(MicroserviceService, { process }), whole.implementation];
    const taker = new Taker(whole, await startRpcServer({ port, implementations }), () => alone);
    t.after(async () => {
      taker.client.close();
      taker.whole.close();
      await taker.server.close(500);
    });
    return taker;
  }
}

function stream(requestId: string, data: Uint8Array = Buffer.from("rows")): Frame[] {
  const writer = new FrameWriter({ provider: "VU", requestId, attempt: 1 });
  return [writer.start({}), ...writer.batch(data, 1), writer.end()];
}

async function* inOrder(frames: readonly Frame[]): AsyncGenerator<Frame> {
  yield* frames;
}

async function readAll(frames: AsyncIterable<Frame>): Promise<{ readonly id: string; readonly bytes: number }> {
  const reader = new FrameReader();
  let id = "";
  let bytes = 0;
  for await (const frame of frames) {
    id = frame.requestId;
    const part = reader.accept(frame);
    if (part?.kind === "batch") bytes += part.bytes.byteLength;
  }
  assert.ok(reader.isEnded);
  return { id, bytes };
}

const receipt = (rows: number): StreamReceipt => create(StreamReceiptSchema, { rows: BigInt(rows), batches: 1n });

test("each stream of a shared call gets its own answer, in whatever order they are ready, and a failure is its own", async (t) => {
  const finish = new Map<string, () => void>();
  const taker = await Taker.start(t, async (frames) => {
    const { id } = await readAll(frames);
    await new Promise<void>((resolve) => finish.set(id, resolve));
    if (id === "2") throw new AppError("query_invalid", "Two is wrong.", { party: "VU", details: { line: 7 } });
    return receipt(Number(id));
  });
  const shared = new SharedStreams(taker.client);
  const answers = ["1", "2", "3"].map((id) => shared.send(joined(stream(id)), {}));
  const failed = assert.rejects(answers[1] as Promise<unknown>, (error) => {
    assert.ok(error instanceof AppError);
    assert.deepEqual([error.code, error.party, error.details], ["query_invalid", "VU", { line: 7 }]);
    return true;
  });
  await eventually(() => finish.size === 3, { describe: "all three to be taken" });
  finish.get("3")?.();
  assert.equal((await answers[2])?.rows, 3n);
  finish.get("2")?.();
  await failed;
  finish.get("1")?.();
  assert.equal((await answers[0])?.rows, 1n);
  assert.equal(taker.alone(), 0);
});

test("deadline and trace of a stream come with it", async (t) => {
  let seen: CallContext | undefined;
  const taker = await Taker.start(t, async (frames, context) => {
    await readAll(frames);
    seen = context;
    return receipt(0);
  });
  const trace = newTraceContext();
  await new SharedStreams(taker.client).send(joined(stream("1")), { deadlineMs: 1_900_000_000_000, trace });
  assert.deepEqual([seen?.deadlineMs, seen?.trace], [1_900_000_000_000, trace]);
});

test("who cancels one stream ends it at the taker and nothing else; who closes the connection ends all", async (t) => {
  const signals = new Map<string, AbortSignal>();
  const taker = await Taker.start(t, async (frames, { signal }) => {
    const { id } = await readAll(frames);
    signals.set(id, signal);
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    throw signal.reason;
  });
  const shared = new SharedStreams(taker.client);
  const cancelling = new AbortController();
  const first = shared.send(joined(stream("1")), { signal: cancelling.signal });
  const second = shared.send(joined(stream("2")), {});
  await eventually(() => signals.size === 2);
  cancelling.abort(new AppError("deadline_exceeded", "Too late."));
  await assert.rejects(first, { code: "deadline_exceeded" });
  await eventually(() => signals.get("1")?.aborted === true, { describe: "the taker to hear of it" });
  assert.equal((signals.get("1")?.reason as AppError).code, "deadline_exceeded");
  assert.equal(signals.get("2")?.aborted, false);
  const closed = assert.rejects(second, { code: "cancelled" });
  taker.client.close();
  await closed;
  await eventually(() => signals.get("2")?.aborted === true);
});

test("where the taker goes away what waits has failed, and the next stream finds the one that is there then", async (t) => {
  let isTaken = false;
  const taker = await Taker.start(t, async (frames) => {
    await readAll(frames);
    isTaken = true;
    return new Promise<never>(() => undefined);
  });
  const shared = new SharedStreams(taker.client);
  const lost = assert.rejects(shared.send(joined(stream("1")), {}), { code: "job_failed" });
  await eventually(() => isTaken);
  await taker.server.close(1);
  await lost;
  await Taker.start(t, async (frames) => receipt((await readAll(frames)).bytes), taker.server.port);
  assert.equal((await shared.send(joined(stream("2")), {})).rows, 4n);
});

test("a taker that closes ends a shared call once what came by it is answered, and its server need not wait longer", async (t) => {
  let finish = (): void => undefined;
  let isTaken = false;
  const taker = await Taker.start(t, async (frames) => {
    await readAll(frames);
    isTaken = true;
    await new Promise<void>((resolve) => (finish = resolve));
    return receipt(5);
  });
  const answer = new SharedStreams(taker.client).send(joined(stream("1")), {});
  await eventually(() => isTaken);
  taker.whole.close();
  let isClosed = false;
  const closed = taker.server.close(60_000).then(() => (isClosed = true));
  assert.equal(isClosed, false);
  finish();
  assert.equal((await answer).rows, 5n);
  await closed;
});

test("frames go by the shared call where they are whole in one message, from the second stream on; else by one of their own", async (t) => {
  const taker = await Taker.start(t, async (frames) => receipt((await readAll(frames)).bytes));
  const send = async (frames: AsyncIterable<Frame>): Promise<bigint> =>
    (await sendFrames(taker.client, MicroserviceService.method.process, frames)).rows;
  assert.equal(await send(inOrder(stream("1"))), 4n);
  assert.equal(taker.alone(), 1);
  assert.equal(await send(inOrder(stream("2"))), 4n);
  assert.equal(await send(inOrder(stream("3"))), 4n);
  assert.equal(taker.alone(), 1);
  assert.equal(await send(inOrder(stream("4", Buffer.alloc(100_000)))), 100_000n);
  assert.equal(taker.alone(), 2);
  const failing = async function* (): AsyncGenerator<Frame> {
    yield* stream("5").slice(0, 1);
    throw new AppError("data_invalid", "The source broke.");
  };
  await assert.rejects(send(failing()), { code: "data_invalid" });
});

test("whoever cancels while the first frame is still to come need not wait for it, and the source is left", async (t) => {
  const taker = await Taker.start(t, async (frames) => receipt((await readAll(frames)).bytes));
  const method = MicroserviceService.method.process;
  await sendFrames(taker.client, method, inOrder(stream("1")));
  let come = (): void => undefined;
  let isLeft = false;
  const slow = async function* (): AsyncGenerator<Frame> {
    try {
      await new Promise<void>((resolve) => (come = resolve));
      yield* stream("2");
    } finally {
      isLeft = true;
    }
  };
  const cancelling = new AbortController();
  const sent = sendFrames(taker.client, method, slow(), { signal: cancelling.signal });
  const rejected = assert.rejects(sent, { code: "cancelled" });
  cancelling.abort(new AppError("cancelled", "Not wanted."));
  await rejected;
  come();
  await eventually(() => isLeft);
});

test("a message with more behind its Start than may follow is refused, and the others of the call go on", async (t) => {
  const taker = await Taker.start(t, async (frames) => receipt(Number((await readAll(frames)).id)));
  const shared = new SharedStreams(taker.client);
  const [start, ...others] = stream("1") as [Frame, ...Frame[]];
  const tooMany = joined([start, ...others, ...others, ...others, ...others]);
  const refused = assert.rejects(shared.send(tooMany, {}), { code: "data_invalid" });
  const good = shared.send(joined(stream("2")), {});
  await refused;
  assert.equal((await good).rows, 2n);
});

test("who cancels a stream while nothing listens yet waits no longer for the call", async () => {
  const client = new RpcClient({ port: 1, peer: "nobody", connectLimitMs: 60_000 });
  const cancelling = new AbortController();
  const sent = assert.rejects(new SharedStreams(client).send(joined(stream("1")), { signal: cancelling.signal }), {
    code: "cancelled",
  });
  cancelling.abort(new AppError("cancelled", "Nobody wants it."));
  await sent;
  client.close();
});
