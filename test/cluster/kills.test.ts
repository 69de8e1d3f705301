/**
 * Pods and containers that are killed while a question is answered: the question, repeated under its `Idempotency-Key`, is answered
 * right, and nothing is left of what was killed.
 */
import assert from "node:assert/strict";
import { describe, test, type TestContext } from "node:test";
import { assertNoChainLeft, runningChainPod } from "../support/cluster-chains.ts";
import { clusterInstallation, waitUntilWhole } from "../support/cluster-installation.ts";
import { endContainer, killPod, podsOf } from "../support/cluster-pods.ts";
import { askUntilAnswered, rowsOf, slowRequest } from "../support/cluster-questions.ts";
import { noCluster } from "../support/cluster-tools.ts";

/** Some seconds of work, so that what is killed is killed in the middle of it. */
const STEPS = 12_000_000;

const skip = await noCluster();

if (skip !== false) test("kills during a request", { skip });
else {
  const installation = await clusterInstallation();
  const { core, namespaceOf, client } = installation;
  const VU = namespaceOf("VU");

  /** Kills while VU's chain runs, and looks at the answer. */
  const survives = async (t: TestContext, kill: (chainPod: string) => Promise<void>): Promise<void> => {
    await waitUntilWhole(installation);
    const answer = askUntilAnswered(client, slowRequest(STEPS, ["VU"]));
    answer.catch(() => undefined);
    await kill(await runningChainPod(installation, "VU"));
    const { answer: given, failures } = await answer;
    assert.deepEqual(rowsOf(given), [{ steps: STEPS }]);
    await assertNoChainLeft(installation, "VU");
    t.diagnostic(`repeated because of: ${failures.join(", ") || "nothing, it went unnoticed"}`);
  };

  describe("a question is answered right, once, though one kills", () => {
    test("the chain's pod", async (t) => {
      await survives(t, (pod) => killPod(VU, pod));
    });

    test("the agent's pod", async (t) => {
      await survives(t, async () => killPod(VU, await onlyPod(VU, "dynamos-agent")));
    });

    test("the agent's messaging sidecar, alone", async (t) => {
      await survives(t, async () => endContainer(VU, await onlyPod(VU, "dynamos-agent"), "messaging"));
    });

    test("an orchestrator's pod", async (t) => {
      await survives(t, async () => killPod(core, await onlyPod(core, "dynamos-orchestrator")));
    });

    test("RabbitMQ's pod", async (t) => {
      await survives(t, async () => killPod(core, await onlyPod(core, "dynamos-rabbitmq")));
    });

    test("etcd's pod", async (t) => {
      await survives(t, async () => killPod(core, await onlyPod(core, "dynamos-etcd")));
    });

    test("the agent of the third party, with dataThroughTtp", async () => {
      await waitUntilWhole(installation);
      const answer = askUntilAnswered(client, slowRequest(STEPS, ["VU", "UVA"], true));
      answer.catch(() => undefined);
      await runningChainPod(installation, "SURF");
      const SURF = namespaceOf("SURF");
      await killPod(SURF, await onlyPod(SURF, "dynamos-agent"));
      assert.deepEqual(rowsOf((await answer).answer), [
        { provider: "UVA", steps: STEPS },
        { provider: "VU", steps: STEPS },
      ]);
      await assertNoChainLeft(installation, "VU", "UVA", "SURF");
    });
  });

  /** The first pod of a part. */
  async function onlyPod(namespace: string, name: string): Promise<string> {
    const [pod] = await podsOf(namespace, `app.kubernetes.io/name=${name}`);
    assert.ok(pod !== undefined, `no pod of ${name} in ${namespace}`);
    return pod.name;
  }
}
