/** Instances of one party's agent share its persistent chains, whichever of them started one, and each gets its own runs' answers. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import type { Answer } from "../../cli/client.ts";
import { runQueuesAmong } from "../support/bus-inspection.ts";
import { eventually } from "../support/eventually.ts";
import { smallSample, testExchange } from "../support/exchange.ts";
import { approve, chainProcess, chainProcesses, slowQuery } from "../support/running-chains.ts";

const STEPS = 2_000_000;
const [ONE, TWO] = ["agent-VU", "agent-VU-2"] as const;
type Instance = typeof ONE | typeof TWO;

const exchange = await testExchange({
  configuration: await smallSample(20),
  offline: ["RUG", "UVA", "SURF"],
  replicas: { agent: { VU: 2 } },
  environment: {
    DYNAMOS_CHAIN_LIFETIME: "persistent",
    DYNAMOS_CHAIN_CONCURRENCY: "4",
    DYNAMOS_PERSISTENT_CHAINS_MAX: "1",
    DYNAMOS_CHAIN_IDLE_MS: "60000",
    DYNAMOS_MAX_RUNS: "8",
    DYNAMOS_MAX_RUNS_PER_USER: "8",
    DYNAMOS_ONLINE_LEASE_MS: "5000",
  },
});
const { auth } = await approve(exchange, ["VU"]);

function ask(instance: Instance, query: string): Promise<Answer> {
  const url = `${exchange.services.get(instance)?.url ?? ""}/agent/v1/sqlDataRequest/vu`;
  return exchange.client.askAgent(url, { type: "sqlDataRequest", query }, { token: auth.accessToken });
}

/** How many persistent chains an instance has started. */
function chainsOf(instance: Instance): number {
  const log = readFileSync(join(exchange.stateFolder, "logs", `${instance}.log`), "utf8");
  return log.split("\n").filter((line) => line.includes('"msg":"a persistent chain starts"')).length;
}

describe("two instances of one party's agent with persistent chains", () => {
  test("have their requests, interleaved and several at once, answered by one chain, each its own", async () => {
    for (let round = 0; round < 3; round += 1) {
      const codes = Array.from({ length: 4 }, (_, index) => round * 10 + index);
      const answers = await Promise.all(
        codes.map((code) => ask(code % 2 === 0 ? ONE : TWO, `SELECT ${String(code)} AS code`)),
      );
      assert.deepEqual(
        answers.map(({ rows }) => rows),
        codes.map((code) => [{ code }]),
      );
    }
    assert.equal(chainsOf(ONE) + chainsOf(TWO), 1);
    assert.equal((await chainProcesses(exchange, "VU", "sidecar")).length, 1);
  });

  test("lose it with the instance that started it: the other answers by one of its own, and nothing of the dead stays", async () => {
    const [starter, other] = chainsOf(ONE) === 1 ? ([ONE, TWO] as const) : ([TWO, ONE] as const);
    const answer = ask(other, slowQuery(STEPS));
    await chainProcess(exchange, "VU", "query-child");
    const runQueues = async (): Promise<string[]> => runQueuesAmong(await exchange.backends.bus.queues());
    const before = await runQueues();
    exchange.services.get(starter)?.kill("SIGKILL");
    assert.deepEqual((await answer).rows, [{ steps: STEPS }]);
    assert.equal(chainsOf(other), 1);
    // Its work queue is shared and stays; a chain's own has the chain's name.
    const isGone = async (): Promise<boolean> => {
      const now = await runQueues();
      return now.length === 2 && now.filter((queue) => before.includes(queue)).length === 1;
    };
    await eventually(isGone, { timeoutMs: 60_000, describe: "the dead chain's queue to be deleted" });
    const instances = async (): Promise<number> => {
      const names = (await exchange.backends.bus.queues()).map(({ name }) => name);
      return names.filter((name) => /^VU-in-.*-runs$/.test(name)).length;
    };
    await eventually(async () => (await instances()) === 1, {
      timeoutMs: 60_000,
      describe: "the dead instance's queues to be deleted",
    });
  });
});
