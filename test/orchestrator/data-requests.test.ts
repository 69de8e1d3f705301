import assert from "node:assert/strict";
import { request as httpRequest, type ServerResponse } from "node:http";
import { test, type TestContext } from "node:test";
import { groupedToJson } from "../../lib/algorithms/grouped-json.ts";
import { GroupedSummary } from "../../lib/algorithms/grouped.ts";
import { planGroupings } from "../../lib/algorithms/grouping-plan.ts";
import { ERROR_KINDS, toProblem, AppError, type ErrorCode } from "../../lib/errors.ts";
import { eventually } from "../support/eventually.ts";
import {
  agentAnswer,
  agreementOf,
  ANALYST,
  call,
  startFrontDoor,
  type FakeAgentOptions,
  type FrontDoor,
  type ReceivedRequest,
} from "../support/front-door.ts";
import { batchesOf, columns } from "../support/rows.ts";

const QUESTION = { type: "sqlDataRequest", query: "SELECT sex, pay FROM Personen" };
const AVERAGE = { ...QUESTION, algorithm: "average", algorithmColumns: { sex: "pay" } };

const ask = (
  door: FrontDoor,
  question: object = QUESTION,
  changes: object = {},
  headers: Record<string, string> = {},
) =>
  call(
    "POST",
    `${door.url}/api/v1/requestApproval`,
    { type: "sqlDataRequest", user: ANALYST, dataProviders: ["VU", "UVA"], data_request: question, ...changes },
    headers,
  );

type Answer = NonNullable<FakeAgentOptions["answer"]>;
const json =
  (text: string): Answer =>
  (_request, response) => {
    response.setHeader("content-type", "application/json").end(text);
  };
const problem =
  (code: ErrorCode, details: object = {}): Answer =>
  (_request, response) => {
    const document = { ...toProblem(new AppError(code, `It is ${code}.`)), ...details };
    response.writeHead(ERROR_KINDS[code].status, { "content-type": "application/problem+json" });
    response.end(JSON.stringify(document));
  };

/** The summary document that an agent sends along, over rows of sex and pay. */
function summaryOf(rows: readonly (readonly [string, bigint])[], algorithm = "average") {
  const fields = columns({ sex: "text", pay: "integer" });
  const plan = planGroupings(fields, { algorithm, algorithmColumns: { sex: "pay" } });
  const summary = GroupedSummary.start(plan);
  for (const batch of batchesOf(fields, rows)) summary.addBatch(batch);
  const document = groupedToJson(summary, 1);
  summary.close();
  return document;
}

async function twoStewards(t: TestContext, vu?: Answer, uva?: Answer, settings: Record<string, string> = {}) {
  const door = await startFrontDoor(t, { settings });
  return {
    door,
    vu: await door.agent("VU", vu === undefined ? {} : { answer: vu }),
    uva: await door.agent("UVA", uva === undefined ? {} : { answer: uva }),
  };
}

test("rows come piped from every steward, each answer as its agent gave it, and the question went with token and id", async (t) => {
  const { door, vu } = await twoStewards(
    t,
    json(agentAnswer("VU", [{ a: 1 }])),
    json(agentAnswer("UVA", [{ a: 2 }, { a: 3 }])),
  );
  const { status, body } = await ask(door, { ...QUESTION, options: { anonymize: true } });
  assert.equal(status, 200, JSON.stringify(body));
  assert.deepEqual([body.status, body.archetype, body.refused, body.offline], ["ok", "computeToData", [], []]);
  const byName = Object.fromEntries(body.responses.map((response) => [response.provider, response]));
  assert.deepEqual(byName["VU"], JSON.parse(agentAnswer("VU", [{ a: 1 }])));
  assert.deepEqual(byName["UVA"]?.rows, [{ a: 2 }, { a: 3 }]);
  const [received] = vu.requests;
  assert.equal(received?.path, "/agent/v1/sqlDataRequest/vu");
  assert.match(String(received?.headers.authorization), /^Bearer ey/);
  assert.equal(received?.headers["idempotency-key"], body.requestId);
  assert.match(String(received?.headers["traceparent"]), /^00-[0-9a-f]{32}-/);
  assert.deepEqual(received?.body["options"], { anonymize: true });
  assert.deepEqual(received?.body["requestMetadata"], { jobId: body.jobId });
});

