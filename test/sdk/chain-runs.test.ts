/** A persistent microservice's runs: several at once, told apart, and nothing kept of those that are over. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test, type TestContext } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { create } from "@bufbuild/protobuf";
import { systemClock } from "../../lib/clock.ts";
import { loadSettings } from "../../lib/config/env.ts";
import { encodeSchema } from "../../lib/data/ipc.ts";
import { toArrowSchema } from "../../lib/data/field-types.ts";
import { AppError, toAppError } from "../../lib/errors.ts";
import type { MicroservicePosition } from "../../lib/jobs/chain-environment.ts";
import { RpcClient } from "../../lib/rpc/client.ts";
import { FrameWriter } from "../../lib/rpc/frames.ts";
import { StreamReceiptSchema } from "../../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import { SidecarService } from "../../lib/rpc/gen/dynamos/v1/sidecar_pb.ts";
import type { Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { startRpcServer } from "../../lib/rpc/server.ts";
import { implement, type CallContext } from "../../lib/rpc/service.ts";
import { createLogger } from "../../lib/telemetry/logger.ts";
import { ChainRuns } from "../../sdk/typescript/chain-runs.ts";
import type { Handler } from "../../sdk/typescript/handler.ts";
import { TestSteward } from "../support/chain.ts";

const CALL: CallContext = { signal: new AbortController().signal, deadlineMs: undefined, trace: undefined };
/** The same for all grants of one run, as they are made once. */
const DEADLINE_MS = Date.now() + 60_000;
const schema = toArrowSchema([{ name: "number", type: { kind: "integer" }, nullable: false }]);

/** What the element behind the microservice received: frames by request and attempt. */
type Received = Map<string, Frame[]>;

async function startRuns(
  t: TestContext,
  handle: Handler,
  options: { most?: number; providers?: number; next?: RpcClient } = {},
): Promise<{ runs: ChainRuns; steward: TestSteward; received: Received }> {
  const received: Received = new Map();
  const output = async (frames: AsyncIterable<Frame>): Promise<Record<string, never>> => {
    for await (const frame of frames) {
      const key = `${frame.requestId}/${String(frame.attempt)}`;
      received.set(key, [...(received.get(key) ?? []), frame]);
    }
    return {};
  };
  const server = await startRpcServer({ port: 0, implementations: [implement(SidecarService, { output })] });
  const next = new RpcClient({ port: server.port, peer: "the test" });
  t.after(async () => {
    next.close();
    await server.close(100);
  });
  const isJoiner = options.providers !== undefined;
  const steward = await TestSteward.make(isJoiner ? "SURF" : "VU");
  const position: MicroservicePosition = {
    steward: steward.name,
    jobName: "chain-0123abcd-89abcdef",
    role: isJoiner ? "computeProvider" : "all",
    dataProviderCount: options.providers ?? 1,
    sidecarPort: server.port,
    port: 0,
    nextPort: server.port,
    isFirst: true,
    isLast: true,
  };
  const definition = { name: "test", handle };
  const logger = createLogger("test", {}, "silent");
  const grantKeys = [steward.publicKey];
  const runs = new ChainRuns(
    { definition, position, next: options.next ?? next, logger, grantKeys, loadSettings, clock: systemClock },
    options.most ?? 4,
  );
  return { runs, steward, received };
}

/** The question of one run, as the sidecar sends it. */
async function* question(
  grants: readonly string[],
  run: { requestId: string; attempt: number; provider?: string; query?: string },
): AsyncGenerator<Frame> {
  const { requestId, attempt, provider = "VU", query = "SELECT 1" } = run;
  const writer = new FrameWriter({ provider, requestId, attempt });
  const request = { type: "sqlDataRequest", query };
  yield writer.start({ grants: [...grants], request, arrowSchema: encodeSchema(schema) });
  yield writer.end();
}

/** Its handler tells in the notes what it was asked. */
const echo: Handler = async function* (_inputs, { request, requestId }) {
  yield { schema };
  yield { notes: { query: request.query, requestId } };
};

function notesOf(frames: readonly Frame[] | undefined): unknown {
  const end = frames?.at(-1)?.body;
  return end?.case === "end" ? JSON.parse(end.value.notesJson) : end;
}

