/** Two instances of one party's agent at the front door: which is asked, and what happens when it goes. */
import assert from "node:assert/strict";
import { once } from "node:events";
import type { ServerResponse } from "node:http";
import { createServer, type AddressInfo } from "node:net";
import { test, type TestContext } from "node:test";
import { AppError, toProblem } from "../../lib/errors.ts";
import { requestIdOf } from "../../lib/http/idempotency.ts";
import { agentInstanceKeys, onlineKeys } from "../../lib/knowledge/keys.ts";
import type { KnowledgeStore } from "../../lib/knowledge/knowledge-store.ts";
import { inOrderOfChoice } from "../../orchestrator/agent-instances.ts";
import { eventually } from "../support/eventually.ts";
import { agentAnswer, ANALYST, call, startFrontDoor, type FakeAgentOptions } from "../support/front-door.ts";

const ROWS = { type: "sqlDataRequest", query: "SELECT 1" };
const GATHERED = { ...ROWS, algorithm: "average", algorithmColumns: { sex: "pay" } };
const INSTANCES = [{ instance: "a" }, { instance: "b" }];
type Answer = NonNullable<FakeAgentOptions["answer"]>;

/** A key whose request goes to the instance `a` first. */
function keyForA(prefix: string): string {
  for (let index = 0; ; index++) {
    const key = `${prefix}-${String(index)}`;
    if (inOrderOfChoice(requestIdOf(key).requestId, INSTANCES)[0]?.instance === "a") return key;
  }
}

const json =
  (text: string): Answer =>
  (_request, response) =>
    void response.setHeader("content-type", "application/json").end(text);

async function twoInstances(t: TestContext, answers: { a: Answer; b: Answer }, settings: Record<string, string> = {}) {
  const door = await startFrontDoor(t, { settings });
  const a = await door.agent("VU", { instance: "a", answer: answers.a });
  const b = await door.agent("VU", { instance: "b", answer: answers.b });
  const ask = (question: object, idempotencyKey: string) =>
    call(
      "POST",
      `${door.url}/api/v1/requestApproval`,
      { type: "sqlDataRequest", user: ANALYST, dataProviders: ["VU"], data_request: question },
      { "idempotency-key": idempotencyKey },
    );
  return { door, a, b, ask };
}

const whole = json(agentAnswer("VU", [{ n: 2 }]));

test("a request and its repeats, at whichever replica, go to the same instance, and others to the other", async (t) => {
  const { door, a, b, ask } = await twoInstances(t, { a: whole, b: whole });
  const replica = await door.replica();
  const keys = Array.from({ length: 12 }, (_, index) => `key-${String(index)}`);
  for (const key of keys) {
    await ask(ROWS, key);
    const body = { type: "sqlDataRequest", user: ANALYST, dataProviders: ["VU"], data_request: ROWS };
    await call("POST", `${replica}/api/v1/requestApproval`, body, { "idempotency-key": key });
  }
  for (const { requests } of [a, b]) {
    const ids = requests.map(({ headers }) => headers["idempotency-key"]);
    assert.equal(ids.length, 2 * new Set(ids).size, "each of its requests came twice");
    assert.ok(ids.length > 0);
  }
});

test("an instance that takes no connections is left for the next one", async (t) => {
  const door = await startFrontDoor(t);
  // Accepts, and never says a word of TLS: a machine that has gone looks the same to its caller.
  const mute = createServer().listen(0, "127.0.0.1");
  await once(mute, "listening");
  t.after(() => mute.close());
  mute.on("connection", (socket) => t.after(() => socket.destroy()));
  const { port } = mute.address() as AddressInfo;
  const b = await door.agent("VU", { instance: "b", answer: whole });
  const record = (await door.knowledge.onlineInstances("VU"))[0];
  const instanceUrl = `https://127.0.0.1:${String(port)}`;
  const key = onlineKeys.key({ party: "VU", instanceId: "a" });
  await door.knowledge.store.put(key, { ...record, instance: "a", instanceUrl });
  const { body } = await call(
    "POST",
    `${door.url}/api/v1/requestApproval`,
    { type: "sqlDataRequest", user: ANALYST, dataProviders: ["VU"], data_request: ROWS },
    { "idempotency-key": keyForA("mute") },
  );
  assert.equal(body.status, "ok", JSON.stringify(body));
  assert.equal(b.requests.length, 1);
});

test("an instance that is stopping sends its requests to the other", async (t) => {
  const stopping: Answer = (_request, response) => {
    response.writeHead(503, { "content-type": "application/problem+json" });
    response.end(JSON.stringify(toProblem(new AppError("unavailable", "This is stopping."))));
  };
  const { a, b, ask } = await twoInstances(t, { a: stopping, b: whole });
  assert.equal((await ask(ROWS, keyForA("stopping"))).body.status, "ok");
  assert.deepEqual([a.requests.length, b.requests.length], [1, 1]);
});

