/** How a server ends while answers are under way. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { request, type IncomingMessage } from "node:http";
import { Readable } from "node:stream";
import { test, type TestContext } from "node:test";
import type { FastifyInstance } from "fastify";
import { closeServer } from "../../../lib/http/close-server.ts";
import { createHttpServer } from "../../../lib/http/server.ts";
import { createLogger } from "../../../lib/telemetry/logger.ts";

/** A server with one answer that goes on until `rest` resolves; the answer's head has arrived. */
async function answering(
  t: TestContext,
  rest: Promise<void>,
): Promise<{ readonly server: FastifyInstance; readonly answer: IncomingMessage }> {
  const server = createHttpServer({ logger: createLogger("test", {}, "silent"), readiness: async () => [] });
  async function* pieces(): AsyncGenerator<string> {
    yield "first,";
    await rest;
    yield "last";
  }
  server.get("/long", async (_request, reply) => reply.send(Readable.from(pieces())));
  const url = await server.listen({ host: "127.0.0.1", port: 0 });
  t.after(() => server.close());
  const [answer] = (await once(request(`${url}/long`).end(), "response")) as [IncomingMessage];
  return { server, answer };
}

test("an answer that ends in time is whole", async (t) => {
  let end = (): void => {};
  const rest = new Promise<void>((resolve) => (end = resolve));
  const { server, answer } = await answering(t, rest);
  const closed = closeServer(server, 60_000);
  end();
  assert.equal(Buffer.concat((await answer.toArray()) as Buffer[]).toString("utf8"), "first,last");
  await closed;
});

test("an answer that does not is broken off, and the server is closed", async (t) => {
  const { server, answer } = await answering(t, new Promise(() => undefined));
  const read = answer.toArray();
  await Promise.all([closeServer(server, 50), assert.rejects(read, { code: "ECONNRESET" })]);
  assert.equal(server.server.listening, false);
});
