/**
 * Pods and containers that are killed while a question is answered: the question, repeated under its `Idempotency-Key`, is answered
 * right, and nothing is left of what was killed.
 */
import assert from "node:assert/strict";
import { describe, test, type TestContext } from "node:test";
import { onlineKeys } from "../../lib/knowledge/keys.ts";
import { assertNoChainLeft, runningChainPod } from "../support/cluster-chains.ts";
import { withStore } from "../support/cluster-credentials.ts";
import { clusterInstallation, waitUntilWhole } from "../support/cluster-installation.ts";
import { endContainer, killPod, podsOf } from "../support/cluster-pods.ts";
import { askUntilAnswered, rowsOf, slowRequest } from "../support/cluster-questions.ts";
import { kubectlJson, noCluster } from "../support/cluster-tools.ts";

/** Some seconds of work, so that what is killed is killed in the middle of it: a kubelet takes two seconds to kill a pod. */
const STEPS = 20_000_000;

const skip = await noCluster();

if (skip !== false) test("kills during a request", { skip });
else {
  const installation = await clusterInstallation();
  const { core, namespaceOf, client } = installation;
  const VU = namespaceOf("VU");

  /** Kills while VU's chain runs, and looks at the answer. */
  const survives = async (
    t: TestContext,
    kill: (chainPod: string) => Promise<void>,
    steps = STEPS,
  ): Promise<readonly string[]> => {
    await waitUntilWhole(installation);
    const answer = askUntilAnswered(client, slowRequest(steps, ["VU"]));
    answer.catch(() => undefined);
    await kill(await runningChainPod(installation, "VU"));
    const { answer: given, failures } = await answer;
    assert.deepEqual(rowsOf(given), [{ steps }]);
    await assertNoChainLeft(installation, "VU");
    t.diagnostic(`repeated because of: ${failures.join(", ") || "nothing, it went unnoticed"}`);
    return failures;
  };

  describe("a question is answered right, once, though one kills", () => {
    test("the chain's pod", async (t) => {
      await survives(t, (pod) => killPod(VU, pod));
    });

    test("the pod of the agent that runs the chain", async (t) => {
      await survives(t, async (chain) => killPod(VU, await agentOf(chain)));
    });

    test("that agent's messaging sidecar, alone", async (t) => {
      await survives(t, async (chain) => endContainer(VU, await agentOf(chain), "messaging"));
    });

    test("the pods of all orchestrators", async (t) => {
      const pods = await podsOf(core, "app.kubernetes.io/name=dynamos-orchestrator");
      const killAll = (): Promise<void> => killPod(core, ...pods.map(({ name }) => name));
      // Also where the machine is busy, the last of them is to be gone before the answer is there.
      const failures = await survives(t, killAll, 3 * STEPS);
      assert.ok(failures.length > 0, "whoever answered is gone, and nobody noticed");
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
      // Whichever provider's rows come first.
      const rows = rowsOf((await answer).answer).sort((one, other) =>
        JSON.stringify(one).localeCompare(JSON.stringify(other)),
      );
      assert.deepEqual(rows, [
        { provider: "UVA", steps: STEPS },
        { provider: "VU", steps: STEPS },
      ]);
      await assertNoChainLeft(installation, "VU", "UVA", "SURF");
    });
  });

  /** VU has two agents: a chain's Job says which instance started it, and that one's record in which pod it is. */
  async function agentOf(chainPod: string): Promise<string> {
    const run = chainPod.slice(0, chainPod.lastIndexOf("-"));
    const job = await kubectlJson<{ readonly metadata: { readonly annotations: Readonly<Record<string, string>> } }>([
      ...["get", "job", run, "-n", VU],
    ]);
    const labels = JSON.parse(job.metadata.annotations["dynamos.labels"] ?? "{}") as Readonly<Record<string, string>>;
    const key = onlineKeys.key({ party: "VU", instanceId: labels["dynamos.instance"] ?? "" });
    let pod: string | undefined;
    await withStore(installation, "VU", async (store) => {
      const { instanceUrl } = ((await store.get(key))?.value ?? {}) as { readonly instanceUrl?: string };
      pod = /^http:\/\/([^.]+)\./.exec(instanceUrl ?? "")?.[1];
    });
    assert.ok(pod !== undefined, `no record of the agent that runs ${run}`);
    return pod;
  }

  /** The first pod of a part. */
  async function onlyPod(namespace: string, name: string): Promise<string> {
    const [pod] = await podsOf(namespace, `app.kubernetes.io/name=${name}`);
    assert.ok(pod !== undefined, `no pod of ${name} in ${namespace}`);
    return pod.name;
  }
}
