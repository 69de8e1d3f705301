/**
 * Pods and containers that are killed while a question is answered: the question, repeated under its `Idempotency-Key`, is answered
 * right, and nothing is left of what was killed.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { CHAIN_SELECTOR, assertNoChainLeft, runningChainPod } from "../support/cluster-chains.ts";
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
  const survives = async (kill: (chainPod: string) => Promise<void>): Promise<readonly string[]> => {
    await waitUntilWhole(installation);
    const answer = askUntilAnswered(client, slowRequest(STEPS, ["VU"]));
    answer.catch(() => undefined);
    await kill(await runningChainPod(installation, "VU"));
    const { answer: given, failures } = await answer;
    assert.deepEqual(rowsOf(given), [{ steps: STEPS }]);
    await assertNoChainLeft(installation, "VU");
    return failures;
  };

  describe("a question is answered right, once, though one kills", () => {
    test("the chain's pod", async () => {
      await survives((pod) => killPod(VU, pod));
    });

    test("the agent's pod", async () => {
      await survives(async () => killPod(VU, await onlyPod(VU, "dynamos-agent")));
    });

    test("the agent's messaging sidecar, alone", async () => {
      await survives(async () => endContainer(VU, await onlyPod(VU, "dynamos-agent"), "messaging"));
    });

    test("an orchestrator's pod", async () => {
      await survives(async () => killPod(core, await onlyPod(core, "dynamos-orchestrator")));
    });

    test("RabbitMQ's pod", async () => {
      await survives(async () => killPod(core, await onlyPod(core, "dynamos-rabbitmq")));
    });

    test("etcd's pod", async () => {
      await survives(async () => killPod(core, await onlyPod(core, "dynamos-etcd")));
    });

    test("the agent of the third party, with dataThroughTtp", async () => {
      await waitUntilWhole(installation);
      const answer = askUntilAnswered(client, slowRequest(STEPS, ["VU", "UVA"], true));
      answer.catch(() => undefined);
      await runningChainPod(installation, "SURF");
      const SURF = namespaceOf("SURF");
      await killPod(SURF, await onlyPod(SURF, "dynamos-agent"));
      assert.deepEqual(rowsOf((await answer).answer), [{ steps: STEPS }, { steps: STEPS }]);
      await assertNoChainLeft(installation, "VU", "UVA", "SURF");
    });
  });

  test("no finished chain's pod stays in any namespace once its Job's time is over", async () => {
    for (const party of ["VU", "UVA", "SURF"]) {
      const jobs = await podsOf(namespaceOf(party), CHAIN_SELECTOR);
      assert.ok(jobs.length < 40, `${String(jobs.length)} pods of chains in ${namespaceOf(party)}`);
    }
  });

  /** The first pod of a part. */
  async function onlyPod(namespace: string, name: string): Promise<string> {
    const [pod] = await podsOf(namespace, `app.kubernetes.io/name=${name}`);
    assert.ok(pod !== undefined, `no pod of ${name} in ${namespace}`);
    return pod.name;
  }
}
