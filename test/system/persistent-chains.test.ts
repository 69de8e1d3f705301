/** Persistent chains answer as chains of one request do, and fail as they do; they grow with their queue, and go when nobody asks. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { averageSalaryBySex } from "../../cli/demo/known-answer.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import type { ChainLifetime } from "../../lib/model/chain-lifetime.ts";
import type { RequestType } from "../../lib/model/request-type.ts";
import { eventually } from "../support/eventually.ts";
import { ANALYST, changeDocument, rejectsWith, SALARY_QUERY, smallSample, testExchange } from "../support/exchange.ts";
import { approve, chainProcess, chainProcesses, manyRows, queryRuns, slowQuery } from "../support/running-chains.ts";

/** May see no column but one, and no group of fewer than 1,000. */
const OTHER = { id: "other-1", userName: "other@example.org" };
const QUESTION = {
  type: "sqlDataRequest",
  query: SALARY_QUERY,
  algorithm: "average",
  algorithmColumns: { Geslacht: "Aanst_22" },
};
const SLOW_STEPS = 6_000_000;
/** Runs still when something of its chain is killed, also on a busy machine. */
const SLOWEST_STEPS = 12_000_000;
const PERSISTENT = {
  DYNAMOS_CHAIN_LIFETIME: "persistent",
  DYNAMOS_CHAIN_CONCURRENCY: "2",
  DYNAMOS_CHAIN_IDLE_MS: "4000",
  DYNAMOS_MAX_RUNS: "8",
  DYNAMOS_MAX_RUNS_PER_USER: "8",
};

/** RUG's chains serve one request each. */
const exchange = await testExchange({
  configuration: await configuration(),
  environmentOf: { "agent-VU": PERSISTENT, "agent-UVA": PERSISTENT, "agent-SURF": PERSISTENT },
});

async function configuration(): Promise<string> {
  const folder = await smallSample(20);
  for (const steward of ["RUG", "VU"]) {
    const agreement = JSON.parse(readFileSync(join(folder, "agreements", "VU.json"), "utf8")) as Agreement;
    const relation = agreement.relations[ANALYST.userName];
    assert.ok(relation);
    agreement.relations[OTHER.userName] = {
      ...relation,
      ID: OTHER.id,
      columns: { wageGap: { tables: { Personen: ["Geslacht"] } } },
    };
    writeFileSync(join(folder, "agreements", `${steward}.json`), JSON.stringify({ ...agreement, name: steward }));
  }
  return folder;
}

/** How the chains came to be that a party's requests ran on, in order. */
function lifetimes(party: string): readonly (string | undefined)[] {
  const text = readFileSync(join(exchange.stateFolder, "logs", `agent-${party}.log`), "utf8");
  return text
    .split("\n")
    .filter((line) => line.includes('"msg":"a chain starts"'))
    .map((line) => (JSON.parse(line) as { lifetime?: string }).lifetime);
}

/** Asks a party directly, by an approval of its own. */
async function asking(party: string, user = ANALYST) {
  const { authorizedProviders, auth } = await approve(exchange, [party], { user });
  return (question: Omit<Parameters<typeof exchange.client.askAgent>[1], "type">) =>
    exchange.client.askAgent(
      authorizedProviders[party] ?? "",
      { type: "sqlDataRequest", ...question },
      { token: auth.accessToken },
    );
}

