/** An agent that is killed while warm chains of it wait: none of them is left, and requests go on. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test } from "node:test";
import { SALARY_QUERY, testExchange } from "../support/exchange.ts";
import { eventually } from "../support/eventually.ts";
import { processesWith } from "../support/leaks.ts";
import { approve, chainProcesses } from "../support/running-chains.ts";

const QUESTION = {
  type: "sqlDataRequest",
  query: SALARY_QUERY,
  algorithm: "average",
  algorithmColumns: { Geslacht: "Aanst_22" },
};

// At its end nothing may be left of it, neither a process nor a queue: `testExchange` sees to that.
const exchange = await testExchange({ environmentOf: { "agent-VU": { DYNAMOS_WARM_CHAINS: "2" } } });

/** The names of warm chains of VU whose run queue stands at the bus. */
async function warmQueues(): Promise<string[]> {
  const queues = await exchange.backends.bus.queues();
  return queues.map(({ name }) => name).filter((name) => /^warm-.*-vu-/.test(name));
}

/** Processes of VU's warm chains. */
async function warmProcesses(): Promise<number[]> {
  const found = await processesWith(join(exchange.stateFolder, "jobs", "jobs", "VU", "warm-"));
  return found.map(({ pid }) => pid);
}

/** Asks VU by an approval of its own; the approval has chains started ahead. */
async function ask(): Promise<void> {
  const approval = await approve(exchange, ["VU"]);
  const endpoint = approval.authorizedProviders["VU"] ?? "";
  const answer = await exchange.client.askAgent(endpoint, QUESTION, { token: approval.auth.accessToken });
  assert.ok((answer.rows ?? []).length > 0);
}

describe("an agent that is killed while its warm chains wait", () => {
  test("leaves no process of them, and when it is back no queue, and requests and warm chains go on", async () => {
    await ask();
    await eventually(async () => (await chainProcesses(exchange, "VU", "sql-algorithm")).length > 0, {
      timeoutMs: 60_000,
      describe: "a warm chain of VU to wait",
    });
    await eventually(async () => (await warmQueues()).length > 0);
    const [queues, processes] = [await warmQueues(), await warmProcesses()];
    assert.ok(processes.length > 0);

    const agent = exchange.services.get("agent-VU");
    agent?.kill("SIGKILL");
    await agent?.exited;
    await eventually(async () => (await warmProcesses()).length === 0, {
      timeoutMs: 30_000,
      describe: "the killed agent's warm chains to end",
    });

    await exchange.startAgent("VU");
    await ask();
    await eventually(async () => (await warmQueues()).every((queue) => !queues.includes(queue)), {
      // A queue that nobody deletes expires after a minute.
      timeoutMs: 40_000,
      intervalMs: 250,
      describe: "the killed agent's queues to be gone",
    });
    await eventually(async () => (await warmProcesses()).some((pid) => !processes.includes(pid)), {
      timeoutMs: 60_000,
      describe: "a warm chain of the new agent",
    });
    await ask();
  });
});