test("runs at once get each their own answer, also two of one request id", async (t) => {
  const { runs, steward, received } = await startRuns(t, echo);
  const requestId = randomUUID();
  const grant = await steward.grant(requestId);
  await Promise.all(
    [1, 2, 3].map((attempt) =>
      runs.take(question([grant], { requestId, attempt, query: `question ${attempt}` }), CALL),
    ),
  );
  for (const attempt of [1, 2, 3]) {
    const notes = notesOf(received.get(`${requestId}/${attempt}`));
    assert.deepEqual(notes, { query: `question ${attempt}`, requestId });
  }
  assert.equal(runs.count, 0);
});

test("the streams of several providers meet in the run that they are of", async (t) => {
  const joining: Handler = async function* (inputs) {
    yield { schema };
    yield { notes: { providers: inputs.map(({ provider }) => provider).sort() } };
  };
  const { runs, steward, received } = await startRuns(t, joining, { providers: 2 });
  const providers = await Promise.all(["VU", "UVA"].map((name) => TestSteward.make(name)));
  const keys = Object.fromEntries(providers.map(({ name, publicKey }) => [name, [{ ...publicKey }]]));
  const ids = [randomUUID(), randomUUID()];
  const calls = ids.flatMap((requestId) =>
    providers.map(async (provider) => {
      const own = await steward.grant(requestId, { providers: keys, deadlineMs: DEADLINE_MS });
      const grants = [own, await provider.grant(requestId)];
      await runs.take(question(grants, { requestId, attempt: 1, provider: provider.name }), CALL);
    }),
  );
  await Promise.all(calls);
  for (const requestId of ids) assert.deepEqual(notesOf(received.get(`${requestId}/1`)), { providers: ["UVA", "VU"] });
  assert.equal(runs.count, 0);
});

test("a run beyond the limit is refused, and one that fails neither ends the others nor stays", async (t) => {
  let release = (): void => undefined;
  const released = new Promise<void>((resolve) => (release = resolve));
  const waiting: Handler = async function* (_inputs, { request }) {
    if (request.query === "fail") throw new AppError("query_invalid", "As the test wants it.");
    await released;
    yield { schema };
  };
  const { runs, steward } = await startRuns(t, waiting, { most: 2 });
  const ask = async (query: string): Promise<string> => {
    const requestId = randomUUID();
    const frames = question([await steward.grant(requestId)], { requestId, attempt: 1, query });
    return runs.take(frames, CALL).then(
      () => "ok",
      (error: unknown) => toAppError(error).code,
    );
  };
  const first = ask("wait");
  assert.equal(await ask("fail"), "query_invalid");
  const second = ask("wait");
  while (runs.count < 2) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(await ask("one too many"), "rate_limited");
  release();
  assert.deepEqual(await Promise.all([first, second]), ["ok", "ok"]);
  await runs.idle(5_000);
  assert.equal(runs.count, 0);
});

test("a run whose caller goes away before all of its streams are there leaves nothing", async (t) => {
  const { runs, steward } = await startRuns(t, echo, { providers: 2 });
  const going = new AbortController();
  const requestId = randomUUID();
  const frames = question([await steward.grant(requestId)], { requestId, attempt: 1 });
  const call = runs.take(frames, { ...CALL, signal: going.signal });
  while (runs.count < 1) await new Promise((resolve) => setImmediate(resolve));
  going.abort(new AppError("cancelled", "The caller went away."));
  await assert.rejects(call);
  assert.equal(runs.count, 0);
});

test("nothing is left of ten thousand runs: the heap stays flat", async (t) => {
  const { runs, steward } = await startRuns(t, echo, { next: takesEverything });
  const requestId = randomUUID();
  const grant = await steward.grant(requestId, { deadlineMs: Date.now() + 600_000 });
  let attempt = 0;
  const serve = async (count: number): Promise<void> => {
    const until = attempt + count;
    const worker = async (): Promise<void> => {
      while (attempt < until) await runs.take(question([grant], { requestId, attempt: ++attempt }), CALL);
    };
    await Promise.all([worker(), worker(), worker()]);
  };
  await serve(2_000);
  const before = heapBytes();
  await serve(8_000);
  assert.equal(runs.count, 0);
  const grownPerRun = (heapBytes() - before) / 8_000;
  assert.ok(grownPerRun < 200, `${grownPerRun.toFixed(0)} bytes of each run are left`);
});

/** An element behind it without a wire. */
const takesEverything = {
  async stream(_method: unknown, source: AsyncIterable<Frame>) {
    for await (const _frame of source);
    return create(StreamReceiptSchema);
  },
} as unknown as RpcClient;

/** What is reachable. */
function heapBytes(): number {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  collect();
  return process.memoryUsage().heapUsed;
}