describe("persistent chains", () => {
  test("answer as the data say, where stewards compute and where a third party does", async () => {
    const known = await averageSalaryBySex(join(exchange.configuration, "data"), ["VU", "UVA"]);
    for (const options of [{}, { aggregate: true }]) {
      for (let time = 0; time < 2; time += 1) {
        const answer = await exchange.client.ask({
          type: "sqlDataRequest",
          user: ANALYST,
          dataProviders: ["VU", "UVA"],
          options,
          data_request: { ...QUESTION, options },
        });
        assert.equal(answer.status, "ok", JSON.stringify(answer));
        const rows = (answer.pooled ?? answer.responses[0])?.rows ?? [];
        assert.equal(rows.length, known.size);
        for (const [sex, average] of known) {
          const found = Number(rows.find(({ Geslacht }) => (Geslacht ?? "") === sex)?.["average_Aanst_22"]);
          assert.ok(Math.abs(found - average) <= 1e-9 * average, `${sex}: ${String(found)} is not ${String(average)}`);
        }
      }
    }
    for (const party of ["VU", "UVA", "SURF"]) assert.deepEqual([...new Set(lifetimes(party))], ["persistent"], party);
    assert.equal((await chainProcesses(exchange, "SURF", "sidecar")).length, 1, "one chain at SURF for both requests");
  });

  test("refuse what chains of one request refuse, with the same codes", async () => {
    const atPersistent = await asking("VU");
    const atCold = await asking("RUG");
    for (const [question, code] of [
      [{ query: "SELECT nothing FROM Personen" }, "query_invalid"],
      [{ query: "DELETE FROM Personen" }, "query_invalid"],
      [{ ...QUESTION, algorithmColumns: { Unknown: "Aanst_22" } }, "column_unknown"],
    ] as const) {
      await rejectsWith(atPersistent(question), code);
      await rejectsWith(atCold(question), code);
    }
    assert.ok(lifetimes("RUG").every((lifetime) => lifetime === "cold"));
    // The chain that refused goes on.
    assert.deepEqual((await atPersistent({ query: "SELECT 7 AS n" })).rows, [{ n: 7 }]);
  });

  test("give two analysts whose questions are interleaved each what their own grants allow", async () => {
    const wide = await asking("VU");
    const narrow = await asking("VU", OTHER);
    const both = Array.from({ length: 6 }, async (_, n) => {
      const columns = { query: `SELECT ${String(n)} AS n, Geslacht, Unieknr FROM Personen LIMIT 1` };
      const { rows = [] } = await wide(columns);
      assert.deepEqual([rows[0]?.["n"], Object.keys(rows[0] ?? {})], [n, ["n", "Geslacht", "Unieknr"]]);
      await rejectsWith(narrow(columns), "query_invalid");
      const allowed = await narrow({ query: `SELECT ${String(n)} AS n, * FROM Personen LIMIT 1` });
      assert.deepEqual(Object.keys(allowed.rows?.[0] ?? {}), ["n", "Geslacht"]);
    });
    await Promise.all(both);
  });

  test("become more where many ask at once, up to their limit, and go when nobody does", async () => {
    const ask = await asking("VU");
    const answers = Array.from({ length: 6 }, () => ask({ query: slowQuery(SLOW_STEPS) }));
    await eventually(async () => (await chainProcesses(exchange, "VU", "sidecar")).length === 2, {
      timeoutMs: 60_000,
      describe: "a second chain",
    });
    for (const { rows } of await Promise.all(answers)) assert.deepEqual(rows, [{ steps: SLOW_STEPS }]);
    await eventually(async () => (await chainProcesses(exchange, "VU", "sidecar")).length === 0, {
      timeoutMs: 60_000,
      describe: "chains that nobody uses to end",
    });
    assert.deepEqual((await ask({ query: "SELECT 1 AS n" })).rows, [{ n: 1 }], "a new one is started");
  });

  for (const element of ["sidecar", "sql-query"]) {
    test(`whose ${element} is killed before anything was handed on: the retry answers`, async () => {
      const ask = await asking("VU");
      await ask({ query: "SELECT 1 AS n" });
      const before = lifetimes("VU").length;
      const answer = ask({ query: slowQuery(SLOWEST_STEPS) });
      await eventually(() => lifetimes("VU").length === before + 1, { timeoutMs: 30_000 });
      await queryRuns(exchange, "VU");
      for (const pid of await chainProcesses(exchange, "VU", element)) process.kill(pid, "SIGKILL");
      assert.deepEqual((await answer).rows, [{ steps: SLOWEST_STEPS }]);
      assert.equal(lifetimes("VU").length, before + 2);
    });
  }

  test("whose sidecar is killed after rows were handed on: the answer ends with stream_interrupted", async () => {
    const { authorizedProviders, auth } = await approve(exchange, ["VU"]);
    const response = await fetch(authorizedProviders["VU"] ?? "", {
      method: "POST",
      headers: { authorization: `Bearer ${auth.accessToken}`, "content-type": "application/json" },
      body: JSON.stringify({ type: "sqlDataRequest", query: manyRows(50_000_000) }),
    });
    const reader = response.body?.getReader();
    assert.ok(reader);
    let text = "";
    const read = async (): Promise<boolean> => {
      const { value, done } = (await reader.read()) as { value?: Uint8Array; done: boolean };
      text = (text + Buffer.from(value ?? []).toString()).slice(-4_000);
      return done;
    };
    await read();
    for (const pid of await chainProcesses(exchange, "VU", "sidecar")) process.kill(pid, "SIGKILL");
    while (!(await read()));
    assert.match(text, /"status":"failed"/);
    assert.match(text, /"code":"stream_interrupted"/);
  });

  test("that are cancelled by their caller's going away are free for the next", async () => {
    const { authorizedProviders, auth } = await approve(exchange, ["VU"]);
    const going = new AbortController();
    const gone = Array.from({ length: 4 }, () =>
      fetch(authorizedProviders["VU"] ?? "", {
        method: "POST",
        signal: going.signal,
        headers: { authorization: `Bearer ${auth.accessToken}`, "content-type": "application/json" },
        body: JSON.stringify({ type: "sqlDataRequest", query: slowQuery(2_000_000_000) }),
      }).catch(() => undefined),
    );
    await chainProcess(exchange, "VU", "query-child");
    going.abort();
    await Promise.all(gone);
    const ask = await asking("VU");
    assert.deepEqual((await ask({ query: "SELECT 2 AS n" })).rows, [{ n: 2 }]);
  });

  test("are chosen by agreement before configuration, and by configuration before request type", async () => {
    const lifetimeOf = async (party: string): Promise<string | undefined> => {
      await (
        await asking(party)
      )({ query: "SELECT 1 AS n" });
      return lifetimes(party).at(-1);
    };
    const agreement = (party: string, chainLifetime: ChainLifetime): Promise<void> =>
      changeDocument<Agreement>(exchange, "policyEnforcer", party, (document) => ({
        ...document,
        chainLifetime,
      }));
    const requestType = (chainLifetime: ChainLifetime): Promise<void> =>
      changeDocument<RequestType>(exchange, "requestTypes", "sqlDataRequest", (document) => ({
        ...document,
        chainLifetime,
      }));
    assert.deepEqual([await lifetimeOf("VU"), await lifetimeOf("RUG")], ["persistent", "cold"]);
    await requestType("persistent");
    assert.equal(await lifetimeOf("RUG"), "persistent", "the request type, where nothing else says anything");
    await requestType("perRequest");
    assert.equal(await lifetimeOf("VU"), "persistent", "the configuration, before the request type");
    await agreement("VU", "perRequest");
    assert.equal(await lifetimeOf("VU"), "cold", "the agreement, before the configuration");
    await agreement("RUG", "persistent");
    assert.equal(await lifetimeOf("RUG"), "persistent");
    const malformed = changeDocument<Agreement>(exchange, "policyEnforcer", "VU", (document) => ({
      ...document,
      chainLifetime: "forever" as ChainLifetime,
    }));
    await rejectsWith(malformed, "configuration_invalid");
  });
});
