import assert from "node:assert/strict";
import { Readable } from "node:stream";
import { test } from "node:test";
import type { OpenAnswer } from "../../orchestrator/agent-calls.ts";
import type { DataRequestOrder } from "../../orchestrator/data-request-order.ts";
import { pipedAnswer } from "../../orchestrator/piped-answer.ts";
import { BatchBuilder } from "../../lib/data/batch-builder.ts";
import type { FieldSpec } from "../../lib/data/field-types.ts";
import { AppError } from "../../lib/errors.ts";
import { answerFrames } from "../../lib/rpc/answer-frames.ts";
import { jsonAnswer } from "../../lib/rpc/answer-stream.ts";
import { FrameWriter, readParts } from "../../lib/rpc/frames.ts";
import type { Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { batchFrames, schemaBytes } from "../../lib/rpc/record-batches.ts";
import { createLogger } from "../../lib/telemetry/logger.ts";
import { newTraceContext } from "../../lib/telemetry/trace-context.ts";

const LOGGER = createLogger("test", {}, "silent");
const ORDER: DataRequestOrder = {
  plan: {
    jobName: "ada-12345678",
    user: { id: "ada", userName: "ada@example.org" },
    requestType: "sqlDataRequest",
    options: {},
    dataSets: ["wageGap"],
    approved: ["VU"],
    version: 1,
    state: "ready",
    archetype: "computeToData",
    providers: ["VU"],
    acceptedComputeProviders: [],
    agreements: {},
    archetypes: {},
    refused: [],
    offline: [],
    lease: "l",
  },
  request: { type: "sqlDataRequest", query: "SELECT 1" },
  requestId: "r",
  accessTokenFor: () => Promise.resolve("t"),
  trace: newTraceContext(),
  signal: new AbortController().signal,
  isRepeatable: false,
};

/** An answer whose one cell comes in many small pieces. */
function* slowCell(count: number, piece: string): Generator<Buffer> {
  yield Buffer.from('{"provider":"VU","rows":[{"cell":"');
  for (let index = 0; index < count; index++) yield Buffer.from(piece);
  yield Buffer.from('"}],"status":"ok"}');
}

test("a large cell in many small pieces is not copied again for each of them", async (t) => {
  const concat = t.mock.method(Buffer, "concat");
  const body = Readable.from(slowCell(2_000, "x".repeat(1024)), { objectMode: false });
  const open = {
    format: "json" as const,
    body,
    destroy: () => void body.destroy(),
    askAgain: (cause: AppError) => Promise.reject(cause),
  };
  const pieces: Uint8Array[] = [];
  for await (const piece of pipedAnswer(ORDER, [Promise.resolve({ party: "VU", answer: open })], LOGGER)) {
    pieces.push(typeof piece === "string" ? Buffer.from(piece) : piece);
  }
  const copiedBytes = concat.mock.calls.reduce((sum, { result }) => sum + (result?.length ?? 0), 0);
  assert.ok(copiedBytes < 10_000_000, `${String(copiedBytes)} bytes were copied for 2 MB`);
  const answer = JSON.parse(Buffer.concat(pieces).toString("utf8")) as {
    readonly status: string;
    readonly responses: readonly { readonly rows: readonly { readonly cell: string }[] }[];
  };
  assert.equal(answer.status, "ok");
  assert.equal(answer.responses[0]?.rows[0]?.cell.length, 2_000 * 1024);
});

const FIELDS: readonly FieldSpec[] = [{ name: "n", type: { kind: "integer" }, nullable: false }];
const HEADING = { requestId: "r", jobName: "ada-12345678", archetype: "computeToData", provider: "VU" };

function framesOfRows(): Frame[] {
  const builder = new BatchBuilder(FIELDS);
  for (let row = 0; row < 20_000; row++) builder.append([BigInt(row)]);
  const writer = new FrameWriter({ provider: "VU", requestId: "r", attempt: 1 });
  const start = writer.start({ arrowSchema: schemaBytes(builder.schema) });
  return [start, ...batchFrames(writer, builder.build()), writer.end()];
}

async function* iterate<Item>(items: readonly Item[], fault?: Error): AsyncGenerator<Item> {
  yield* items;
  if (fault !== undefined) throw fault;
}

function openAnswer(
  format: OpenAnswer["format"],
  body: AsyncIterable<Uint8Array>,
  askAgain: OpenAnswer["askAgain"] = (cause) => Promise.reject(cause),
): OpenAnswer {
  return { format, body: body as AsyncIterable<Buffer>, destroy: () => undefined, askAgain };
}

async function* encoded(pieces: AsyncIterable<string>): AsyncGenerator<Uint8Array> {
  for await (const piece of pieces) yield Buffer.from(piece);
}

async function pipedText(answer: OpenAnswer): Promise<string> {
  const pieces: Uint8Array[] = [];
  for await (const piece of pipedAnswer(ORDER, [Promise.resolve({ party: "VU", answer })], LOGGER)) {
    pieces.push(typeof piece === "string" ? Buffer.from(piece) : piece);
  }
  return Buffer.concat(pieces).toString("utf8");
}

async function bytesOf(frames: AsyncIterable<Frame>): Promise<Uint8Array[]> {
  const pieces: Uint8Array[] = [];
  for await (const piece of answerFrames(frames, HEADING)) pieces.push(piece);
  return pieces;
}

test("an answer that comes as frames is the one that comes as JSON, whole or failed", async () => {
  for (const fault of [undefined, new AppError("job_failed", "It was killed.")]) {
    const frames = framesOfRows().slice(0, fault === undefined ? 3 : 2);
    const json = openAnswer("json", encoded(jsonAnswer(readParts(iterate(frames, fault), "VU"), HEADING)));
    const framed = openAnswer("frames", iterate(await bytesOf(iterate(frames, fault))));
    const text = await pipedText(framed);
    assert.equal(text, await pipedText(json));
    assert.equal((JSON.parse(text) as { readonly status: string }).status, fault === undefined ? "ok" : "failed");
  }
});

test("an answer as frames that breaks off is asked for again while nothing was handed on, and closed later", async () => {
  const whole = await bytesOf(iterate(framesOfRows()));
  const lost = new AppError("stream_interrupted", "Gone.", { party: "VU" });
  const again = openAnswer("frames", iterate(whole));
  const asked: AppError[] = [];
  const askAgain = (cause: AppError): Promise<OpenAnswer> => {
    asked.push(cause);
    return Promise.resolve(again);
  };
  const expected = await pipedText(openAnswer("frames", iterate(whole)));
  assert.equal(await pipedText(openAnswer("frames", iterate(whole.slice(0, 1), lost), askAgain)), expected);
  assert.deepEqual(asked, [lost]);

  const { responses, status } = JSON.parse(
    await pipedText(openAnswer("frames", iterate(whole.slice(0, 2), lost), askAgain)),
  ) as { readonly status: string; readonly responses: readonly Record<string, unknown>[] };
  assert.equal(asked.length, 1);
  assert.equal(status, "failed");
  assert.equal(responses[0]?.["status"], "failed");
  assert.equal((responses[0]?.["problem"] as { readonly code: string }).code, "stream_interrupted");
  assert.ok((responses[0]?.["rows"] as unknown[]).length > 0);
});

test("an agent that does not answer in the call's time has no answer, also in the middle of its frames", async () => {
  const whole = await bytesOf(iterate(framesOfRows()));
  const late = new AppError("agent_timeout", "Too late.", { party: "VU" });
  const text = await pipedText(openAnswer("frames", iterate(whole.slice(0, 2), late)));
  const { responses } = JSON.parse(text) as { readonly responses: readonly { readonly status: string }[] };
  assert.equal(responses[0]?.status, "no_answer");
});