test("the stewards' summaries are pooled exactly, and are not shown to whoever did not ask for them", async (t) => {
  const rows: (readonly [string, bigint])[] = [
    ["M", 10n],
    ["M", 20n],
    ["V", 40n],
  ];
  const { door, vu } = await twoStewards(
    t,
    json(agentAnswer("VU", [{ sex: "M", average: 15 }], { summary: summaryOf(rows) })),
    json(agentAnswer("UVA", [{ sex: "M", average: 99 }], { summary: summaryOf([["M", 99n]]) })),
  );
  const { body } = await ask(door, AVERAGE);
  assert.deepEqual(body.pooled?.rows, [
    { sex: "M", average_pay: 43 },
    { sex: "V", average_pay: 40 },
  ]);
  assert.deepEqual(body.pooled?.providers, ["UVA", "VU"]);
  assert.deepEqual(
    body.responses.map(({ provider, summary }) => [provider, summary]),
    [
      ["UVA", undefined],
      ["VU", undefined],
    ],
  );
  assert.equal(vu.requests[0]?.body.options?.["summary"], true);
  const shown = await ask(door, { ...AVERAGE, options: { summary: true } });
  assert.ok(shown.body.responses.every(({ summary }) => summary !== undefined));
});

test("what does not pool without rows says so, and gives the stewards' own", async (t) => {
  const answer = (name: string) =>
    json(agentAnswer(name, [{ median: 1 }], { summary: summaryOf([["M", 1n]], "median") }));
  const { door } = await twoStewards(t, answer("VU"), answer("UVA"));
  const { body } = await ask(door, { ...AVERAGE, algorithm: "median" });
  assert.match(body.pooled?.notes[0] ?? "", /median does not pool/);
  assert.equal(body.pooled?.rows, undefined);
  assert.equal(body.responses.length, 2);
});

test("one steward that fails leaves the other's answer and no pooled one, unless a partial one is allowed", async (t) => {
  const whole = json(agentAnswer("VU", [{ average: 1 }], { summary: summaryOf([["M", 1n]]) }));
  const { door } = await twoStewards(t, whole, problem("agreement_gone"));
  const { status, body } = await ask(door, AVERAGE);
  assert.deepEqual([status, body.status, body.pooled], [200, "partial", undefined]);
  assert.match(body.notes[0] ?? "", /UVA has none.*allowPartial/);
  const refused = body.responses.find(({ provider }) => provider === "UVA");
  assert.deepEqual(
    [refused?.status, refused?.problem?.code, refused?.problem?.party],
    ["refused", "agreement_gone", "UVA"],
  );
  const partial = await ask(door, { ...AVERAGE, options: { allowPartial: true } });
  assert.deepEqual(partial.body.pooled?.providers, ["VU"]);
});

test("where no steward has a result it is a problem with a status, and every steward's outcome in it", async (t) => {
  const { door } = await twoStewards(t, problem("query_invalid"), problem("memory_limit_exceeded"));
  for (const question of [QUESTION, AVERAGE]) {
    const { status, body } = await ask(door, question);
    assert.deepEqual([status, body.code, body.party], [422, "memory_limit_exceeded", "UVA"]);
    assert.deepEqual(
      body.responses.map(({ provider, status: outcome }) => [provider, outcome]),
      [
        ["UVA", "failed"],
        ["VU", "failed"],
      ],
    );
  }
});

test("a steward that cannot be reached, or does not answer in time, has given no answer", async (t) => {
  const { door, uva } = await twoStewards(t, json(agentAnswer("VU", [])), () => undefined);
  const outcomeOfUva = async () => {
    const { body } = await ask(door);
    const { status, problem: document } = body.responses.find(({ provider }) => provider === "UVA") ?? {};
    return [body.status, status, document?.code];
  };
  await uva.stopServing();
  assert.deepEqual(await outcomeOfUva(), ["partial", "no_answer", "agent_offline"]);
});

test("an agent that is silent past the deadline is given up, named, and told to cancel", async (t) => {
  const { door, uva } = await twoStewards(t, json(agentAnswer("VU", [])), () => undefined, {
    DYNAMOS_REQUEST_DEADLINE_MS: "1000",
  });
  const { body } = await ask(door, AVERAGE);
  const outcome = body.responses.find(({ provider }) => provider === "UVA");
  assert.deepEqual([outcome?.status, outcome?.problem?.code], ["no_answer", "agent_timeout"]);
  await eventually(() => uva.cancels.includes(body.requestId));
});

