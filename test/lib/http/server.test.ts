import assert from "node:assert/strict";
import { once } from "node:events";
import { request as httpRequest } from "node:http";
import { connect } from "node:net";
import { describe, test, type TestContext } from "node:test";
import { createHttpServer, type HttpServerOptions } from "../../../lib/http/server.ts";
import { createLogger } from "../../../lib/telemetry/logger.ts";
import { eventually } from "../../support/eventually.ts";

interface FoundProblem {
  readonly status: number;
  readonly code: string;
  readonly detail: string;
}

async function serve(t: TestContext, options: Partial<HttpServerOptions> = {}) {
  const logger = createLogger("test", {}, "silent");
  const server = createHttpServer({ logger, readiness: async () => [], ...options });
  let letGo = (): void => {};
  const held = new Promise<void>((resolve) => (letGo = resolve));
  server.get("/named/:name", async (request) => request.params);
  const state = { isHeld: false };
  server.get("/slow", async () => {
    state.isHeld = true;
    await held;
    return { done: true };
  });
  server.post("/body", async (request) => request.body);
  const url = await server.listen({ host: "127.0.0.1", port: 0 });
  t.after(() => server.close());
  return { server, url, state, letGo };
}

/** Headers and JSON body; of a URL as it stands, which `fetch` would mend. */
async function get(url: string) {
  const asked = httpRequest(url).end();
  const [response] = (await once(asked, "response")) as [AsyncIterable<Buffer> & { headers: Record<string, string> }];
  let text = "";
  for await (const piece of response) text += piece.toString("utf8");
  return { headers: response.headers, body: JSON.parse(text) as FoundProblem & Record<string, unknown> };
}

describe("a URL", () => {
  test("that cannot be decoded, or has a part that is too long, is answered with a problem", async (t) => {
    const { url } = await serve(t);
    for (const path of ["/named/%zz", "/%zz", `/named/${"x".repeat(1025)}`]) {
      const { headers, body } = await get(`${url}${path}`);
      assert.match(headers["content-type"] ?? "", /^application\/problem\+json/, path);
      assert.deepEqual([body.status, body.code], [400, "bad_request"], path);
    }
  });

  test("may have a part as long as any user's name or key", async (t) => {
    const { url } = await serve(t);
    const name = "x".repeat(768);
    assert.equal((await get(`${url}/named/${name}`)).body["name"], name);
  });
});

test("while the server closes, a connection that was kept open gets a problem, and what runs its answer", async (t) => {
  const { server, url, state, letGo } = await serve(t);
  // One connection for both: the second request is written while the first is being answered.
  const socket = connect(Number(new URL(url).port), "127.0.0.1");
  t.after(() => socket.destroy());
  let text = "";
  socket.on("data", (piece: Buffer) => (text += piece.toString("utf8")));
  socket.write("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
  await eventually(() => state.isHeld);
  const closed = server.close();
  await eventually(() => !server.server.listening);
  letGo();
  socket.write("GET /named/a HTTP/1.1\r\nHost: x\r\n\r\n");
  await eventually(() => text.includes("retryable"), { describe: `both answers; there are: ${text}` });
  const [first = "", second = ""] = text.split(/(?=HTTP\/1\.1 )/);
  assert.match(first, /^HTTP\/1\.1 200 [^]*"done":true/);
  assert.match(second, /^HTTP\/1\.1 503 /);
  assert.match(second, /content-type: application\/problem\+json/i);
  assert.match(second, /connection: close/i);
  assert.match(second, /"code":"unavailable"/);
  await closed;
});

test("a body that does not come is given up, with a problem", async (t) => {
  const { url } = await serve(t, { requestTimeoutMs: 300 });
  const socket = connect(Number(new URL(url).port), "127.0.0.1");
  t.after(() => socket.destroy());
  let text = "";
  socket.on("data", (piece: Buffer) => (text += piece.toString("utf8")));
  socket.write("POST /body HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{");
  await once(socket, "close");
  assert.match(text, /^HTTP\/1\.1 400 [^]*application\/problem\+json[^]*"code":"bad_request"/);
  assert.match(text, /within 300 ms/);
});
