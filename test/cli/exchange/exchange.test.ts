/** An exchange's processes one by one: replicas, sidecars, and what is killed and started anew. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import type { RunningService } from "../../../cli/exchange/service-process.ts";
import { rejectsWith, smallSample, testExchange } from "../../support/exchange.ts";

const exchange = await testExchange({
  configuration: await smallSample(20),
  offline: ["RUG", "UVA", "SURF"],
  replicas: { orchestrator: 2, agent: { VU: 2 } },
  sidecar: "separate",
});
const service = (name: string): RunningService => {
  const found = exchange.services.get(name);
  assert.ok(found, `${name} was started`);
  return found;
};
const isReady = async (name: string): Promise<boolean> => (await fetch(`${service(name).url}/ready`)).ok;

async function kill(name: string): Promise<void> {
  service(name).kill("SIGKILL");
  await service(name).exited;
}

describe("a process of an exchange", () => {
  test("has a name of its own, a sidecar and a log, and shares its part's state folder", async () => {
    const names = ["policy-enforcer", "orchestrator", "orchestrator-2", "agent-VU", "agent-VU-2"];
    assert.deepEqual([...exchange.services.keys()].sort(), names.flatMap((name) => [name, `${name}-sidecar`]).sort());
    for (const name of names) assert.ok(await isReady(name), name);
    assert.deepEqual(exchange.urls, [service("orchestrator").url, service("orchestrator-2").url]);
    assert.ok(existsSync(join(exchange.stateFolder, "logs", "agent-VU-2.log")));
    assert.ok(!existsSync(join(exchange.stateFolder, "agent-VU-2")));
  });

  test("that was killed is started anew at the same place, by its name", async () => {
    for (const name of ["orchestrator", "agent-VU-2"]) {
      const before = service(name);
      await kill(name);
      assert.ok(before.hasEnded());
      const again = await exchange.start(name);
      assert.equal(again.url, before.url);
      assert.notEqual(again.pid, before.pid);
      assert.ok(await isReady(name));
    }
  });

  test("takes its sidecar with it into its new life, where that was killed, too", async () => {
    await kill("agent-VU-sidecar");
    await kill("agent-VU");
    await exchange.startAgent("VU");
    assert.ok(!service("agent-VU-sidecar").hasEnded());
    assert.ok(await isReady("agent-VU"));
  });

  test("is started once, whoever asks, and not while it runs", async () => {
    await kill("policy-enforcer");
    const [one, other] = await Promise.all([exchange.start("policy-enforcer"), exchange.start("policy-enforcer")]);
    assert.equal(one.pid, other.pid);
    await rejectsWith(exchange.start("orchestrator-2"), "already_exists");
  });

  test("that there is not is named, with those that there are", async () => {
    const error = await rejectsWith(exchange.start("agent-VU-3"), "not_found");
    assert.match(String(error["message"]), /no process agent-VU-3; it has .*agent-VU-2/);
  });
});
