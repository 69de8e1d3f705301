import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { describe, test, type TestContext } from "node:test";
import type { IncomingMessage, ServerResponse } from "node:http";
import { AppError, type ErrorCode } from "../../../lib/errors.ts";
import { KubernetesApi } from "../../../lib/jobs/kubernetes-api.ts";
import { answerJson, kubernetesServer } from "../../support/kubernetes-server.ts";

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

async function apiTo(context: TestContext, answer: Answer, timeoutMs = 5_000) {
  const server = await kubernetesServer(context, answer);
  const api = new KubernetesApi({ kubeconfig: server.kubeconfig, timeoutMs });
  context.after(() => api.close());
  return { ...server, api };
}

const GET = { method: "GET", path: "/api/v1/namespaces/vu/pods/p" } as const;

test("a token that was rotated is read again at the first refusal", async (t) => {
  let valid = "first";
  const { api, tokenFile } = await apiTo(t, ({ headers }, response) =>
    headers.authorization === `Bearer ${valid}`
      ? answerJson(response, 200, { token: valid })
      : answerJson(response, 401, { reason: "Unauthorized" }),
  );
  assert.deepEqual(await api.call(GET), { token: "first" });
  valid = "second";
  await writeFile(tokenFile, "second");
  assert.deepEqual(await api.call(GET), { token: "second" });
  valid = "third, which nobody has";
  await assert.rejects(api.call(GET), { code: "access_refused" });
});

test("the namespace is the configuration's", async (t) => {
  const { api } = await apiTo(t, (_, response) => answerJson(response, 200, {}));
  assert.equal(api.namespace, "vu");
});

describe("a refusal", () => {
  const REFUSALS: readonly (readonly [number, string, ErrorCode, boolean])[] = [
    [403, "Forbidden", "access_refused", false],
    [404, "NotFound", "not_found", false],
    [409, "AlreadyExists", "already_exists", false],
    [409, "Conflict", "conflict", true],
    [422, "Invalid", "invalid_argument", false],
    [410, "Expired", "unavailable", true],
    [429, "TooManyRequests", "unavailable", true],
    [500, "InternalError", "unavailable", true],
  ];
  for (const [status, reason, code, retryable] of REFUSALS) {
    test(`with ${String(status)} ${reason} is ${code}, in the API server's words`, async (t) => {
      const { api } = await apiTo(t, (_, response) =>
        answerJson(response, status, { reason, message: "because of this" }),
      );
      await assert.rejects(api.call(GET), (error) => {
        assert.ok(error instanceof AppError);
        assert.deepEqual([error.code, error.retryable], [code, retryable]);
        assert.match(error.message, /GET \/api\/v1\/namespaces\/vu\/pods\/p.*because of this/);
        return true;
      });
    });
  }

  test("that is no JSON is told nevertheless", async (t) => {
    const { api } = await apiTo(t, (_, response) => void response.writeHead(502).end("<html>bad gateway"));
    await assert.rejects(api.call(GET), { code: "unavailable" });
  });
});

test("a server that does not answer in time is unavailable", async (t) => {
  const { api } = await apiTo(t, () => undefined, 100);
  await assert.rejects(api.call(GET), { code: "unavailable" });
});

test("a call that is aborted throws the signal's reason", async (t) => {
  const abort = new AbortController();
  const reason = new Error("not needed any more");
  const { api } = await apiTo(t, () => abort.abort(reason));
  await assert.rejects(api.call({ ...GET, signal: abort.signal }), reason);
});

test("lines come as they are written, wherever they are cut", async (t) => {
  const { api } = await apiTo(t, (_, response) => {
    response.write('{"a":1}\n{"b"');
    setImmediate(() => response.end(':2}\n{"c":3}\n'));
  });
  const lines: string[] = [];
  for await (const line of api.lines(GET)) lines.push(line);
  assert.deepEqual(lines, ['{"a":1}', '{"b":2}', '{"c":3}']);
});

test("a configuration that is none is refused", async () => {
  assert.throws(() => new KubernetesApi({ kubeconfig: "/no/such/kubeconfig" }), { code: "configuration_invalid" });
});
