import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { eventually } from "../support/eventually.ts";
import { ANALYST, rejectsWith, testExchange } from "../support/exchange.ts";

/** Works for a second or so, whatever the machine. */
const LONG_QUERY =
  "WITH RECURSIVE steps(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM steps WHERE n < 1000000) SELECT COUNT(*) AS n FROM steps";

const exchange = await testExchange({
  offline: ["RUG"],
  environmentOf: { "agent-UVA": { DYNAMOS_DRAIN_MS: "0" } },
});
const { client } = exchange;

test("an agent that is told to stop answers what runs, takes nothing new, and ends with code 0", async () => {
  const approval = await client.requestApproval({ type: "sqlDataRequest", user: ANALYST, dataProviders: ["VU"] });
  const endpoint = approval.authorizedProviders["VU"] ?? "";
  const token = approval.auth.accessToken;
  const question = { type: "sqlDataRequest", query: LONG_QUERY };
  const running = client.askAgent(endpoint, question, { token });
  const agent = exchange.services.get("agent-VU");
  await chainStarted("agent-VU");
  agent?.kill("SIGTERM");
  await eventually(async () => !(await onlineNames()).includes("VU"), { timeoutMs: 5_000 });
  await assert.rejects(client.askAgent(endpoint, question, { token }));
  assert.deepEqual((await running).rows, [{ n: 1_000_000 }]);
  assert.deepEqual(await agent?.exited, { code: 0, signal: null });
});

test("what does not end within the drain's time is ended with an error that tells to try again", async () => {
  const approval = await client.requestApproval({ type: "sqlDataRequest", user: ANALYST, dataProviders: ["UVA"] });
  const endless = LONG_QUERY.replace("1000000", "1000000000000");
  const running = rejectsWith(
    client.askAgent(
      approval.authorizedProviders["UVA"] ?? "",
      { type: "sqlDataRequest", query: endless },
      { token: approval.auth.accessToken },
    ),
    "unavailable",
  );
  await chainStarted("agent-UVA");
  const agent = exchange.services.get("agent-UVA");
  agent?.kill("SIGTERM");
  assert.equal((await running)["retryable"], true);
  assert.equal((await agent?.exited)?.code, 0);
});

async function onlineNames(): Promise<string[]> {
  return Object.keys((await client.get("getAvailableProviders")) as Record<string, unknown>);
}

/** Resolves when the agent has a chain under way. */
async function chainStarted(agent: string): Promise<void> {
  const log = `${exchange.stateFolder}/logs/${agent}.log`;
  await eventually(async () => (await readFile(log, "utf8")).includes('"msg":"data request"'), { timeoutMs: 10_000 });
}
