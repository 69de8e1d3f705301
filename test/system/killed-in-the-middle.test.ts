import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, test } from "node:test";
import { call, type Approval } from "../../cli/client.ts";
import { eventually } from "../support/eventually.ts";
import { rejectsWith, smallSample, testExchange } from "../support/exchange.ts";
import {
  approve,
  assertNothingLeft,
  chainProcess,
  chainProcesses,
  manyRows,
  pauseQueries,
  slowQuery,
  startedChains,
} from "../support/running-chains.ts";

const STEPS = 2_000_000;
const SLOW = { type: "sqlDataRequest", query: slowQuery(STEPS) };
const LONG = { type: "sqlDataRequest", query: manyRows(50_000_000) };
/** Far below the deadline of a request, ten minutes. */
const OUTCOME_MS = 60_000;

const exchange = await testExchange({
  configuration: await smallSample(20),
  offline: ["RUG"],
  environment: { DYNAMOS_ONLINE_LEASE_MS: "2000" },
});
const atHome = await approve(exchange, ["VU"]);
const throughSurf = await approve(exchange, ["VU", "UVA"], { throughThirdParty: true });
exchange.atEnd(() => assertNothingLeft(exchange));

describe("a process of a chain that is killed", () => {
  for (const element of ["sidecar", "sql-query", "sql-algorithm"]) {
    test(`${element}, before anything was handed on: the retry answers`, async () => {
      const before = startedChains(exchange, "VU");
      const answer = ask(atHome, "VU", SLOW);
      await pauseQueries(exchange, "VU");
      await kill("VU", element);
      assert.deepEqual((await answer).rows, [{ steps: STEPS }]);
      assert.equal(startedChains(exchange, "VU") - before, 2);
      await assertNothingLeft(exchange);
    });
  }

  test("sql-aggregate at the third party, before anything was handed on: all are asked again, and the retry answers", async () => {
    const answer = ask(throughSurf, "SURF", SLOW);
    await Promise.all(["VU", "UVA"].map((party) => pauseQueries(exchange, party)));
    await kill("SURF", "sql-aggregate");
    const { rows = [] } = await answer;
    assert.deepEqual(
      rows.map(({ steps }) => steps),
      [STEPS, STEPS],
    );
    await assertNothingLeft(exchange);
  });

  for (const element of ["sidecar", "sql-query", "sql-algorithm"]) {
    test(`${element}, after rows were handed on: a JSON answer ends with stream_interrupted`, async () => {
      const rest = await begun(atHome, "VU", "application/json");
      await kill("VU", element);
      const answer = JSON.parse(await withinTime(rest())) as {
        status: string;
        problem: { code: string; party: string };
      };
      assert.deepEqual(
        [answer.status, answer.problem.code, answer.problem.party],
        ["failed", "stream_interrupted", "VU"],
      );
      // What a container wrote is the steward's: it may quote data.
      assert.equal(JSON.stringify(answer.problem).includes('"log"'), false);
      await assertNothingLeft(exchange);
    });
  }

  for (const [party, element] of [
    ["SURF", "sql-aggregate"],
    ["UVA", "sidecar"],
  ] as const) {
    test(`${element} of ${party} by way of a third party, after rows were handed on: a CSV answer breaks off`, async () => {
      const rest = await begun(throughSurf, "SURF", "text/csv");
      await kill(party, element);
      await assert.rejects(withinTime(rest()), /terminated|aborted|other side closed/);
      await assertNothingLeft(exchange);
    });
  }
});