test("an agent that breaks off in the middle leaves valid JSON, its whole rows, and a problem", async (t) => {
  const broken: Answer = (_request, response) => {
    response.setHeader("content-type", "application/json");
    response.write('{"provider":"UVA","rows":[{"n":1},{"n":2},{"n"', () => response.destroy());
  };
  const { door } = await twoStewards(t, json(agentAnswer("VU", [{ n: 0 }])), broken);
  const { status, body } = await ask(door);
  const outcome = body.responses.find(({ provider }) => provider === "UVA");
  assert.deepEqual(
    [status, body.status, outcome?.status, outcome?.problem?.code],
    [200, "partial", "failed", "stream_interrupted"],
  );
  assert.ok([[{ n: 1 }], [{ n: 1 }, { n: 2 }]].some((rows) => JSON.stringify(rows) === JSON.stringify(outcome?.rows)));
});

test("a failure that an agent's answer ends with counts as one", async (t) => {
  const late = JSON.stringify({
    provider: "UVA",
    rows: [{ n: 1 }],
    status: "failed",
    problem: toProblem(new AppError("time_limit_exceeded", "Too long.")),
  });
  const { door } = await twoStewards(t, json(agentAnswer("VU", [])), json(late));
  assert.equal((await ask(door)).body.status, "partial");
  const { body } = await ask(door, AVERAGE);
  assert.equal(body.responses.find(({ provider }) => provider === "UVA")?.problem?.code, "time_limit_exceeded");
});

test("an answer to be pooled that is larger than the limit fails alone, and names the setting", async (t) => {
  const large = json(agentAnswer("UVA", [{ text: "x".repeat(20_000) }]));
  const { door } = await twoStewards(t, json(agentAnswer("VU", [])), large, {
    DYNAMOS_MAX_POOLED_ANSWER_BYTES: "10000",
  });
  const { body } = await ask(door, AVERAGE);
  const outcome = body.responses.find(({ provider }) => provider === "UVA");
  assert.equal(outcome?.problem?.code, "result_too_large");
  assert.match(outcome?.problem?.detail ?? "", /DYNAMOS_MAX_POOLED_ANSWER_BYTES/);
});

test("more answers gathered at once than the limit are refused for now, and rows are not counted", async (t) => {
  const waiting: ServerResponse[] = [];
  const held: Answer = (_request, response) => void waiting.push(response);
  const { door } = await twoStewards(t, held, held, {
    DYNAMOS_MAX_GATHERED_REQUESTS: "1",
    // So that it fails, and does not hang, where there is no limit.
    DYNAMOS_REQUEST_DEADLINE_MS: "20000",
  });
  const first = ask(door, AVERAGE, { dataProviders: ["VU"] });
  const [response] = await eventually(() => (waiting.length === 1 ? waiting : undefined));
  const second = await ask(door, AVERAGE, { dataProviders: ["UVA"] });
  assert.deepEqual([second.status, second.body.code, second.headers.get("retry-after")], [429, "rate_limited", "2"]);
  const rows = ask(door, QUESTION, { dataProviders: ["UVA"] });
  await eventually(() => waiting.length === 2);
  waiting[1]?.end(agentAnswer("UVA", []));
  assert.equal((await rows).status, 200);
  response?.end(agentAnswer("VU", []));
  assert.equal((await first).status, 200);
  const third = ask(door, AVERAGE, { dataProviders: ["UVA"] });
  await eventually(() => waiting.length === 3);
  waiting[2]?.end(agentAnswer("UVA", []));
  assert.equal((await third).status, 200, "the place is free again");
});

test("through the third party its one answer is the pooled one", async (t) => {
  const { door } = await twoStewards(t);
  const providers = [
    { name: "VU", rows: 3, status: "ok" },
    { name: "UVA", rows: 4, status: "ok" },
  ];
  const surf = await door.agent("SURF", {
    answer: json(agentAnswer("SURF", [{ average: 7 }], { providers, withheldGroups: 2 })),
  });
  const { body } = await ask(door, { ...AVERAGE, options: { aggregate: true } });
  assert.equal(body.archetype, "dataThroughTtp");
  assert.deepEqual(
    body.responses.map(({ provider }) => provider),
    ["SURF"],
  );
  assert.deepEqual(
    [body.pooled?.rows, body.pooled?.withheldGroups, body.pooled?.providers],
    [[{ average: 7 }], 2, ["VU", "UVA"]],
  );
  assert.equal(surf.requests[0]?.body.options?.["summary"], undefined);
});

