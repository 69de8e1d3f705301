import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { call } from "../../cli/client.ts";
import { rejectsWith, smallSample, testExchange } from "../support/exchange.ts";
import { approve, assertNothingLeft, chainProcess, slowQuery } from "../support/running-chains.ts";

/** Would run for many minutes. */
const ENDLESS = { type: "sqlDataRequest", query: slowQuery(1e12) };
const DEADLINE_MS = 15_000;

const exchange = await testExchange({
  configuration: await smallSample(20),
  offline: ["RUG"],
  environmentOf: { "agent-UVA": { DYNAMOS_REQUEST_DEADLINE_MS: String(DEADLINE_MS), DYNAMOS_MAX_RUNS: "1" } },
});

describe("a request under way", () => {
  test("ends when its caller deletes it", async () => {
    const { token, endpoint } = await approvedAt("VU");
    const answer = rejectsWith(
      exchange.client.askAgent(endpoint, ENDLESS, { token, idempotencyKey: "to-be-deleted" }),
      "cancelled",
    );
    await chainProcess(exchange, "VU", "query-child");
    const request = new URL("/agent/v1/requests/to-be-deleted", endpoint).href;
    assert.equal((await call("DELETE", request, undefined, { token })).status, 204);
    await answer;
    await assertNothingLeft(exchange);
    assert.equal((await call("DELETE", request, undefined, { token })).status, 404);
  });

  test("ends when its caller hangs up", async () => {
    const { token, endpoint } = await approvedAt("VU");
    await hangUp((signal) => call("POST", endpoint, ENDLESS, { token, signal }), ["VU"]);
    await assertNothingLeft(exchange);
  });

  test("ends at the data providers, too, when its caller hangs up at the third party", async () => {
    const { token, endpoint } = await approvedAt("SURF");
    await hangUp((signal) => call("POST", endpoint, ENDLESS, { token, signal }), ["VU", "UVA"]);
    await assertNothingLeft(exchange);
  });

  test("ends at all stewards when its caller hangs up at the front door", async () => {
    const { token } = await approvedAt("VU", "UVA");
    const url = `${exchange.url}/api/v1/sqlDataRequest`;
    await hangUp((signal) => call("POST", url, ENDLESS, { token, signal }), ["VU", "UVA"]);
    await assertNothingLeft(exchange);
  });

  test("ends at its deadline, and so does one that still waits for its turn", async () => {
    const { token, endpoint } = await approvedAt("UVA");
    const asked = [1, 2].map(() =>
      rejectsWith(exchange.client.askAgent(endpoint, ENDLESS, { token }), "deadline_exceeded"),
    );
    for (const failure of await Promise.all(asked)) assert.equal(failure["party"], "UVA");
    await assertNothingLeft(exchange);
  });
});

/** An approval by which this party answers: by itself, or, SURF, for VU and UVA; with several, all at home. */
async function approvedAt(...parties: string[]): Promise<{ readonly token: string; readonly endpoint: string }> {
  const throughThirdParty = parties[0] === "SURF";
  const approval = await approve(exchange, throughThirdParty ? ["VU", "UVA"] : parties, { throughThirdParty });
  return { token: approval.auth.accessToken, endpoint: approval.authorizedProviders[parties[0] ?? ""] ?? "" };
}

/** Asks, and hangs up as soon as the queries of these parties run. */
async function hangUp(ask: (signal: AbortSignal) => Promise<unknown>, parties: readonly string[]): Promise<void> {
  const leaving = new AbortController();
  const answer = assert.rejects(ask(leaving.signal), { name: "AbortError" });
  await Promise.all(parties.map((party) => chainProcess(exchange, party, "query-child")));
  leaving.abort();
  await answer;
}