describe("an agent that is killed", () => {
  test("takes its chains with it, and answers the repeated request when it is back", async () => {
    const idempotencyKey = "killed-agent";
    const lost = assert.rejects(ask(atHome, "VU", SLOW, idempotencyKey), /fetch failed|terminated/);
    await pauseQueries(exchange, "VU");
    await killAgent("VU");
    await lost;
    await eventually(async () => (await chainProcesses(exchange, "VU", "sidecar")).length === 0);
    await exchange.startAgent("VU");
    assert.deepEqual((await ask(atHome, "VU", SLOW, idempotencyKey)).rows, [{ steps: STEPS }]);
    await assertNothingLeft(exchange);
  });

  test("as a data provider, and comes back: the request is delivered to it again, and the answer comes", async () => {
    const answer = ask(throughSurf, "SURF", SLOW);
    await pauseQueries(exchange, "UVA");
    await killAgent("UVA");
    await exchange.startAgent("UVA");
    const { rows = [] } = await answer;
    assert.deepEqual(
      rows.map(({ steps }) => steps),
      [STEPS, STEPS],
    );
    await assertNothingLeft(exchange);
  });

  test("as the third party, and comes back: the repeated request is answered, though its first one still runs at the providers", async () => {
    const idempotencyKey = "killed-third-party";
    const lost = assert.rejects(ask(throughSurf, "SURF", SLOW, idempotencyKey), /fetch failed|terminated/);
    const goOn = await Promise.all(["VU", "UVA"].map((party) => pauseQueries(exchange, party)));
    await killAgent("SURF");
    await lost;
    await exchange.startAgent("SURF");
    for (const resume of goOn) resume();
    const { rows = [] } = await ask(throughSurf, "SURF", SLOW, idempotencyKey);
    assert.deepEqual(
      rows.map(({ steps }) => steps),
      [STEPS, STEPS],
    );
    await assertNothingLeft(exchange);
  });

  test("as a data provider, and stays away: the third party says who went offline", async () => {
    const answer = rejectsWith(ask(throughSurf, "SURF", SLOW), "agent_offline");
    await pauseQueries(exchange, "UVA");
    await killAgent("UVA");
    assert.equal((await answer)["party"], "UVA");
    await exchange.startAgent("UVA");
    await assertNothingLeft(exchange);
  });
});

/** Kills a chain's element the hard way, and sees it gone. */
async function kill(party: string, element: string): Promise<void> {
  const pid = await chainProcess(exchange, party, element);
  process.kill(pid, "SIGKILL");
  await eventually(async () => !(await chainProcesses(exchange, party, element)).includes(pid));
}

async function killAgent(party: string): Promise<void> {
  const agent = exchange.services.get(`agent-${party}`);
  agent?.kill("SIGKILL");
  await agent?.exited;
}

/** An agent that was started again is at another port. */
function endpointOf(party: string): string {
  return `${exchange.services.get(`agent-${party}`)?.url ?? ""}/agent/v1/sqlDataRequest/${party.toLowerCase()}`;
}

function ask(approval: Approval, party: string, question: typeof SLOW, idempotencyKey?: string) {
  const token = approval.auth.accessToken;
  const options = { token, ...(idempotencyKey === undefined ? {} : { idempotencyKey }) };
  return withinTime(exchange.client.askAgent(endpointOf(party), question, options));
}

/** Asks for far more rows than are read, and reads the first ones; what it resolves with reads the rest. */
async function begun(approval: Approval, party: string, accept: string): Promise<() => Promise<string>> {
  const { accessToken: token } = approval.auth;
  const response = await call("POST", endpointOf(party), LONG, { token, headers: { accept } });
  assert.equal(response.status, 200);
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  const decoder = new TextDecoder();
  let text = decoder.decode((await reader.read()).value, { stream: true });
  return async () => {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return text;
      text += decoder.decode(value, { stream: true });
    }
  };
}

async function withinTime<Value>(work: Promise<Value>): Promise<Value> {
  const stop = new AbortController();
  const late = sleep(OUTCOME_MS, undefined, { signal: stop.signal }).then(() => {
    throw new Error(`No outcome after ${String(OUTCOME_MS)} ms.`);
  });
  late.catch(() => undefined);
  try {
    return await Promise.race([work, late]);
  } finally {
    stop.abort();
  }
}
