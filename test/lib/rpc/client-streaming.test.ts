/** Client streaming between two ends of this process, over real sockets. */
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { create } from "@bufbuild/protobuf";
import { AppError } from "../../../lib/errors.ts";
import { RpcClient } from "../../../lib/rpc/client.ts";
import { MicroserviceService } from "../../../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import { FrameSchema, type Frame } from "../../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { startRpcServer, type RpcServer } from "../../../lib/rpc/server.ts";
import { implement, type CallContext } from "../../../lib/rpc/service.ts";
import { eventually } from "../../support/eventually.ts";
import { healthClient } from "../../support/health-client.ts";

type Process = (frames: AsyncIterable<Frame>, call: CallContext) => Promise<{ rows?: bigint }>;
const METHOD = MicroserviceService.method.process;

async function connect(t: TestContext, process: Process): Promise<{ server: RpcServer; client: RpcClient }> {
  const server = await startRpcServer({ port: 0, implementations: [implement(MicroserviceService, { process })] });
  const client = new RpcClient({ port: server.port, peer: "The test's server" });
  t.after(async () => {
    client.close();
    await server.close(0);
  });
  return { server, client };
}

/** Frames of so many bytes without end; `state` tells how many were made, and whether the source was closed. */
async function* endless(bytes: number, state: { made: number; isClosed: boolean }): AsyncGenerator<Frame> {
  try {
    for (;;) {
      state.made++;
      yield create(FrameSchema, { body: { case: "chunk", value: { data: new Uint8Array(bytes) } } });
    }
  } finally {
    state.isClosed = true;
  }
}

async function* frames(count: number): AsyncGenerator<Frame> {
  for (let index = 0; index < count; index++) yield create(FrameSchema, { sequence: BigInt(index) });
}

async function failureOf(work: Promise<unknown>): Promise<AppError> {
  const error: unknown = await work.then(
    () => assert.fail("it was to fail"),
    (error: unknown) => error,
  );
  assert.ok(error instanceof AppError, String(error));
  return error;
}

const forever = (signal: AbortSignal): Promise<never> =>
  new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason as Error)));

test("all messages arrive in order, and the answer comes back", async (t) => {
  const seen: bigint[] = [];
  const { client } = await connect(t, async (requests) => {
    for await (const frame of requests) seen.push(frame.sequence);
    return { rows: BigInt(seen.length) };
  });
  const answer = await client.stream(METHOD, frames(500));
  assert.equal(answer.rows, 500n);
  assert.deepEqual(
    seen,
    Array.from({ length: 500 }, (_, index) => BigInt(index)),
  );
});

test("a reader that does not read stops the source after a few messages", async (t) => {
  let read: () => void = () => undefined;
  const mayRead = new Promise<void>((resolve) => (read = resolve));
  const { client } = await connect(t, async (requests, call) => {
    let count = 0;
    for await (const _ of requests) {
      if (++count === 1) await mayRead;
      if (count === 200) return {};
    }
    return forever(call.signal);
  });
  const state = { made: 0, isClosed: false };
  const answer = client.stream(METHOD, endless(256 * 1024, state));
  await eventually(() => state.made > 1);
  await isSteady(() => state.made);
  assert.ok(state.made <= 8, `${state.made} messages of 256 KiB were made for a reader that took one`);
  read();
  await answer;
  assert.ok(state.made >= 200);
  assert.ok(state.isClosed);
});

test("a caller that cancels stops its source, and the handler hears of it", async (t) => {
  const handler: { reason?: unknown } = {};
  const { client } = await connect(t, async (requests, call) => {
    call.signal.addEventListener("abort", () => (handler.reason = call.signal.reason as unknown));
    for await (const _ of requests);
    return {};
  });
  const state = { made: 0, isClosed: false };
  const cancel = new AbortController();
  const answer = failureOf(client.stream(METHOD, endless(10, state), { signal: cancel.signal }));
  await eventually(() => state.made > 10);
  cancel.abort(new AppError("agreement_gone", "The agreement went."));
  assert.equal((await answer).code, "agreement_gone");
  await eventually(() => state.isClosed);
  await eventually(() => handler.reason instanceof AppError && handler.reason.code === "cancelled");
});

test("a source that throws cancels the call: its error is the caller's, and the handler stops reading", async (t) => {
  const handler = { isOver: false };
  const { client } = await connect(t, async (requests) => {
    try {
      for await (const _ of requests);
    } finally {
      handler.isOver = true;
    }
    return {};
  });
  async function* failing(): AsyncGenerator<Frame> {
    yield* frames(3);
    throw new AppError("column_unknown", "No such column.");
  }
  assert.equal((await failureOf(client.stream(METHOD, failing()))).code, "column_unknown");
  await eventually(() => handler.isOver);
});

