import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { eventually } from "../support/eventually.ts";
import { pauseService, rejectsWith, testExchange } from "../support/exchange.ts";
import { KNOWN_SUMS, NUMBERS_APPROVAL, numbersConfiguration, SUM_QUESTION, sumsOf } from "../support/numbers.ts";

const COMPOSITION_MS = 2_500;
const REQUEST_DEADLINE_MS = 8_000;
const ACCEPT_MS = 4_000;
/** What an error may take beyond the time-out that it reports, on a busy machine. */
const MARGIN_MS = 10_000;

/** An agent that is silent counts as online for half a minute here: its silence is met, not its absence. */
const patient = await testExchange({
  configuration: await numbersConfiguration(),
  environmentOf: {
    orchestrator: {
      DYNAMOS_COMPOSITION_TIMEOUT_MS: String(COMPOSITION_MS),
      DYNAMOS_REQUEST_DEADLINE_MS: String(REQUEST_DEADLINE_MS),
    },
    "agent-VU": { DYNAMOS_ONLINE_LEASE_MS: "30000" },
    "agent-UVA": { DYNAMOS_ONLINE_LEASE_MS: "2000" },
    "agent-SURF": { DYNAMOS_ONLINE_LEASE_MS: "30000", DYNAMOS_PROVIDER_ACCEPT_MS: String(ACCEPT_MS) },
  },
});
const { client } = patient;
const pause = (party: string): Promise<() => void> => pauseService(patient, `agent-${party}`);
const ask = (changes: object = {}) => client.ask({ ...NUMBERS_APPROVAL, data_request: SUM_QUESTION, ...changes });
const providersOnline = async () => Object.keys((await client.get("getAvailableProviders")) as object);

async function within<Result>(ms: number, work: Promise<Result>): Promise<Result> {
  const startedMs = performance.now();
  const result = await work;
  const tookMs = performance.now() - startedMs;
  assert.ok(tookMs < ms, `it took ${tookMs.toFixed(0)} ms, not ${String(ms)}`);
  return result;
}

describe("an agent that is silent", () => {
  test("when a job is composed is reported, by name and in time, and composes the next one when it is back", async () => {
    const resume = await pause("VU");
    const silent = await within(COMPOSITION_MS + MARGIN_MS, rejectsWith(ask(), "agent_timeout"));
    assert.deepEqual([silent["party"], silent["retryable"], silent["status"]], ["VU", true, 504]);
    const withoutIt = await ask({ dataProviders: ["UVA"] });
    assert.deepEqual(sumsOf(withoutIt.pooled?.rows), KNOWN_SUMS.UVA, "the others are not held up");
    resume();
    assert.deepEqual(sumsOf((await ask()).pooled?.rows), KNOWN_SUMS.pooled);
  });

  test("when it is asked has given no answer by the deadline; the others' results are there", async () => {
    const { auth } = await client.requestApproval(NUMBERS_APPROVAL);
    const token = auth.accessToken;
    const resume = await pause("VU");
    const partial = await within(
      REQUEST_DEADLINE_MS + 5_000 + MARGIN_MS,
      client.askAgain({ ...SUM_QUESTION, options: { allowPartial: true } }, { token }),
    );
    resume();
    assert.equal(partial.status, "partial");
    const [uva, vu] = [...partial.responses].sort((left, right) => (left.provider < right.provider ? -1 : 1));
    assert.deepEqual([vu?.provider, vu?.status, vu?.problem?.code], ["VU", "no_answer", "agent_timeout"]);
    assert.deepEqual([uva?.status, sumsOf(uva?.rows)], ["ok", KNOWN_SUMS.UVA]);
    assert.deepEqual([partial.pooled?.providers, sumsOf(partial.pooled?.rows)], [["UVA"], KNOWN_SUMS.UVA]);
    const whole = await client.askAgain(SUM_QUESTION, { token });
    assert.deepEqual(sumsOf(whole.pooled?.rows), KNOWN_SUMS.pooled, "the same token, once it is back");
  });

  test("when a third party asks it for rows is named in the third party's answer", async () => {
    const approval = await client.requestApproval({ ...NUMBERS_APPROVAL, options: { aggregate: true } });
    const token = approval.auth.accessToken;
    const resume = await pause("VU");
    const failed = await within(
      ACCEPT_MS + MARGIN_MS,
      rejectsWith(client.askAgain(SUM_QUESTION, { token }), "agent_timeout"),
    );
    assert.equal(failed["party"], "VU");
    // And not the request's own deadline, which would be over soon after.
    assert.match(String(failed["message"]), /did not accept within 4000 ms/);
    resume();
    const answer = await client.askAgain(SUM_QUESTION, { token });
    assert.deepEqual(sumsOf(answer.pooled?.rows), KNOWN_SUMS.pooled);
  });

  test("for longer than its lease is offline, and registers again by itself when it is back", async () => {
    const resume = await pause("UVA");
    await eventually(async () => !(await providersOnline()).includes("UVA"), { timeoutMs: 20_000 });
    const withoutUva = await ask();
    assert.deepEqual(withoutUva.offline, ["UVA"]);
    assert.deepEqual(sumsOf(withoutUva.pooled?.rows), KNOWN_SUMS.VU);
    resume();
    await eventually(async () => (await providersOnline()).includes("UVA"), { timeoutMs: 20_000 });
    assert.deepEqual(sumsOf((await ask()).pooled?.rows), KNOWN_SUMS.pooled);
  });
});

describe("an agent that was killed", () => {
  test("is missed at once, before its lease has ended, and a new one takes over its jobs", async () => {
    const { auth } = await client.requestApproval(NUMBERS_APPROVAL);
    const token = auth.accessToken;
    const killed = patient.services.get("agent-VU");
    killed?.kill("SIGKILL");
    await killed?.exited;
    assert.ok((await providersOnline()).includes("VU"), "its lease has not ended");
    const partial = await within(MARGIN_MS, client.askAgain(SUM_QUESTION, { token }));
    const vu = partial.responses.find(({ provider }) => provider === "VU");
    assert.deepEqual([vu?.status, vu?.problem?.code], ["no_answer", "agent_offline"]);
    assert.equal(partial.pooled, undefined, "what lacks a steward is not pooled unasked");
    const approval = client.requestApproval(NUMBERS_APPROVAL);
    const silent = await within(COMPOSITION_MS + MARGIN_MS, rejectsWith(approval, "agent_timeout"));
    assert.equal(silent["party"], "VU");
    await patient.startAgent("VU");
    assert.deepEqual(sumsOf((await client.askAgain(SUM_QUESTION, { token })).pooled?.rows), KNOWN_SUMS.pooled);
  });
});
