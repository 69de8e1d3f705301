/** A third party's chain: the data providers' streams come in over the run queue. Real processes, the embedded bus. */
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { inspect } from "node:util";
import { fromBinary } from "@bufbuild/protobuf";
import { BatchBuilder } from "../../lib/data/batch-builder.ts";
import { toArrowSchema } from "../../lib/data/field-types.ts";
import { encodeBatch, encodeSchema } from "../../lib/data/ipc.ts";
import { AppError } from "../../lib/errors.ts";
import { FrameWriter } from "../../lib/rpc/frames.ts";
import { CreditSchema, type RunReport } from "../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import type { Failure, Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { TestChain } from "../support/chain.ts";
import { eventually } from "../support/eventually.ts";

const PASS = "test/sdk/programs/pass";
const fields = [{ name: "number", type: { kind: "integer" }, nullable: false }] as const;

/** A third party's chain whose providers' credit queues are there. */
async function start(t: TestContext, providers: readonly string[]): Promise<TestChain> {
  const chain = await TestChain.start({ programs: [{ program: PASS }, { program: PASS }], providers });
  t.after(() => chain.stop());
  for (const provider of providers) await chain.bus.declareQueue(creditQueue(provider), { kind: "run" });
  return chain;
}

function creditQueue(provider: string): string {
  return `${provider.toLowerCase()}-run`;
}

/** The frames of a provider's stream: one batch per list of numbers. */
async function streamOf(
  chain: TestChain,
  provider: string,
  batches: readonly (readonly number[])[],
  options: { attempt?: number; grant?: string } = {},
): Promise<readonly Frame[]> {
  const grant = options.grant ?? (await chain.providers.get(provider)?.grant(chain.requestId)) ?? "";
  const writer = new FrameWriter({ provider, requestId: chain.requestId, attempt: options.attempt ?? 1 });
  const frames = [
    writer.start({
      arrowSchema: encodeSchema(toArrowSchema(fields)),
      grants: [grant],
      creditQueue: creditQueue(provider),
    }),
  ];
  for (const numbers of batches) {
    const builder = new BatchBuilder(fields);
    for (const number of numbers) builder.append([BigInt(number)]);
    frames.push(...writer.batch(encodeBatch(builder.build()), numbers.length));
  }
  frames.push(writer.end());
  return frames;
}

async function send(chain: TestChain, frames: readonly (Frame | undefined)[]): Promise<void> {
  for (const frame of frames) if (frame !== undefined) await chain.send(frame);
}

function failureFrame(chain: TestChain, provider: string, error: AppError, attempt = 1): Frame {
  return new FrameWriter({ provider, requestId: chain.requestId, attempt }).failure(error);
}

async function ended(chain: TestChain): Promise<Readonly<Record<string, unknown>>> {
  const outcome = await chain.outcome();
  assert.equal(outcome.case, "ended", inspect(outcome));
  const end = chain.parts().at(-1);
  assert.ok(end?.kind === "end");
  return end.notes;
}

async function failed(chain: TestChain): Promise<Failure> {
  const outcome: RunReport["state"] = await chain.outcome();
  assert.ok(outcome.case === "failed", inspect(outcome));
  return outcome.value;
}

function sorted(numbers: readonly bigint[]): readonly number[] {
  return numbers.map(Number).sort((a, b) => a - b);
}

test("two providers' streams reach the joiner, each with its own grant; the result is the third party's", async (t) => {
  const chain = await start(t, ["VU", "UVA"]);
  await chain.request();
  await send(chain, await streamOf(chain, "UVA", [[4, 5], [6]]));
  await send(chain, await streamOf(chain, "VU", [[1, 2, 3]]));
  const notes = await ended(chain);
  assert.deepEqual(notes["passed"], { VU: { rows: 3, grantedBy: "VU" }, UVA: { rows: 3, grantedBy: "UVA" } });
  assert.deepEqual(notes["passedLast"], { SURF: { rows: 6, grantedBy: "SURF" } });
  assert.deepEqual(sorted(chain.numbers()), [1, 2, 3, 4, 5, 6]);
  assert.ok(chain.frames.every(({ provider, attempt }) => provider === "SURF" && attempt === 1));
  assert.deepEqual(await chain.exitCodes(), [0, 0, 0], chain.log);
});

test("frames that come before the run's request wait for it", async (t) => {
  const chain = await start(t, ["VU"]);
  await send(chain, await streamOf(chain, "VU", [[1], [2]]));
  await chain.request();
  await ended(chain);
  assert.deepEqual(sorted(chain.numbers()), [1, 2]);
});

test("frames that come twice count once", async (t) => {
  const chain = await start(t, ["VU"]);
  await chain.request();
  const frames = await streamOf(chain, "VU", [[1], [2], [3]]);
  await send(
    chain,
    frames.flatMap((frame, index) => [frame, frame, frames[index - 1]]),
  );
  await ended(chain);
  assert.deepEqual(sorted(chain.numbers()), [1, 2, 3]);
});

test("a gap in a provider's stream fails the run", async (t) => {
  const chain = await start(t, ["VU"]);
  await chain.request();
  const frames = await streamOf(chain, "VU", [[1], [2], [3]]);
  await send(
    chain,
    frames.filter((_, index) => index !== 2),
  );
  const failure = await failed(chain);
  assert.equal(failure.code, "job_failed");
  assert.match(failure.detail, /VU.*frame 2 is missing/);
});

test("a newer attempt takes the place of one of which nothing was handed on; what is left of the older is dropped", async (t) => {
  const chain = await start(t, ["VU"]);
  await chain.request();
  const older = await streamOf(chain, "VU", [[100], [200]]);
  const newer = await streamOf(chain, "VU", [[1], [2]], { attempt: 2 });
  await send(chain, [older[0], newer[0], ...older.slice(1), ...newer.slice(1)]);
  await ended(chain);
  assert.deepEqual(sorted(chain.numbers()), [1, 2]);
});