test("a caller that reads nothing stops the agent's stream, and one that goes cancels it", async (t) => {
  let written = 0;
  const endless: Answer = async (_request, response) => {
    response.setHeader("content-type", "application/json");
    response.write('{"provider":"VU","rows":[{"n":0}');
    const row = `,{"text":"${"x".repeat(64 * 1024)}"}`;
    while (!response.destroyed) {
      if (response.write(row)) written += row.length;
      else await new Promise<void>((resolve) => response.once("drain", resolve).once("close", resolve));
    }
  };
  const door = await startFrontDoor(t);
  const vu = await door.agent("VU", { answer: endless });
  const body = JSON.stringify({ type: "sqlDataRequest", user: ANALYST, dataProviders: ["VU"], data_request: QUESTION });
  const caller = httpRequest(`${door.url}/api/v1/requestApproval`, {
    method: "POST",
    headers: { "content-type": "application/json" },
  });
  caller.on("error", () => undefined);
  const status = await new Promise<number | undefined>((resolve) => {
    caller.on("response", (response) => {
      response.pause();
      resolve(response.statusCode);
    });
    caller.end(body);
  });
  assert.equal(status, 200);
  let before = -1;
  await eventually(
    () => {
      const isStill = written === before;
      before = written;
      return isStill;
    },
    { intervalMs: 300, describe: "the agent's stream to stop" },
  );
  assert.ok(written < 64 * 1024 * 1024, `${String(written)} bytes went to a caller that reads nothing`);
  const answering = vu.requests[0]?.message;
  caller.destroy();
  await eventually(() => answering?.destroyed === true || answering?.socket.destroyed === true);
  await eventually(() => vu.cancels.length === 1);
});

test("a caller that goes after the job moved in the middle cancels it where it is now", async (t) => {
  const door = await startFrontDoor(t);
  await door.agent("VU", {
    answer: async (request, response) => {
      await door.knowledge.put("agreements", agreementOf("VU", { archetypes: ["dataThroughTtp"] }));
      await problem("job_moved")(request, response);
    },
  });
  const surf = await door.agent("SURF", { answer: () => undefined });
  const { bearer } = await approved(door, ["VU"]);
  const caller = new AbortController();
  const answer = fetch(`${door.url}/api/v1/sqlDataRequest`, {
    method: "POST",
    headers: { ...bearer, "content-type": "application/json" },
    body: JSON.stringify(QUESTION),
    signal: caller.signal,
  });
  await eventually(() => surf.requests.length === 1);
  caller.abort();
  await assert.rejects(answer);
  await eventually(() => surf.cancels.length === 1);
});

test("many requests at once keep to their own answers", async (t) => {
  const echo: Answer = ({ body, headers }, response) => {
    response.setHeader("content-type", "application/json");
    const rows = [{ query: body["query"], id: headers["idempotency-key"] }];
    setTimeout(() => response.end(agentAnswer("VU", rows)), Math.random() * 20);
  };
  const { door } = await twoStewards(t, echo, echo);
  const answers = await Promise.all(
    Array.from({ length: 20 }, (_, index) => ask(door, { ...QUESTION, query: `SELECT ${String(index)}` })),
  );
  answers.forEach(({ body }, index) => {
    for (const { rows } of body.responses)
      assert.deepEqual(rows, [{ query: `SELECT ${String(index)}`, id: body.requestId }]);
  });
  assert.equal(new Set(answers.map(({ body }) => body.requestId)).size, 20);
});

async function approved(door: FrontDoor, dataProviders: readonly string[] = ["VU", "UVA"]) {
  const { body } = await call("POST", `${door.url}/api/v1/requestApproval`, {
    type: "sqlDataRequest",
    user: ANALYST,
    dataProviders,
  });
  const bearer = { authorization: `Bearer ${body.auth.accessToken}` };
  return {
    body,
    bearer,
    again: (question: object, headers = {}) =>
      call("POST", `${door.url}/api/v1/sqlDataRequest`, question, { ...bearer, ...headers }),
  };
}

