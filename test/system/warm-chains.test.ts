import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { averageSalaryBySex } from "../../cli/demo/known-answer.ts";
import { ANALYST, SALARY_QUERY, testExchange } from "../support/exchange.ts";
import { eventually } from "../support/eventually.ts";
import { processesWith } from "../support/leaks.ts";
import { approve, chainProcesses } from "../support/running-chains.ts";

const QUESTION = {
  type: "sqlDataRequest",
  query: SALARY_QUERY,
  algorithm: "average",
  algorithmColumns: { Geslacht: "Aanst_22" },
};
const WARM = { DYNAMOS_WARM_CHAINS: "2", DYNAMOS_LOG_LEVEL: "debug" };

/** UVA has none: the default. */
const exchange = await testExchange({ environmentOf: { "agent-VU": WARM, "agent-SURF": WARM } });

interface LoggedLine {
  readonly msg: string;
  readonly run?: string;
  readonly lifetime?: string;
  readonly shape?: string;
}

/** What a party's agent has logged. */
function logged(party: string): LoggedLine[] {
  const text = readFileSync(join(exchange.stateFolder, "logs", `agent-${party}.log`), "utf8");
  return text
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as LoggedLine);
}

/** How the chains of a party came to be that requests ran on, in order. */
function lifetimes(party: string): (string | undefined)[] {
  return logged(party)
    .filter(({ msg }) => msg === "a chain starts")
    .map(({ lifetime }) => lifetime);
}

/** Waits until so many warm chains of the shape that this party was last asked for are ready, and nobody has claimed them. */
async function ready(party: string, chains: number): Promise<void> {
  await eventually(
    () => {
      const lines = logged(party);
      const asked = lines.findLast(({ msg }) => msg === "a chain starts")?.shape;
      const isGone = (name: string | undefined): boolean =>
        lines.some(({ msg, run }) => run === name && (msg === "a warm chain is lost" || msg === "a chain starts"));
      const isReady = ({ msg, run, shape }: LoggedLine): boolean =>
        msg === "a warm chain is ready" && shape === asked && !isGone(run);
      return lines.filter(isReady).length >= chains;
    },
    { timeoutMs: 60_000, intervalMs: 100, describe: `${String(chains)} warm chains of ${party} to be ready` },
  );
}

/** The processes of this party's chains. */
async function processes(party: string): Promise<number[]> {
  return (await processesWith(join(exchange.stateFolder, "jobs", "jobs", party, "/"))).map(({ pid }) => pid);
}

describe("warm chains", () => {
  test("answer as cold ones do, where the steward computes and where a third party does", async () => {
    const parties = ["VU", "UVA"];
    const known = await averageSalaryBySex(join(exchange.configuration, "data"), parties);
    for (const options of [{}, { aggregate: true }]) {
      // What an approval promises is started ahead; the request's own options may want another shape once.
      for (const isWarmNow of [false, true]) {
        if (isWarmNow) await ready("VU", 1);
        if (isWarmNow && "aggregate" in options) await ready("SURF", 1);
        const before = lifetimes("VU").length;
        const answer = await exchange.client.ask({
          type: "sqlDataRequest",
          user: ANALYST,
          dataProviders: parties,
          options,
          data_request: { ...QUESTION, options },
        });
        const rows = (answer.pooled ?? answer.responses[0])?.rows ?? [];
        assert.equal(rows.length, known.size);
        for (const [sex, average] of known) {
          const found = Number(rows.find(({ Geslacht }) => (Geslacht ?? "") === sex)?.["average_Aanst_22"]);
          assert.ok(
            Math.abs(found - average) <= 1e-9 * average,
            `${sex}: ${String(found)} instead of ${String(average)}`,
          );
        }
        if (isWarmNow) assert.deepEqual(lifetimes("VU").slice(before), ["warm"]);
      }
    }
    assert.equal(lifetimes("SURF").at(-1), "warm");
  });

  test("serve one request each, and are gone with it", async () => {
    const ask = await asking("VU");
    await ask();
    for (let time = 0; time < 2; time += 1) {
      await ready("VU", 1);
      await ask();
      const { run } = logged("VU").findLast(({ msg }) => msg === "a chain starts") ?? {};
      assert.match(run ?? "", /^warm-/);
      await eventually(async () => (await processesOf(run ?? "")).length === 0, { timeoutMs: 20_000 });
    }
    const runs = logged("VU").filter(({ msg }) => msg === "a chain starts");
    assert.equal(new Set(runs.map(({ run }) => run)).size, runs.length);
  });

  test("have rehearsed before they are ready, each of their elements, and kept no file of it", async () => {
    await (
      await asking("VU")
    )();
    await ready("VU", 1);
    const { run = "" } = logged("VU").findLast(({ msg }) => msg === "a warm chain is ready") ?? {};
    const folder = join(exchange.stateFolder, "jobs", "jobs", "VU", run);
    const rehearsed = readdirSync(folder).filter(
      (file) => file.endsWith(".log") && readFileSync(join(folder, file), "utf8").includes('"rehearsed"'),
    );
    assert.deepEqual(rehearsed.sort(), ["sidecar.log", "sql-algorithm.log", "sql-query.log"]);
    assert.deepEqual(readdirSync(join(folder, "tmp")), []);
  });

  test("are not waited for: ten requests at once with two of them all succeed, the others on cold chains", async () => {
    const ask = await asking("VU");
    await ask();
    await ready("VU", 1);
    const before = lifetimes("VU").length;
    await Promise.all(Array.from({ length: 10 }, () => ask()));
    const served = lifetimes("VU").slice(before);
    assert.equal(served.length, 10, JSON.stringify(logged("VU").filter(({ msg }) => /take its|lost|again/.test(msg))));
    assert.ok(served.includes("warm") && served.includes("cold"), served.join(" "));
  });

  test("that are all killed as they are claimed cost no request, and none its retry", async () => {
    const ask = await asking("VU");
    await ask();
    await ready("VU", 1);
    const before = logged("VU").length;
    for (const pid of await chainProcesses(exchange, "VU", "sidecar")) process.kill(pid, "SIGKILL");
    await Promise.all([ask(), ask()]);
    assert.deepEqual(
      logged("VU")
        .slice(before)
        .filter(({ msg }) => msg === "trying again"),
      [],
    );
  });

  test("are off by default", async () => {
    await (
      await asking("UVA")
    )();
    assert.deepEqual(new Set(lifetimes("UVA")), new Set(["cold"]));
    await eventually(async () => (await processes("UVA")).length === 0, { timeoutMs: 20_000 });
  });
});

/** Asks one steward's agent, as often as called. */
async function asking(party: string): Promise<() => Promise<void>> {
  const approval = await approve(exchange, [party]);
  return async () => {
    const endpoint = approval.authorizedProviders[party] ?? "";
    const answer = await exchange.client.askAgent(endpoint, QUESTION, { token: approval.auth.accessToken });
    assert.ok((answer.rows ?? []).length > 0);
  };
}

async function processesOf(run: string): Promise<number[]> {
  return run === "" ? [] : (await processesWith(`/${run}/`)).map(({ pid }) => pid);
}
