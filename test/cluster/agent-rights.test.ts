/** What an agent may do at the API server, asked and tried with a token of its own service account. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { AuthorizationV1Api, BatchV1Api, CoreV1Api, KubeConfig, type V1ResourceRule } from "@kubernetes/client-node";
import { clusterConfig } from "../support/cluster-forward.ts";
import { clusterInstallation } from "../support/cluster-installation.ts";
import { podsOf } from "../support/cluster-pods.ts";
import { kubectl, kubectlJson, noCluster } from "../support/cluster-tools.ts";

/** Group and resource, and the verbs on it. */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  "batch/jobs": ["create", "delete", "get", "list", "patch", "watch"],
  "/pods": ["delete", "get", "list", "patch", "watch"],
  "/pods/log": ["get"],
  "/events": ["create", "get", "list", "watch"],
};
/** What every account may ask about itself. */
const ABOUT_ITSELF = /^(authorization|authentication)\.k8s\.io\//;

const skip = await noCluster();

if (skip !== false) test("the rights of an agent", { skip });
else {
  const { core, namespaceOf } = await clusterInstallation();
  const VU = namespaceOf("VU");
  const config = asBearer(await tokenOfAgent(VU));

  describe("an agent, with its own token", () => {
    test("may do what it needs in its own namespace, and nothing else", async () => {
      assert.deepEqual(await rightsIn(config, VU), ALLOWED);
    });

    for (const [what, namespace] of Object.entries({
      "another steward's namespace": namespaceOf("UVA"),
      "the core's namespace": core,
      "kube-system": "kube-system",
    })) {
      test(`may do nothing in ${what}`, async () => {
        assert.deepEqual(await rightsIn(config, namespace), {});
      });
    }

    test("gets its Jobs and pods when it really asks", async () => {
      await config.makeApiClient(BatchV1Api).listNamespacedJob({ namespace: VU });
      const { items } = await config.makeApiClient(CoreV1Api).listNamespacedPod({ namespace: VU });
      assert.ok(items.length > 0);
    });

    const api = config.makeApiClient(CoreV1Api);
    for (const [what, attempt] of Object.entries<() => Promise<unknown>>({
      "the Secrets beside it": () => api.listNamespacedSecret({ namespace: VU }),
      "its own credentials": () => api.readNamespacedSecret({ namespace: VU, name: "dynamos-credentials" }),
      "another steward's pods": () => api.listNamespacedPod({ namespace: namespaceOf("UVA") }),
      "all pods": () => api.listPodForAllNamespaces(),
      "the nodes": () => api.listNode(),
    })) {
      test(`is refused ${what} when it really asks`, async () => {
        await assert.rejects(attempt(), (error: { readonly code?: number }) => error.code === 403);
      });
    }
  });

  for (const [who, namespace, name] of [
    ["an orchestrator", core, "dynamos-orchestrator"],
    ["a policy enforcer", core, "dynamos-policy-enforcer"],
    ["etcd", core, "dynamos-etcd"],
    ["RabbitMQ", core, "dynamos-rabbitmq"],
    ["the console", core, "dynamos-console"],
  ] as const) {
    test(`${who} has no token`, async () => {
      const [pod] = await podsOf(namespace, `app.kubernetes.io/name=${name}`);
      const { spec } = await kubectlJson<{ readonly spec: object }>(["get", "pod", pod?.name ?? "", "-n", namespace]);
      assert.doesNotMatch(JSON.stringify(spec), /serviceAccountToken|kubernetes\.io\/serviceaccount/);
    });
  }
}

/** A token as the agent's pod gets it, asked for by the administrator. */
async function tokenOfAgent(namespace: string): Promise<string> {
  const { items } = await kubectlJson<{
    readonly items: readonly { readonly spec: { readonly serviceAccountName: string } }[];
  }>([...["get", "pods", "-n", namespace, "-l", "app.kubernetes.io/name=dynamos-agent"]]);
  const account = items[0]?.spec.serviceAccountName ?? "";
  return (await kubectl(["create", "token", account, "-n", namespace, "--duration=10m"])).trim();
}

/** The same cluster, with none of the administrator's rights. */
function asBearer(token: string): KubeConfig {
  const cluster = clusterConfig().getCurrentCluster();
  assert.ok(cluster);
  const config = new KubeConfig();
  config.loadFromClusterAndUser(cluster, { name: "agent", token });
  return config;
}

/** All that the account may do there, but ask about itself. */
async function rightsIn(config: KubeConfig, namespace: string): Promise<Record<string, readonly string[]>> {
  const api = config.makeApiClient(AuthorizationV1Api);
  const review = await api.createSelfSubjectRulesReview({ body: { spec: { namespace } } });
  const rights = new Map<string, Set<string>>();
  for (const { apiGroups = [], resources = [], verbs, resourceNames } of review.status?.resourceRules ??
    ([] as V1ResourceRule[])) {
    const named = resourceNames === undefined ? "" : ` ${resourceNames.join(",")}`;
    for (const resource of apiGroups.flatMap((group) => resources.map((each) => `${group}/${each}${named}`))) {
      if (!ABOUT_ITSELF.test(resource)) rights.set(resource, new Set([...(rights.get(resource) ?? []), ...verbs]));
    }
  }
  return Object.fromEntries([...rights].map(([resource, verbs]) => [resource, [...verbs].sort()]));
}