test("a token asks again through the front door, as often as wanted", async (t) => {
  const { door } = await twoStewards(t);
  const { body, again } = await approved(door);
  for (let times = 0; times < 2; times++) {
    const answer = await again(QUESTION);
    assert.deepEqual([answer.status, answer.body.jobId, answer.body.responses.length], [200, body.jobId, 2]);
  }
  const older = await again({ ...QUESTION, graph: true, anonymize: false });
  assert.equal(older.status, 200, "the older form's booleans are options");
});

test("without token, with a forged one, or for another type the front door refuses", async (t) => {
  const { door, vu } = await twoStewards(t);
  const { body, bearer } = await approved(door);
  const post = (path: string, headers: Record<string, string>) =>
    call("POST", `${door.url}/api/v1/${path}`, QUESTION, headers);
  assert.equal((await post("sqlDataRequest", {})).body.code, "unauthenticated");
  assert.equal(
    (await post("sqlDataRequest", { authorization: `Bearer ${body.auth.accessToken}x` })).body.code,
    "token_invalid",
  );
  assert.equal(
    (await post("sqlDataRequest", { authorization: `Bearer ${body.auth.refreshToken}` })).body.code,
    "token_invalid",
  );
  assert.equal((await post("otherRequest", bearer)).body.code, "request_denied");
  assert.equal((await post("constructor", bearer)).body.code, "request_denied");
  assert.equal(vu.requests.length, 0);
});

test("a refresh token gives a new access token, and an access token does not", async (t) => {
  const { door } = await twoStewards(t);
  const { body, bearer } = await approved(door);
  const refreshed = await call("POST", `${door.url}/api/v1/token`, { refreshToken: body.auth.refreshToken });
  assert.equal(refreshed.status, 200, JSON.stringify(refreshed.body));
  const answer = await call("POST", `${door.url}/api/v1/sqlDataRequest`, QUESTION, {
    authorization: `Bearer ${refreshed.body.accessToken}`,
  });
  assert.equal(answer.status, 200);
  assert.equal((await call("POST", `${door.url}/api/v1/token`, {}, bearer)).body.code, "token_invalid");
});

test("a job that nobody uses ends, and says so", async (t) => {
  const { door } = await twoStewards(t, undefined, undefined, { DYNAMOS_JOB_LEASE_MS: "3000" });
  const { body, again } = await approved(door);
  await eventually(async () => (await door.knowledge.store.get(`/orchestrator/jobs/${body.jobId}`)) === undefined, {
    timeoutMs: 20_000,
  });
  const answer = await again(QUESTION);
  assert.deepEqual([answer.status, answer.body.code], [404, "job_unknown"]);
  const refreshed = await call("POST", `${door.url}/api/v1/token`, { refresh_token: body.auth.refreshToken });
  assert.equal(refreshed.body.code, "job_unknown");
});

test("an Idempotency-Key approves once, goes to the same job under the same id, and stands for one question", async (t) => {
  const { door, vu } = await twoStewards(t);
  const key = { "idempotency-key": "my-question" };
  const replica = { ...door, url: await door.replica() };
  const answers = await Promise.all([
    ask(door, QUESTION, {}, key),
    ask(replica, QUESTION, {}, key),
    ask(door, QUESTION, {}, key),
  ]);
  assert.deepEqual(
    answers.map(({ status }) => status),
    [200, 200, 200],
  );
  assert.equal(new Set(answers.map(({ body }) => body.jobId)).size, 1);
  assert.equal(new Set(answers.map(({ body }) => body.requestId)).size, 1);
  assert.equal(vu.compositions.length, 1);
  assert.deepEqual(
    new Set(vu.requests.map(({ headers }) => headers["idempotency-key"])),
    new Set([answers[0]?.body.requestId]),
  );
  const other = await ask(door, { ...QUESTION, query: "SELECT 2" }, {}, key);
  assert.deepEqual([other.status, other.body.code], [422, "idempotency_key_reused"]);
});

