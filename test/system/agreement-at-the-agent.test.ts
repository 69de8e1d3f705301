import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";
import { eventually } from "../support/eventually.ts";
import { rejectsWith, testExchange } from "../support/exchange.ts";
import {
  KNOWN_SUMS,
  NUMBERS_APPROVAL,
  numbersAgreement,
  numbersConfiguration,
  SUM_QUESTION,
  sumsOf,
} from "../support/numbers.ts";
import { assertNothingLeft, chainProcess, slowQuery, startedChains } from "../support/running-chains.ts";

const exchange = await testExchange({
  configuration: await numbersConfiguration(),
  environment: { DYNAMOS_ONLINE_LEASE_MS: "2000" },
});
const { client, adminKey } = exchange;
/** None of these changes touches a plan, so that only the agents themselves can notice. */
const grant = (name: string, relation: object = {}) =>
  client.put("policyEnforcer", numbersAgreement(name, {}, relation), { token: adminKey });

beforeEach(async () => {
  for (const name of ["VU", "UVA"]) await grant(name);
});

async function approvedAt(party: string) {
  const options = party === "SURF" ? { options: { aggregate: true } } : {};
  const { auth, authorizedProviders } = await client.requestApproval({ ...NUMBERS_APPROVAL, ...options });
  return (idempotencyKey: string, changes: object = {}) =>
    client.askAgent(
      authorizedProviders[party] ?? "",
      { ...SUM_QUESTION, ...changes },
      { token: auth.accessToken, idempotencyKey },
    );
}

describe("the same request again, after the agreement has changed,", () => {
  test("is answered under what it allows now, and again as long as that stays", async () => {
    const ask = await approvedAt("VU");
    const first = await ask("home");
    assert.deepEqual(sumsOf(first.rows), KNOWN_SUMS.VU);
    await grant("VU", { minimumGroupSize: 2 });
    const narrowed = await ask("home");
    assert.deepEqual([sumsOf(narrowed.rows), narrowed.withheldGroups], [{ a: 3 }, 1]);
    assert.deepEqual(await ask("home"), narrowed);
    assert.equal(startedChains(exchange, "VU", first.requestId), 2);
    await grant("VU", { operations: ["count"] });
    await rejectsWith(ask("home"), "operation_denied");
  });

  test("is answered anew by a third party, too, when a data provider's agreement has changed", async () => {
    const ask = await approvedAt("SURF");
    assert.deepEqual(sumsOf((await ask("pooled")).rows), KNOWN_SUMS.pooled);
    await grant("UVA", { operations: ["count"] });
    await rejectsWith(ask("pooled"), "operation_denied");
  });

  test("ends the run under the old one with agreement_gone", async () => {
    const ask = await approvedAt("VU");
    const slow = { query: slowQuery(1e12), algorithm: "count", algorithmColumns: { "": "*" } };
    const old = rejectsWith(ask("running", slow), "agreement_gone");
    const query = await chainProcess(exchange, "VU", "query-child");
    await grant("VU", { minimumGroupSize: 2 });
    // The new run is ended by a change that denies the question altogether: nothing of it need be waited for.
    const again = ask("running", { ...slow });
    const ended = rejectsWith(again, "agreement_gone");
    assert.equal((await old)["party"], "VU");
    await eventually(async () => (await chainProcess(exchange, "VU", "query-child")) !== query);
    await client.put("policyEnforcer", numbersAgreement("VU", { relations: {} }), { token: adminKey });
    await ended;
  });
});

test("a data provider that is not online is named as such by the third party, and left out where that is allowed", async () => {
  const ask = await approvedAt("SURF");
  const killed = exchange.services.get("agent-VU");
  killed?.kill("SIGKILL");
  await killed?.exited;
  await eventually(async () => !("VU" in ((await client.get("getAvailableProviders")) as object)));
  const { party } = await rejectsWith(ask("without"), "agent_offline");
  assert.equal(party, "VU");
  const partial = await ask("partial", { options: { allowPartial: "true" } });
  assert.deepEqual(sumsOf(partial.rows), KNOWN_SUMS.UVA);
  await exchange.startAgent("VU");
  assert.deepEqual(sumsOf((await ask("with")).rows), KNOWN_SUMS.pooled);
  await assertNothingLeft(exchange);
});
