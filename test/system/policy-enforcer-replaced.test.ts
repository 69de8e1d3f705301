import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { after, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { ANALYST, rejectsWith, testExchange } from "../support/exchange.ts";
import { NUMBERS_APPROVAL, numbersConfiguration, SUM_QUESTION, sumsOf } from "../support/numbers.ts";

const exchange = await testExchange({ configuration: await numbersConfiguration(), withoutPolicyEnforcer: true });
const { client } = exchange;
const EVERYTHING = {
  allowedArchetypes: ["computeToData", "dataThroughTtp"],
  allowedComputeProviders: ["SURF"],
  dataSets: ["numbers"],
};

/** Puts another program in the enforcer's place; resolves once it answers, with what ends it. */
async function startOtherEnforcer(allowed: object, refusals: object = {}): Promise<() => Promise<void>> {
  const program = fileURLToPath(new URL("../support/other-enforcer.js", import.meta.url));
  const child = spawn(process.execPath, [program, exchange.busUrl, JSON.stringify(allowed), JSON.stringify(refusals)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const ended = once(child, "exit");
  const stop = async (): Promise<void> => {
    child.kill("SIGKILL");
    await ended;
  };
  after(stop);
  await once(child.stdout, "data");
  return stop;
}

describe("another program in the policy enforcer's place", () => {
  test("before it is there, nothing is allowed, and the refusal comes within its time", async () => {
    const startedMs = performance.now();
    const refused = await rejectsWith(client.requestApproval(NUMBERS_APPROVAL), "unavailable");
    assert.equal(refused["party"], "policyEnforcer");
    assert.equal(refused["retryable"], true);
    assert.ok(performance.now() - startedMs < 10_000);
  });

  test("its answers decide, its own reason codes too", async () => {
    const stop = await startOtherEnforcer(EVERYTHING, { UVA: { code: "closed_on_sundays", detail: "UVA is closed." } });
    const answer = await client.ask({ ...NUMBERS_APPROVAL, data_request: SUM_QUESTION });
    assert.deepEqual(answer.refused, [{ provider: "UVA", code: "closed_on_sundays", detail: "UVA is closed." }]);
    assert.deepEqual(sumsOf(answer.responses[0]?.rows), { a: 3, b: 10 });
    await stop();
  });

  test("it may narrow the archetypes, and the token it led to works as long as it says so", async () => {
    const stop = await startOtherEnforcer({ ...EVERYTHING, allowedArchetypes: ["dataThroughTtp"] });
    const approval = await client.requestApproval(NUMBERS_APPROVAL);
    assert.equal(approval.archetype, "dataThroughTtp");
    const token = approval.auth.accessToken;
    assert.deepEqual(sumsOf((await client.askAgain(SUM_QUESTION, { token })).pooled?.rows), { a: 103, b: 2010 });
    await stop();
  });

  test("it cannot allow what a steward's own agreement does not: the agent asks that itself", async () => {
    const stop = await startOtherEnforcer(EVERYTHING);
    const stranger = { ...ANALYST, userName: "stranger@example.org" };
    const refused = await rejectsWith(
      client.ask({ ...NUMBERS_APPROVAL, user: stranger, data_request: SUM_QUESTION }),
      "agreement_gone",
    );
    const { responses } = refused["details"] as { responses: { status: string; problem: { refusal: string } }[] };
    assert.deepEqual(
      responses.map(({ status, problem }) => [status, problem.refusal]),
      [
        ["refused", "no_relation"],
        ["refused", "no_relation"],
      ],
    );
    await stop();
  });

  test("one that takes the question and does not answer is unavailable, before the deadline", async () => {
    const stop = await startOtherEnforcer(EVERYTHING);
    const startedMs = performance.now();
    const silent = client.requestApproval({ ...NUMBERS_APPROVAL, dataProviders: ["VU", "Silent"] });
    const refused = await rejectsWith(silent, "unavailable");
    assert.match(String(refused["message"]), /policy enforcer did not answer within \d+ ms/);
    assert.ok(performance.now() - startedMs < 10_000);
    assert.equal((await client.requestApproval(NUMBERS_APPROVAL)).archetype, "computeToData", "the next one works");
    await stop();
  });
});
