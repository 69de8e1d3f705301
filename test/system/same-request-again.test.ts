import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { call, type Answer, type Approval, type GatheredAnswer } from "../../cli/client.ts";
import { ANALYST, changeDocument, rejectsWith, SALARY_QUERY, smallSample, testExchange } from "../support/exchange.ts";
import { approve, assertNothingLeft, pauseQueries, slowQuery, startedChains } from "../support/running-chains.ts";

const OTHER = { id: "analyst-2", userName: "other@example.org" };
const COUNT = { type: "sqlDataRequest", query: SALARY_QUERY, algorithm: "count", algorithmColumns: { Geslacht: "*" } };
const steps = (count: number) => ({ type: "sqlDataRequest", query: slowQuery(count) });

const exchange = await testExchange({ configuration: await smallSample(20), offline: ["RUG"] });
await changeDocument<{ relations: Record<string, object> }>(exchange, "policyEnforcer", "VU", (agreement) => ({
  ...agreement,
  relations: {
    ...agreement.relations,
    [OTHER.userName]: { ...agreement.relations[ANALYST.userName], ID: OTHER.id },
  },
}));
const approval = await approve(exchange, ["VU"]);
const othersApproval = await approve(exchange, ["VU"], { user: OTHER });
exchange.atEnd(() => assertNothingLeft(exchange));

describe("the same request again, under its Idempotency-Key, at an agent", () => {
  test("at once and after the end: one run, and the same answer each time", async () => {
    const key = "at-once";
    const atOnce = await Promise.all([ask(COUNT, key), ask(COUNT, key)]);
    const later = await ask(COUNT, key);
    assert.ok((later.rows?.length ?? 0) > 0);
    assert.deepEqual(atOnce, [later, later]);
    assert.equal(startedChains(exchange, "VU", later.requestId), 1);
  });

  test("in the middle of the run, its first caller gone: it attaches, and gets the whole", async () => {
    const key = "attaches";
    const leaving = new AbortController();
    const first = assert.rejects(ask(steps(3_000_000), key, approval, leaving.signal), { name: "AbortError" });
    const goOn = await pauseQueries(exchange, "VU");
    leaving.abort();
    await first;
    goOn();
    const answer = await ask(steps(3_000_000), key);
    assert.deepEqual(answer.rows, [{ steps: 3_000_000 }]);
    assert.equal(startedChains(exchange, "VU", answer.requestId), 1);
  });

  test("with another question: idempotency_key_reused, and the first one's answer stays", async () => {
    const first = await ask(steps(1), "one-question");
    await rejectsWith(ask(steps(2), "one-question"), "idempotency_key_reused");
    assert.deepEqual(await ask(steps(1), "one-question"), first);
  });

  test("after it failed: it runs again, once for all who ask", async () => {
    const wrong = { type: "sqlDataRequest", query: "SELECT nothing FROM Personen" };
    await rejectsWith(ask(wrong, "fails"), "query_invalid");
    const before = startedChains(exchange, "VU");
    await Promise.all([1, 2, 3].map(() => rejectsWith(ask(wrong, "fails"), "query_invalid")));
    assert.equal(startedChains(exchange, "VU") - before, 1);
  });

  test("of another user: two requests that know nothing of each other, even when one is cancelled", async () => {
    const key = "a-key-that-both-chose";
    const mine = ask(steps(4_000_000), key);
    const others = rejectsWith(ask(steps(5_000_000), key, othersApproval), "cancelled");
    const goOn = await pauseQueries(exchange, "VU", 2);
    const token = othersApproval.auth.accessToken;
    const url = new URL(`/agent/v1/requests/${key}`, endpoint()).href;
    const cancelled = await call("DELETE", url, undefined, { token });
    assert.equal(cancelled.status, 204);
    await others;
    goOn();
    assert.deepEqual((await mine).rows, [{ steps: 4_000_000 }]);
  });
});

describe("the same request again, under its Idempotency-Key, at the front door", () => {
  test("at once and after the end: one approval, one run at each party, the same answer each time", async () => {
    const atOnce = await Promise.all([askAll("front", 1), askAll("front", 1)]);
    const later = await askAll("front", 1);
    for (const answer of [...atOnce, later]) {
      assert.equal(answer.jobId, later.jobId);
      assert.deepEqual(rowsOf(answer), { UVA: [{ steps: 1 }], VU: [{ steps: 1 }] });
    }
    for (const party of ["VU", "UVA"]) assert.equal(startedChains(exchange, party, later.requestId), 1);
  });

  test("with another question: idempotency_key_reused", async () => {
    await askAll("front-other", 1);
    await rejectsWith(askAll("front-other", 2), "idempotency_key_reused");
  });
});

test("different requests of one user at once, without keys, never mix", async () => {
  const counts = [101, 202, 303, 404];
  const answers = await Promise.all(counts.map((count) => ask(steps(count))));
  assert.deepEqual(
    answers.map(({ rows }) => rows?.[0]?.["steps"]),
    counts,
  );
});

function endpoint(): string {
  return approval.authorizedProviders["VU"] ?? "";
}

function ask(
  question: object & { type: string; query: string },
  idempotencyKey?: string,
  as: Approval = approval,
  signal?: AbortSignal,
): Promise<Answer> {
  return exchange.client.askAgent(endpoint(), question, {
    token: as.auth.accessToken,
    ...(idempotencyKey === undefined ? {} : { idempotencyKey }),
    ...(signal === undefined ? {} : { signal }),
  });
}

function askAll(idempotencyKey: string, count: number): Promise<GatheredAnswer> {
  const request = { type: "sqlDataRequest", user: ANALYST, dataProviders: ["VU", "UVA"], data_request: steps(count) };
  return exchange.client.ask(request, { idempotencyKey });
}

function rowsOf(answer: GatheredAnswer): Record<string, unknown> {
  return Object.fromEntries(answer.responses.map(({ provider, rows }) => [provider, rows]));
}
