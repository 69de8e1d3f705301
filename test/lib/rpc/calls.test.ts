/** Calls with one request, with a stream of answers, and with streams both ways, between two ends of this process. */
import assert from "node:assert/strict";
import { existsSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { once } from "node:events";
import { spawn } from "node:child_process";
import { test, type TestContext } from "node:test";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { AppError } from "../../../lib/errors.ts";
import { formatRpcAddress, parseRpcAddress, type RpcAddress } from "../../../lib/rpc/address.ts";
import { RpcClient } from "../../../lib/rpc/client.ts";
import {
  ConsumeRequestSchema,
  MessagingService,
  type ConsumeRequest,
  type ConsumeResponseSchema,
  type DeadLettersResponseSchema,
} from "../../../lib/rpc/gen/dynamos/v1/messaging_pb.ts";
import { startRpcServer, type RpcServer } from "../../../lib/rpc/server.ts";
import { implement, type CallContext } from "../../../lib/rpc/service.ts";
import { withCode } from "../../support/bus.ts";
import { eventually } from "../../support/eventually.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

/** A service with methods of each kind; a test brings those that it calls. */
interface Handlers {
  readonly ping?: (call: CallContext) => Promise<object>;
  readonly deadLetters?: (call: CallContext) => AsyncIterable<MessageInitShape<typeof DeadLettersResponseSchema>>;
  readonly consume?: (
    requests: AsyncIterable<ConsumeRequest>,
    call: CallContext,
  ) => AsyncIterable<MessageInitShape<typeof ConsumeResponseSchema>>;
}

async function connect(
  t: TestContext,
  handlers: Handlers,
  address: RpcAddress = { port: 0 },
): Promise<{ server: RpcServer; client: RpcClient }> {
  const unused = (): never => assert.fail("not called in this test");
  const server = await startRpcServer({
    ...address,
    implementations: [
      implement(MessagingService, {
        declareQueue: unused,
        deleteQueue: unused,
        publish: unused,
        queueStatus: unused,
        replayDeadLetter: unused,
        ping: (_, call) => (handlers.ping ?? unused)(call),
        deadLetters: (_, call) => (handlers.deadLetters ?? unused)(call),
        consume: handlers.consume ?? unused,
      }),
    ],
  });
  const client = new RpcClient({ ...server.address, peer: "The test's server" });
  t.after(async () => {
    client.close();
    await server.close(0);
  });
  return { server, client };
}

const { method } = MessagingService;

/** Resolves, with what the signal was aborted with, when it is. */
const abortOf = (signal: AbortSignal): Promise<unknown> =>
  new Promise((resolve) => signal.addEventListener("abort", () => resolve(signal.reason)));

test("a request is answered, or fails as the handler did", async (t) => {
  const answers = [async () => ({}), () => Promise.reject(new AppError("conflict", "Another one.", { party: "VU" }))];
  const { client } = await connect(t, { ping: () => answers.shift()!() });
  assert.equal((await client.unary(method.ping, {})).$typeName, "dynamos.v1.PingResponse");
  await assert.rejects(client.unary(method.ping, {}), (error) => {
    assert.ok(error instanceof AppError && error.party === "VU");
    return withCode("conflict")(error);
  });
});

test("a request's deadline and its caller's cancel end it at both sides", async (t) => {
  const reasons: unknown[] = [];
  const { client } = await connect(t, {
    ping: async ({ signal }) => {
      reasons.push(await abortOf(signal));
      return {};
    },
  });
  // Connected before: the request reaches the other side within its time.
  await client.ready();
  await assert.rejects(client.unary(method.ping, {}, { deadlineMs: Date.now() + 1000 }), withCode("deadline_exceeded"));
  const cancel = new AbortController();
  const called = client.unary(method.ping, {}, { signal: cancel.signal });
  setImmediate(() => cancel.abort(new AppError("agreement_gone", "It went.")));
  await assert.rejects(called, withCode("agreement_gone"));
  await eventually(() => reasons.length === 2);
  assert.ok(reasons.every((reason) => reason instanceof AppError));
  assert.deepEqual(
    reasons.map((reason) => reason.code),
    ["deadline_exceeded", "cancelled"],
  );
});

/** Answers of so many bytes without end; `state` tells how many were asked for, and whether it was left. */
async function* endless(bytes: number, state: { made: number; isLeft: boolean }) {
  try {
    for (;;) yield { id: `${++state.made}`, message: { body: new Uint8Array(bytes) } };
  } finally {
    state.isLeft = true;
  }
}

test("a stream of answers arrives in order, and what its handler throws ends it", async (t) => {
  const { client } = await connect(t, {
    async *deadLetters() {
      for (let index = 0; index < 300; index++) yield { id: `${index}` };
      throw new AppError("not_found", "No more.");
    },
  });
  const ids: string[] = [];
  const read = async (): Promise<void> => {
    for await (const { id } of client.serverStream(method.deadLetters, {})) ids.push(id);
  };
  await assert.rejects(read(), withCode("not_found"));
  assert.deepEqual(
    ids,
    Array.from({ length: 300 }, (_, index) => `${index}`),
  );
});

test("a caller that takes nothing holds the answers back, and one that leaves ends them", async (t) => {
  const state = { made: 0, isLeft: false };
  const { client } = await connect(t, { deadLetters: () => endless(256 * 1024, state) });
  const answers = client.serverStream(method.deadLetters, {});
  assert.equal((await answers.next()).done, false);
  let before = -1;
  await eventually(() => before === (before = state.made), {
    intervalMs: 200,
    describe: "the answers to be held back",
  });
  assert.ok(state.made < 60, `${state.made} answers of 256 KiB were made for a caller that took one`);
  await answers.return(undefined);
  await eventually(() => state.isLeft);
});

test("two directions are independent: answers may come before, between and after the requests", async (t) => {
  const { client } = await connect(t, {
    async *consume(requests): AsyncGenerator<MessageInitShape<typeof ConsumeResponseSchema>> {
      yield { body: { case: "started", value: {} } };
      for await (const { body } of requests) {
        if (body.case === "settle") yield { body: { case: "delivery", value: { number: body.value.number * 2n } } };
      }
      yield { body: { case: "delivery", value: { number: 7n } } };
    },
  });
  const call = await client.duplex(method.consume);
  const answers = call.responses[Symbol.asyncIterator]();
  const next = async (): Promise<unknown> => {
    const answer = await answers.next();
    if (answer.done === true) return "end";
    const { body } = answer.value;
    return body.case === "delivery" ? body.value.number : body.case;
  };
  assert.equal(await next(), "started");
  for (const number of [1n, 2n]) {
    await call.write(create(ConsumeRequestSchema, { body: { case: "settle", value: { number } } }));
    assert.equal(await next(), number * 2n);
  }
  call.end();
  assert.equal(await next(), 7n);
  assert.equal(await next(), "end");
  await call.write(create(ConsumeRequestSchema, {}));
});

test("a call both ways ends with its caller's cancel, and with the other side's death", async (t) => {
  const reasons: unknown[] = [];
  const { client, server } = await connect(t, {
    async *consume(_requests, { signal }) {
      yield { body: { case: "started", value: {} } };
      reasons.push(await abortOf(signal));
    },
  });
  const cancelled = new AbortController();
  const drain = async (signal?: AbortSignal): Promise<void> => {
    const call = await client.duplex(method.consume, signal === undefined ? {} : { signal });
    for await (const _ of call.responses) cancelled.abort(new AppError("agreement_gone", "It went."));
  };
  await assert.rejects(drain(cancelled.signal), withCode("agreement_gone"));
  await eventually(() => reasons.length === 1);
  assert.ok(withCode("cancelled")(reasons[0]));
  const lonely = drain();
  const dead = assert.rejects(lonely, withCode("job_failed"));
  await eventually(() => cancelled.signal.aborted);
  await server.close(0);
  await dead;
});

test("addresses are a port on loopback or a socket's absolute path, and nothing else", () => {
  for (const text of ["127.0.0.1:50051", "127.0.0.1:0", "unix:/run/dynamos/sidecar.sock"]) {
    assert.equal(formatRpcAddress(parseRpcAddress(text)), text);
  }
  const wrong = [
    "",
    "50051",
    "0.0.0.0:50051",
    "bus.example.org:50051",
    "127.0.0.1:65536",
    "unix:here",
    `unix:/${"x".repeat(107)}`,
  ];
  for (const text of wrong) assert.throws(() => parseRpcAddress(text), withCode("configuration_invalid"), text);
});

test("a Unix socket is for its user alone, in a folder that is made, and goes with its server", async (t) => {
  const socketPath = join(await temporaryFolder(), "new", "server.sock");
  const { client, server } = await connect(t, { ping: async () => ({}) }, { socketPath });
  await client.unary(method.ping, {});
  assert.equal(statSync(socketPath).mode & 0o777, 0o600);
  assert.equal(statSync(join(socketPath, "..")).mode & 0o777, 0o700);
  await server.close(0);
  assert.ok(!existsSync(socketPath));
});

test("a dead program's socket is taken over; a living one's, and a file that is none, are not", async (t) => {
  const socketPath = join(await temporaryFolder(), "server.sock");
  const script = `require("net").createServer().listen(${JSON.stringify(socketPath)}, () => console.log("listening"))`;
  const earlier = spawn(process.execPath, ["-e", script], { stdio: ["ignore", "pipe", "inherit"] });
  await once(earlier.stdout, "data");
  await assert.rejects(connect(t, {}, { socketPath }), withCode("unavailable"));
  earlier.kill("SIGKILL");
  await once(earlier, "exit");
  assert.ok(existsSync(socketPath), "it left its socket");
  const { client } = await connect(t, { ping: async () => ({}) }, { socketPath });
  await client.unary(method.ping, {});
  const file = join(await temporaryFolder(), "file");
  writeFileSync(file, "not ours to remove");
  await assert.rejects(connect(t, {}, { socketPath: file }), withCode("unavailable"));
  assert.ok(existsSync(file));
});
