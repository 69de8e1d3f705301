import assert from "node:assert/strict";
import { Readable } from "node:stream";
import { test } from "node:test";
import type { DataRequestOrder } from "../../orchestrator/data-request-order.ts";
import { pipedAnswer } from "../../orchestrator/piped-answer.ts";
import type { AppError } from "../../lib/errors.ts";
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
  const open = { body, destroy: () => void body.destroy(), askAgain: (cause: AppError) => Promise.reject(cause) };
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
