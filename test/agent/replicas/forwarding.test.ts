import assert from "node:assert/strict";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { describe, test, type TestContext } from "node:test";
import { forward, FORWARDED_HEADER, OWNER_HEADER, type ForwardedAnswer } from "../../../agent/replicas/forwarding.ts";
import type { Siblings } from "../../../agent/replicas/siblings.ts";
import { systemClock } from "../../../lib/clock.ts";
import { AppError } from "../../../lib/errors.ts";
import { NOT_HERE_HEADER } from "../../../lib/http/request-headers.ts";
import { newTraceContext } from "../../../lib/telemetry/trace-context.ts";
import { NODE_TRUST } from "../../../lib/tls/trust.ts";

const REQUEST = {
  method: "POST",
  path: "/agent/v1/sqlDataRequest/vu",
  headers: { authorization: "Bearer t", accept: "text/csv" },
  body: { query: "SELECT 1" },
  trace: newTraceContext(),
} as const;

/** Without an end, a frozen owner is waited for for ever. */
const LIMIT = { timeout: 30_000 };

interface Owner {
  readonly ask: (signal?: AbortSignal) => Promise<ForwardedAnswer | undefined>;
  /** Its lease ends. */
  readonly vanish: () => void;
}

/** An instance that answers as told. */
async function ownerThat(t: TestContext, listener: RequestListener): Promise<Owner> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const gone = new AbortController();
  const siblings = { goneSignal: () => gone.signal } as unknown as Siblings;
  const owner = {
    instance: "owner",
    instanceUrl: `http://127.0.0.1:${String((server.address() as AddressInfo).port)}`,
  };
  return {
    ask: (signal = new AbortController().signal) =>
      forward({ instance: "mine", siblings, clock: systemClock, trust: NODE_TRUST }, owner, REQUEST, signal),
    vanish: () => gone.abort(new AppError("unavailable", "gone")),
  };
}

describe("a request that is passed on", () => {
  test("reaches its owner as it came, with who passed it on, and its answer comes back as it is", async (t) => {
    const owner = await ownerThat(t, (request, response) => {
      assert.equal(request.url, REQUEST.path);
      assert.equal(request.headers.authorization, "Bearer t");
      assert.equal(request.headers[FORWARDED_HEADER], "mine");
      assert.equal(request.headers[OWNER_HEADER], "owner");
      assert.equal(request.headers["traceparent"], REQUEST.trace.traceparent);
      response.writeHead(429, { "content-type": "application/problem+json", "retry-after": "5", "x-other": "1" });
      request.pipe(response);
    });
    const answer = await owner.ask();
    assert.ok(answer);
    assert.equal(answer.status, 429);
    assert.deepEqual(answer.headers, { "content-type": "application/problem+json", "retry-after": "5" });
    const pieces = [];
    for await (const piece of answer.body) pieces.push(piece as Buffer);
    assert.deepEqual(JSON.parse(Buffer.concat(pieces).toString()), REQUEST.body);
  });

  test("may be taken over from one that refuses connections, breaks them, or says that it is not there", async (t) => {
    const breaking = await ownerThat(t, (request) => request.socket.destroy());
    assert.equal(await breaking.ask(), undefined);
    const stopping = await ownerThat(t, (_request, response) => {
      response.writeHead(503, { [NOT_HERE_HEADER]: "stopping" }).end("{}");
    });
    assert.equal(await stopping.ask(), undefined);
  });

  test("may be taken over from one that is silent, as soon as its lease has ended", LIMIT, async (t) => {
    const frozen = await ownerThat(t, () => frozen.vanish());
    assert.equal(await frozen.ask(), undefined);
  });

  test("is not taken over from one that answers just after its lease has ended", async (t) => {
    const late = await ownerThat(t, (_request, response) => {
      late.vanish();
      setTimeout(() => response.end("late"), 200);
    });
    const answer = await late.ask();
    const pieces = [];
    for await (const piece of answer?.body ?? []) pieces.push(piece as Buffer);
    assert.equal(Buffer.concat(pieces).toString(), "late");
  });

  test("has its answer broken off when the owner is gone in the middle of it, and silent", LIMIT, async (t) => {
    const frozen = await ownerThat(t, (_request, response) => {
      response.write("a piece");
      frozen.vanish();
    });
    const answer = await frozen.ask();
    assert.ok(answer);
    await assert.rejects(async () => {
      for await (const _piece of answer.body);
    }, /is gone/);
  });

  test("ends with its caller", async (t) => {
    const leaving = new AbortController();
    const waiting = await ownerThat(t, (request) => {
      leaving.abort(new AppError("cancelled", "The caller left."));
      request.socket.once("close", () => t.diagnostic("the owner sees it"));
    });
    await assert.rejects(waiting.ask(leaving.signal), { code: "cancelled" });
  });
});