test("a newer attempt after rows were handed on is stream_interrupted, and names the provider", async (t) => {
  const chain = await start(t, ["VU"]);
  await chain.request();
  const older = await streamOf(chain, "VU", [[100], [200]]);
  await send(chain, older.slice(0, 2));
  await eventually(() => chain.frames.some(({ body }) => body.case === "chunk"));
  await send(chain, await streamOf(chain, "VU", [[1]], { attempt: 2 }));
  const failure = await failed(chain);
  assert.equal(failure.code, "stream_interrupted");
  assert.equal(failure.party, "VU");
});

test("a provider's failure is the run's, with its code and party", async (t) => {
  const chain = await start(t, ["VU", "UVA"]);
  await chain.request();
  await send(chain, await streamOf(chain, "VU", [[1]]));
  await chain.send(failureFrame(chain, "UVA", new AppError("data_invalid", "Line 3 is broken.", { party: "UVA" })));
  const failure = await failed(chain);
  assert.equal(failure.code, "data_invalid");
  assert.equal(failure.party, "UVA");
  assert.equal(failure.detail, "Line 3 is broken.");
});

test("with allow_partial a provider that failed before its rows is left out, and the notes say so", async (t) => {
  const chain = await start(t, ["VU", "UVA"]);
  await chain.request({ allowPartial: true });
  await send(chain, await streamOf(chain, "VU", [[1], [2]]));
  await chain.send(failureFrame(chain, "UVA", new AppError("agent_timeout", "No answer.")));
  const notes = await ended(chain);
  assert.deepEqual(notes["passed"], { VU: { rows: 2, grantedBy: "VU" }, UVA: "agent_timeout" });
  assert.deepEqual(sorted(chain.numbers()), [1, 2]);
});

test("with allow_partial a provider that fails after rows of it were handed on still fails the run", async (t) => {
  const chain = await start(t, ["VU"]);
  await chain.request({ allowPartial: true });
  const frames = await streamOf(chain, "VU", [[1], [2]]);
  await send(chain, frames.slice(0, 2));
  await eventually(() => chain.frames.some(({ body }) => body.case === "chunk"));
  await chain.send(failureFrame(chain, "VU", new AppError("job_failed", "It died.")));
  const failure = await failed(chain);
  assert.equal(failure.code, "job_failed");
  assert.equal(failure.party, "VU");
});

test("with allow_partial, when every provider fails, so does the run", async (t) => {
  const chain = await start(t, ["VU", "UVA"]);
  await chain.request({ allowPartial: true });
  await chain.send(failureFrame(chain, "VU", new AppError("agent_timeout", "No answer.")));
  await chain.send(failureFrame(chain, "UVA", new AppError("agent_timeout", "No answer.")));
  assert.equal((await failed(chain)).code, "agent_timeout");
});

test("a provider's grant that its own keys did not sign is refused", async (t) => {
  const chain = await start(t, ["VU", "UVA"]);
  await chain.request();
  const grant = (await chain.providers.get("UVA")?.grant(chain.requestId, { steward: "VU" })) ?? "";
  await send(chain, await streamOf(chain, "VU", [[1]], { grant }));
  await send(chain, await streamOf(chain, "UVA", [[2]]));
  assert.equal((await failed(chain)).code, "forbidden");
  assert.deepEqual(chain.frames, []);
});

test("a stream of a party that is not in the plan is put aside, and changes nothing", async (t) => {
  const chain = await start(t, ["VU"]);
  await chain.request();
  await send(chain, await streamOf(chain, "RUG", [[666]], { grant: "x" }));
  await send(chain, await streamOf(chain, "VU", [[1]]));
  await ended(chain);
  assert.deepEqual(sorted(chain.numbers()), [1]);
  assert.ok((await chain.bus.deadLetters(10)).length > 0);
});

test("credits come back for what was handed on, and for nothing more", async (t) => {
  const chain = await start(t, ["VU"]);
  let credits = 0;
  await chain.bus.consume(creditQueue("VU"), async ({ body }) => {
    const credit = fromBinary(CreditSchema, body);
    assert.equal(credit.requestId, chain.requestId);
    credits += credit.chunks;
    return "accept";
  });
  await chain.request({ credits: 4 });
  const batches = Array.from({ length: 30 }, (_, index) => [index]);
  const frames = await streamOf(chain, "VU", batches);
  await send(chain, frames.slice(0, -1));
  await eventually(() => credits === 30, { describe: "a credit for each of 30 chunks" });
  await send(chain, frames.slice(-1));
  await ended(chain);
  assert.equal(credits, 30);
});

test("while the receiver has stalled, the provider's credits stop coming back", async (t) => {
  const chain = await start(t, ["VU"]);
  let credits = 0;
  await chain.bus.consume(creditQueue("VU"), async ({ body }) => {
    credits += fromBinary(CreditSchema, body).chunks;
    return "accept";
  });
  chain.isTaking = false;
  await chain.request({ credits: 2 });
  const rows = Array.from({ length: 32_768 }, (_, index) => index);
  const frames = await streamOf(
    chain,
    "VU",
    Array.from({ length: 60 }, () => rows),
  );
  await send(chain, frames);
  await eventually(() => credits > 0);
  let last = -1;
  let same = 0;
  await eventually(() => {
    same = credits === last ? same + 1 : 0;
    last = credits;
    return same > 20;
  });
  assert.ok(credits < 60, `${credits} of 120 chunks were settled though the receiver took 2`);
  await chain.takeAgain();
  await ended(chain);
  await eventually(() => credits === 120);
});
