/**
 * Job runners on a real cluster, in a namespace of their own, with what an agent has there and no more: a service account, the
 * Role of `charts/agent`, and a token.
 */
import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { systemClock } from "../../lib/clock.ts";
import { type AppError } from "../../lib/errors.ts";
import type { ContainerSpec, JobRunner } from "../../lib/jobs/job-runner.ts";
import { openKubernetesJobRunner, type KubernetesJobRunnerOptions } from "../../lib/jobs/kubernetes.ts";
import { checkKubernetesSettings, type KubernetesJobSettings } from "../../lib/jobs/kubernetes-settings.ts";
import { makeNamespaces, namespaceName, newSuffix, removeNamespaces } from "./cluster-namespaces.ts";
import { apply, kubectl, kubectlJson, TEST_IMAGE } from "./cluster-tools.ts";
import { NetworkPath } from "./network-path.ts";
import { temporaryFolder } from "./temporary-folder.ts";

/** An image with Node for small programs; that of the system has it. */
export const TEST_NODE_IMAGE = TEST_IMAGE;

/** A namespace for one file's job runners. */
export interface ClusterJobs {
  readonly namespace: string;
  /** A kubeconfig with the agent's credentials. */
  readonly kubeconfig: string;
  /** What runners reported where nobody waited. */
  readonly reported: readonly AppError[];
  /** Opens a runner of steward VU; `changes` replaces settings. */
  readonly open: (
    changes?: Partial<KubernetesJobSettings>,
    options?: Partial<KubernetesJobRunnerOptions>,
  ) => Promise<JobRunner>;
  /** Opens one whose way to the API server can be cut. */
  readonly openCuttable: () => Promise<CuttableRunner>;
  /** Deletes the namespace. */
  readonly remove: () => Promise<void>;
}

/** A runner behind a path that can be cut; what it reports meanwhile counts for nothing. */
export interface CuttableRunner {
  readonly runner: JobRunner;
  readonly path: NetworkPath;
  readonly close: () => Promise<void>;
}

/** What an agent may do in its namespace: `charts/agent` has the same. */
const AGENT_RULES = [
  { apiGroups: ["batch"], resources: ["jobs"], verbs: ["create", "get", "list", "watch", "patch", "delete"] },
  { apiGroups: [""], resources: ["pods"], verbs: ["get", "list", "watch", "patch", "delete"] },
  { apiGroups: [""], resources: ["pods/log"], verbs: ["get"] },
  { apiGroups: [""], resources: ["events"], verbs: ["create", "get", "list", "watch"] },
];

/** Makes the namespace and the agent's credentials. */
export async function makeClusterJobs(): Promise<ClusterJobs> {
  const suffix = newSuffix();
  await makeNamespaces(suffix, "jobs");
  const namespace = namespaceName(suffix, "jobs");
  await apply(
    { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "agent", namespace } },
    {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "Role",
      metadata: { name: "agent", namespace },
      rules: AGENT_RULES,
    },
    {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "RoleBinding",
      metadata: { name: "agent", namespace },
      subjects: [{ kind: "ServiceAccount", name: "agent", namespace }],
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: "agent" },
    },
  );
  const kubeconfig = await agentKubeconfig(namespace);
  const reported: AppError[] = [];
  const open: ClusterJobs["open"] = (changes = {}, options = {}) =>
    openKubernetesJobRunner({
      settings: {
        ...checkKubernetesSettings({ image: TEST_NODE_IMAGE, stopGraceSeconds: 2 }, "of the tests"),
        ...changes,
      },
      steward: "VU",
      clock: systemClock,
      report: (error) => void reported.push(error),
      kubeconfig,
      ...options,
    });
  return {
    namespace,
    kubeconfig,
    reported,
    open,
    openCuttable: async () => {
      const { hostname, port } = new URL((await clusterConfig()).cluster.server);
      const path = await NetworkPath.to(Number(port || 443), hostname);
      const cuttable = await agentKubeconfig(namespace, path.port);
      const runner = await open({}, { kubeconfig: cuttable, report: () => undefined });
      return { runner, path, close: () => runner.close().finally(() => path.close()) };
    },
    remove: () => removeNamespaces(suffix),
  };
}

/** A JavaScript program as a container of the tests' image. */
export function clusterContainer(name: string, program: string): ContainerSpec {
  return {
    name,
    command: ["node", "--input-type=module", "-e", program],
    environment: {},
    memoryLimitBytes: 512 * 1024 ** 2,
  };
}

/** Whether a container of the job's pod runs, as the cluster says. */
export async function runsOnCluster(namespace: string, jobName: string): Promise<boolean> {
  if (jobName === "") return false;
  const { items } = await kubectlJson<{ readonly items: readonly PodStatus[] }>([
    "get",
    "pods",
    "-n",
    namespace,
    "-l",
    `batch.kubernetes.io/job-name=${jobName}`,
  ]);
  return items.some(({ status }) =>
    [...(status.initContainerStatuses ?? []), ...(status.containerStatuses ?? [])].some(
      ({ state }) => state.running !== undefined,
    ),
  );
}

interface PodStatus {
  readonly status: {
    readonly initContainerStatuses?: readonly ContainerState[];
    readonly containerStatuses?: readonly ContainerState[];
  };
}

interface ContainerState {
  readonly state: { readonly running?: object };
}

/** The cluster of the administrator's configuration. */
interface ClusterConfig {
  readonly name: string;
  readonly cluster: { readonly server: string; readonly [member: string]: unknown };
}

async function clusterConfig(): Promise<ClusterConfig> {
  const config = await kubectl(["config", "view", "--raw", "--minify", "--flatten", "-o", "json"]);
  const [cluster] = (JSON.parse(config) as { clusters: ClusterConfig[] }).clusters;
  assert.ok(cluster, "KUBECONFIG names a cluster");
  return cluster;
}

/** The administrator's configuration with the agent's token in the place of the administrator's own credentials; by way of `port` here, if that is given. */
async function agentKubeconfig(namespace: string, port?: number): Promise<string> {
  const token = (await kubectl(["create", "token", "agent", "-n", namespace, "--duration=2h"])).trim();
  const { name, cluster } = await clusterConfig();
  // Its certificate names another address than the path's.
  const { "certificate-authority-data": _, ...unverified } = cluster;
  const way = { ...unverified, server: `https://127.0.0.1:${String(port)}`, "insecure-skip-tls-verify": true };
  const path = join(await temporaryFolder(), "kubeconfig.json");
  const agent = {
    apiVersion: "v1",
    kind: "Config",
    clusters: [{ name, cluster: port === undefined ? cluster : way }],
    users: [{ name: "agent", user: { token } }],
    contexts: [{ name: "agent", context: { cluster: name, user: "agent", namespace } }],
    "current-context": "agent",
  };
  await writeFile(path, JSON.stringify(agent), { mode: 0o600 });
  return path;
}