test("an instance that dies in the middle of an answer that is gathered: the other is asked under the same id", async (t) => {
  const dies: Answer = (_request, response) => {
    response.setHeader("content-type", "application/json");
    response.write('{"provider":"VU","rows":[{"n":1},', () => response.destroy());
  };
  const { a, b, ask } = await twoInstances(t, { a: dies, b: whole });
  const { status, body } = await ask(GATHERED, keyForA("gathered"));
  assert.deepEqual([status, body.status, body.responses[0]?.rows], [200, "ok", [{ n: 2 }]], JSON.stringify(body));
  const ids = [a, b].map(({ requests }) => requests.map(({ headers }) => headers["idempotency-key"]));
  assert.deepEqual(ids, [[body.requestId], [body.requestId]]);
});

test("rows of an instance that dies: the other is asked only while none was passed on", async (t) => {
  let begin = '{"provider":"VU"';
  const dies: Answer = (_request, response) => {
    response.setHeader("content-type", "application/json");
    response.write(begin, () => response.destroy());
  };
  const { b, ask } = await twoInstances(t, { a: dies, b: whole });
  const { body } = await ask(ROWS, keyForA("none"));
  assert.deepEqual([body.status, body.responses.map(({ rows }) => rows)], ["ok", [[{ n: 2 }]]]);
  begin = '{"provider":"VU","rows":[{"n":1},{"n":2},{';
  const late = await ask(ROWS, keyForA("some"));
  assert.equal(late.body.responses[0]?.problem?.code, "stream_interrupted");
  assert.equal(b.requests.length, 1);
});

test("both instances die: the failure says that it may pass, and names the party", async (t) => {
  const dies: Answer = (_request, response) => void response.destroy();
  const { a, b, ask } = await twoInstances(t, { a: dies, b: dies });
  const { status, body } = await ask(GATHERED, keyForA("both"));
  assert.deepEqual([status, body.code, body.party], [503, "agent_offline", "VU"]);
  assert.equal((body as { retryable?: boolean }).retryable, true);
  assert.deepEqual([a.requests.length, b.requests.length], [1, 1], "each once");
});

test("an instance that says nothing and whose record ends is waited for no longer, and the other asked", async (t) => {
  const silent: Answer = () => undefined;
  const { a, b, ask } = await twoInstances(t, { a: silent, b: whole });
  const answer = ask(GATHERED, keyForA("vanishes"));
  await eventually(() => a.requests.length === 1);
  await a.goOffline();
  const { body } = await answer;
  assert.equal(body.status, "ok");
  assert.equal(b.requests.length, 1);
});

test("the last instance that vanishes ends the request long before its deadline", async (t) => {
  const door = await startFrontDoor(t);
  const held: ServerResponse[] = [];
  const vu = await door.agent("VU", { answer: (_request, response) => void held.push(response) });
  const answer = call("POST", `${door.url}/api/v1/requestApproval`, {
    type: "sqlDataRequest",
    user: ANALYST,
    dataProviders: ["VU"],
    data_request: ROWS,
  });
  await eventually(() => held.length === 1);
  await vu.goOffline();
  const { status, body } = await answer;
  assert.deepEqual([status, body.code, body.party], [503, "agent_offline", "VU"]);
});

test("an instance whose record was away for a moment only is waited for", async (t) => {
  const held: ServerResponse[] = [];
  const hold: Answer = (_request, response) => void held.push(response);
  const { door, a, b, ask } = await twoInstances(t, { a: hold, b: whole });
  const answer = ask(GATHERED, keyForA("blinks"));
  const [response] = await eventually(() => (held.length === 1 ? held : undefined));
  const list = t.mock.method(Object.getPrototypeOf(door.knowledge.store) as KnowledgeStore, "list").mock;
  const looks = (): number =>
    list.calls.filter(({ arguments: [prefix] }) => prefix === agentInstanceKeys.prefix()).length;
  await a.goOffline();
  list.resetCalls();
  // One look at the store; with the third it would count as gone.
  await eventually(() => looks() >= 1);
  await Promise.all(list.calls.map(({ result }) => result as Promise<unknown>));
  await a.goOnline();
  await eventually(() => looks() >= 4);
  assert.equal(b.requests.length, 0);
  response?.setHeader("content-type", "application/json").end(agentAnswer("VU", [{ n: 1 }]));
  assert.deepEqual((await answer).body.responses[0]?.rows, [{ n: 1 }]);
});