test("members and request types that every object has are refused like any unknown one", async (t) => {
  const { door } = await twoStewards(t);
  const unknown = { type: "constructor", user: ANALYST, dataProviders: ["VU"] };
  const strange = { ...unknown, user: { ...ANALYST, constructor: "x" } };
  const refused = await call("POST", `${door.url}/api/v1/requestApproval`, strange);
  assert.deepEqual([refused.status, refused.body.code], [400, "bad_request"], refused.text);
  assert.match(refused.body.pointer, /^\/user\/constructor$/, "the member is named as it was sent");
  assert.equal((await call("POST", `${door.url}/api/v1/requestApproval`, unknown)).body.code, "invalid_argument");
});

test("a refused approval leaves its Idempotency-Key free", async (t) => {
  const door = await startFrontDoor(t);
  const key = { "idempotency-key": "0b0e8400-e29b-41d4-a716-446655440000" };
  assert.equal((await ask(door, QUESTION, {}, key)).body.code, "no_authorized_providers");
  await door.agent("VU");
  const { status, body } = await ask(door, QUESTION, {}, key);
  assert.deepEqual([status, body.requestId], [200, key["idempotency-key"]]);
});

test("an asynchronous request gives a place where its answer will be, for its caller alone", async (t) => {
  const waiting: ServerResponse[] = [];
  const { door } = await twoStewards(t, (_request: ReceivedRequest, response) => void waiting.push(response));
  const { bearer, again } = await approved(door, ["VU"]);
  const accepted = await again(QUESTION, { prefer: "respond-async" });
  assert.equal(accepted.status, 202);
  const location = `${door.url}${String(accepted.headers.get("location"))}`;
  assert.equal((await call("GET", location, undefined, bearer)).status, 202);
  assert.equal((await call("GET", location)).body.code, "unauthenticated");
  const [response] = await eventually(() => (waiting.length > 0 ? waiting : undefined));
  response?.setHeader("content-type", "application/json").end(agentAnswer("VU", [{ n: 7 }]));
  const answer = await eventually(async () => {
    const found = await call("GET", location, undefined, bearer);
    return found.status === 200 ? found : undefined;
  });
  assert.deepEqual(answer.body.responses[0]?.rows, [{ n: 7 }]);
  assert.equal((await call("DELETE", location, undefined, bearer)).status, 204);
  assert.equal((await call("GET", location, undefined, bearer)).status, 404);
});

test("an asynchronous request that fails is a problem at its place, and one that is cancelled ends at the agent", async (t) => {
  const door = await startFrontDoor(t);
  const vu = await door.agent("VU", { answer: problem("query_invalid") });
  const failing = await approved(door, ["VU"]);
  const first = await failing.again(QUESTION, { prefer: "respond-async" });
  await eventually(async () => {
    const { body } = await call("GET", `${door.url}${first.body.location}`, undefined, failing.bearer);
    return body.code === "query_invalid";
  });
  const silent = await door.agent("UVA", { answer: () => undefined });
  const running = await approved(door, ["UVA"]);
  const second = await running.again(QUESTION, { prefer: "respond-async" });
  await eventually(() => silent.requests.length === 1);
  assert.equal((await call("DELETE", `${door.url}${second.body.location}`, undefined, running.bearer)).status, 204);
  await eventually(() => silent.cancels.length === 1);
  assert.equal(vu.cancels.length, 0);
});

test("one of a caller's own key is cancelled by that key, at the agent too, though a caller that only goes may ask again", async (t) => {
  const door = await startFrontDoor(t);
  const silent = await door.agent("VU", { answer: () => undefined });
  const { bearer, again } = await approved(door, ["VU"]);
  for (const [index, key] of ["my-key", "0B0E8400-E29B-41D4-A716-446655440000"].entries()) {
    const { status } = await again(QUESTION, { prefer: "respond-async", "idempotency-key": key });
    assert.equal(status, 202);
    await eventually(() => silent.requests.length === index + 1);
    assert.equal((await call("DELETE", `${door.url}/api/v1/requests/${key}`, undefined, bearer)).status, 204);
    await eventually(() => silent.cancels.length === index + 1);
  }
});

test("the keys at the front door verify its tokens, and hold no private part", async (t) => {
  const door = await startFrontDoor(t);
  const { body } = await call("GET", `${door.url}/.well-known/jwks.json`);
  const [key] = (body as unknown as { keys: Record<string, unknown>[] }).keys;
  assert.deepEqual([key?.["kty"], key?.["crv"], key?.["d"]], ["OKP", "Ed25519", undefined]);
});
