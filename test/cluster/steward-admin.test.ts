/**
 * A steward's administrator, who has Kubernetes' own role "admin" in one namespace and nothing else of the cluster: installs,
 * upgrades and uninstalls an agent. Whether pods run is other tests' business: here there are no credentials, so none does.
 */
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { makeNamespaces, namespaceName, newSuffix, removeNamespaces } from "../support/cluster-namespaces.ts";
import { chart } from "../support/cluster-releases.ts";
import { apply, helm, kubectl, kubectlJson, noCluster } from "../support/cluster-tools.ts";
import { eventually } from "../support/eventually.ts";

const ADMIN = "admin-of-hva";
const KINDS = [
  ...["statefulsets", "services", "endpointslices", "pods", "jobs", "configmaps", "secrets", "persistentvolumeclaims"],
  ...["serviceaccounts", "roles", "rolebindings", "networkpolicies", "poddisruptionbudgets"],
];

interface Named {
  readonly kind: string;
  readonly metadata: { readonly name: string };
}

const skip = await noCluster();

describe("an administrator of one namespace", { skip }, () => {
  const suffix = newSuffix();
  const namespace = namespaceName(suffix, "hva");
  const release = (command: readonly string[], ...values: readonly string[]): Promise<string> =>
    helm([
      ...command,
      "hva",
      chart("agent"),
      ...["-n", namespace, "--kube-as-user", ADMIN],
      ...["--set", ["steward=HVA", "data.sample=true", "data.sampleOf=VU", ...values].join()],
    ]);
  const keys = async (): Promise<unknown> =>
    (await kubectlJson<{ readonly data: unknown }>(["get", "secret", "hva-keys", "-n", namespace])).data;
  const there = async (): Promise<readonly string[]> => {
    const { items } = await kubectlJson<{ readonly items: readonly Named[] }>(["get", KINDS.join(), "-n", namespace]);
    return items
      .map(({ kind, metadata }) => `${kind}/${metadata.name}`)
      .filter((name) => !/^(ConfigMap\/kube-root-ca\.crt|ServiceAccount\/default|RoleBinding\/admin)$/.test(name));
  };
  const uninstall = (): Promise<string> => helm(["uninstall", "hva", "-n", namespace, "--kube-as-user", ADMIN]);
  const left = (...names: readonly string[]): Promise<unknown> =>
    eventually(async () => (await there()).join() === names.join(), {
      timeoutMs: 60_000,
      intervalMs: 500,
      describe: `${names.join() || "nothing"} to be what is left of the release`,
    });
  after(() => removeNamespaces(suffix));

  test("installs an agent: what the chart makes is all in the namespace, and within the role's rights", async () => {
    await makeNamespaces(suffix, "hva");
    await apply({
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "RoleBinding",
      metadata: { name: "admin", namespace },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "admin" },
      subjects: [{ apiGroup: "rbac.authorization.k8s.io", kind: "User", name: ADMIN }],
    });
    const notes = await release(["install"]);
    assert.match(notes, /dynamos steward add HVA/);
    const made = await there();
    for (const name of ["StatefulSet/hva", "Role/hva", "NetworkPolicy/hva-chains", "Secret/hva-keys"]) {
      assert.ok(made.includes(name), `${name} is not among ${made.join(", ")}`);
    }
  });

  test("keeps its keys on an upgrade, whatever else it changes", async () => {
    const before = await keys();
    await release(["upgrade"], "replicas=2", "settings.maxRuns=2");
    assert.deepEqual(await keys(), before);
    const path = "{.spec.replicas}";
    assert.equal(await kubectl(["get", "statefulset", "hva", "-n", namespace, "-o", `jsonpath=${path}`]), "2");
  });

  test("may leave the keys behind: the next install of the release takes them up", async () => {
    const before = await keys();
    await release(["upgrade"], "keys.keepOnUninstall=true");
    await uninstall();
    await left("Secret/hva-keys");
    await release(["install"]);
    assert.deepEqual(await keys(), before);
  });

  test("uninstalls it, and nothing is left", async () => {
    await uninstall();
    await left();
  });
});
