/** Releases that are taken away again: nothing of them stays, but the credentials that the console made. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { leftOverQueues } from "../support/bus-inspection.ts";
import { queuesOf, storedKeysOf } from "../support/cluster-chains.ts";
import { clusterInstallation } from "../support/cluster-installation.ts";
import { askUntilAnswered, salaryRequest } from "../support/cluster-questions.ts";
import { removeSteward } from "../support/cluster-releases.ts";
import { helm, kubectl, noCluster } from "../support/cluster-tools.ts";
import { eventually } from "../support/eventually.ts";
import { leftOverKeys } from "../support/store-inspection.ts";

/** Kinds that a release may have made, and chains. */
const KINDS =
  "jobs,pods,statefulsets,deployments,services,configmaps,secrets,persistentvolumeclaims,networkpolicies,roles,rolebindings," +
  "serviceaccounts,poddisruptionbudgets,ingresses,leases";
/** Of every namespace, and what the console made and not the release. */
const NOT_OURS = /^(configmap\/kube-root-ca\.crt|serviceaccount\/default|secret\/dynamos-credentials)$/;
const GONE_MS = 90_000;

const skip = await noCluster();

if (skip !== false) test("uninstalling", { skip });
else {
  const installation = await clusterInstallation();
  const { core, namespaceOf } = installation;

  test("a steward's uninstalled release leaves its credentials and nothing else, on the cluster, at the broker and in the store", async () => {
    await askUntilAnswered(installation.client, salaryRequest({ through: true }));
    for (const party of ["VU", "UVA", "SURF"])
      await helm(["uninstall", party.toLowerCase(), "-n", namespaceOf(party), "--wait"]);
    for (const party of ["VU", "UVA", "SURF"]) {
      await eventually(
        async () => {
          assert.deepEqual(
            (await objectsIn(namespaceOf(party))).filter((name) => !NOT_OURS.test(name)),
            [],
          );
          return true;
        },
        { timeoutMs: GONE_MS, intervalMs: 1_000, describe: `nothing of ${party} to be left` },
      );
    }
    await eventually(
      async () => {
        assert.deepEqual(leftOverQueues(await queuesOf(installation)), []);
        assert.deepEqual(leftOverKeys(await storedKeysOf(installation)), []);
        return true;
      },
      { timeoutMs: GONE_MS, intervalMs: 1_000, describe: "queues and keys of the parties to be gone" },
    );
    for (const party of ["VU", "UVA", "SURF"]) {
      await removeSteward(installation.site, party);
    }
    const queues = (await queuesOf(installation)).map(({ name }) => name);
    assert.deepEqual(
      queues.filter((name) => /^(VU|UVA|SURF)-/.test(name)),
      [],
    );
  });

  test("the uninstalled orchestrator and core leave nothing, where keepDataOnUninstall is false", async () => {
    await helm(["uninstall", "orchestrator", "-n", core, "--wait"]);
    await helm(["uninstall", "core", "-n", core, "--wait"]);
    await eventually(
      async () => {
        assert.deepEqual(
          (await objectsIn(core)).filter((name) => !NOT_OURS.test(name)),
          [],
        );
        return true;
      },
      { timeoutMs: GONE_MS, intervalMs: 1_000, describe: "nothing of the core to be left" },
    );
  });
}

/** Names as `kind/name`, kind in the singular. */
async function objectsIn(namespace: string): Promise<string[]> {
  const names = (await kubectl(["get", KINDS, "-n", namespace, "-o", "name"])).trim().split("\n");
  return names
    .filter((name) => name !== "")
    .map((name) => name.replace(/^([^./]+)\.[^/]*\//, "$1/"))
    .sort();
}