test("a handler's error arrives with code, party, place, details and without stopping to read the stream", async (t) => {
  const { client } = await connect(t, async () => {
    throw new AppError("data_invalid", "Line 7 is broken: „é”.", {
      party: "VU",
      retryable: true,
      place: { file: "a.csv", line: 7 },
      details: { limit: 5 },
    });
  });
  const state = { made: 0, isClosed: false };
  const error = await failureOf(client.stream(METHOD, endless(256 * 1024, state)));
  assert.deepEqual(
    { ...error, message: error.message },
    {
      code: "data_invalid",
      party: "VU",
      retryable: true,
      place: { file: "a.csv", line: 7 },
      details: { limit: 5 },
      name: "AppError",
      message: "Line 7 is broken: „é”.",
    },
  );
  await eventually(() => state.isClosed);
});

test("an error too large for trailers arrives shortened, with its code", async (t) => {
  const { client } = await connect(t, async () => {
    throw new AppError("query_invalid", "x".repeat(100_000), { party: "VU", details: { text: "y".repeat(100_000) } });
  });
  const error = await failureOf(client.stream(METHOD, frames(1)));
  assert.equal(error.code, "query_invalid");
  assert.equal(error.party, "VU");
  assert.ok(error.message.length < 5000);
});

test("a deadline ends caller, source and handler", async (t) => {
  const handler: { reason?: unknown } = {};
  const { client } = await connect(t, async (requests, call) => {
    assert.ok(call.deadlineMs !== undefined);
    call.signal.addEventListener("abort", () => (handler.reason = call.signal.reason as unknown));
    for await (const _ of requests);
    return {};
  });
  const state = { made: 0, isClosed: false };
  // Connected before: the stream reaches the handler within its time.
  await client.ready();
  const error = await failureOf(client.stream(METHOD, endless(10, state), { deadlineMs: Date.now() + 1000 }));
  assert.equal(error.code, "deadline_exceeded");
  await eventually(() => state.isClosed);
  await eventually(() => handler.reason instanceof AppError && handler.reason.code === "deadline_exceeded");
});

test("the other side's death in the middle is job_failed, and names it", async (t) => {
  const { client, server } = await connect(t, async (_requests, call) => forever(call.signal));
  const state = { made: 0, isClosed: false };
  const answer = failureOf(client.stream(METHOD, endless(10, state)));
  await eventually(() => state.made > 3);
  await server.close(0);
  const error = await answer;
  assert.equal(error.code, "job_failed");
  assert.match(error.message, /The test's server/);
  await eventually(() => state.isClosed);
});

test("a client waits for a server that is still starting, and gives up at its limit", async (t) => {
  const first = await startRpcServer({ port: 0, implementations: [] });
  const { port } = first;
  await first.close();
  const client = new RpcClient({ port, peer: "The late one" });
  t.after(() => client.close());
  client.connectAhead();
  const answer = client.stream(METHOD, frames(2));
  const server = await startRpcServer({
    port,
    implementations: [
      implement(MicroserviceService, {
        process: async (requests) => {
          for await (const _ of requests);
          return { rows: 2n };
        },
      }),
    ],
  });
  t.after(() => server.close(0));
  assert.equal((await answer).rows, 2n);

  const state = { made: 0, isClosed: false };
  const lonely = new RpcClient({ port: port === 1 ? 2 : 1, peer: "Nobody", connectLimitMs: 100 });
  t.after(() => lonely.close());
  const error = await failureOf(lonely.stream(METHOD, endless(1, state)));
  assert.equal(error.code, "job_failed");
  assert.match(error.message, /Nobody \(port 1\) did not start listening within 100 ms/);
  assert.equal(state.made, 0);
});

test("trace context goes with the call", async (t) => {
  const trace = { traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", tracestate: "a=b" };
  const seen: unknown[] = [];
  const { client } = await connect(t, async (_requests, call) => {
    seen.push(call.trace);
    return {};
  });
  await client.stream(METHOD, frames(0), { trace });
  assert.deepEqual(seen, [trace]);
});

test("the standard health service answers Check and Watch, and says when the server stops", async (t) => {
  const server = await startRpcServer({
    port: 0,
    implementations: [implement(MicroserviceService, { process: async () => ({}) })],
  });
  const health = healthClient(server.port);
  t.after(async () => {
    health.client.close();
    await server.close(0);
  });
  assert.equal(await health.check(""), 1);
  assert.equal(await health.check("dynamos.v1.MicroserviceService"), 1);
  await assert.rejects(health.check("nobody"), /unknown service/);
  const statuses = health.watch("");
  await eventually(() => statuses.length === 1);
  await server.close();
  assert.deepEqual(statuses, [1, 2]);
});

/** Resolves when a number has not changed over twenty looks. */
async function isSteady(look: () => number): Promise<void> {
  let last = look();
  let same = 0;
  await eventually(() => {
    same = look() === last ? same + 1 : 0;
    last = look();
    return same >= 20;
  });
}
