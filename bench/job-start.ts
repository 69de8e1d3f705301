/**
 * How long a chain takes from its Job's making to its first batch: `npm run bench -- job-start [rounds] [microservices]` (default 7
 * of 2), on the cluster that KUBECONFIG names, in a namespace of its own and with an agent's rights. Compared, turn by turn, with
 * two bare Jobs of as many containers of the same image: one with all of them side by side, one with a native sidecar. Of
 * those the time counts until all containers have written a line.
 *
 * The chain's programs are small and pass one batch on from the first microservice to the sidecar, over the ports that they were
 * given, so that what is measured is the platform and the runner.
 */
import { randomUUID } from "node:crypto";
import { kubectl } from "../test/support/cluster-tools.ts";
import { clusterContainer, makeClusterJobs, TEST_NODE_IMAGE, type ClusterJobs } from "../test/support/cluster-jobs.ts";
import type { JobRunner, JobSpec } from "../lib/jobs/job-runner.ts";
import { KubernetesApi } from "../lib/jobs/kubernetes-api.ts";

/** The promise (issue 5): create to first batch within this many times a bare Job. */
const LIMIT = 1.5;
const GIVE_UP_MS = 60_000;

const FIRST = "batch";
/** Listens on its own port, hands on to the next. The first one does not wait for anybody. */
const MICROSERVICE = `
  import { connect, createServer } from "node:net";
  const next = Number(process.env.LAST === "1" ? process.env.SIDECAR_PORT : Number(process.env.DESIGNATED_GRPC_PORT) + 1);
  const tell = () => connect(next, "127.0.0.1")
    .on("error", () => setTimeout(tell, 5))
    .on("connect", function () { this.end("${FIRST}"); });
  if (process.env.FIRST === "1") tell();
  else createServer((socket) => socket.on("data", tell)).listen(Number(process.env.DESIGNATED_GRPC_PORT), "127.0.0.1");
  console.log("up");
  setInterval(() => {}, 1000);`;
const SIDECAR = `
  import { createServer } from "node:net";
  createServer((socket) => socket.on("data", () => console.log("${FIRST}")))
    .listen(Number(process.env.SIDECAR_PORT), "127.0.0.1");`;
const BARE = `console.log("${FIRST}"); setInterval(() => {}, 1000);`;

/** Runs it; see the file comment. */
export async function measureJobStart(rounds = 7, microservices = 2): Promise<void> {
  const jobs = await makeClusterJobs();
  const runner = await jobs.open({ image: TEST_NODE_IMAGE });
  const api = new KubernetesApi({ kubeconfig: jobs.kubeconfig });
  const kinds: Readonly<Record<string, () => Promise<number>>> = {
    chain: () => chainMs(runner, api, jobs, microservices),
    "bare Job": () => bareMs(api, jobs, microservices, false),
    "bare Job, native sidecar": () => bareMs(api, jobs, microservices, true),
  };
  const names = Object.keys(kinds);
  const measured: Record<string, number[]> = Object.fromEntries(names.map((name) => [name, []]));
  try {
    for (let round = 0; round <= rounds; round++) {
      // Each in turn comes first: what came before is still being cleaned up on the node.
      for (const at of names.keys()) {
        const name = names[(round + at) % names.length] ?? "";
        const ms = await kinds[name]?.();
        // The first round warms the node's caches.
        if (round > 0 && ms !== undefined) measured[name]?.push(ms);
      }
    }
  } finally {
    api.close();
    await runner.close();
    await jobs.remove();
  }
  show(measured, microservices);
}

async function chainMs(
  runner: JobRunner,
  api: KubernetesApi,
  { namespace }: ClusterJobs,
  microservices: number,
): Promise<number> {
  const spec: JobSpec = {
    name: `chain-${randomUUID().slice(0, 8)}`,
    steward: "VU",
    microservices: Array.from({ length: microservices }, (_, n) =>
      clusterContainer(`service-${String(n)}`, MICROSERVICE),
    ),
    sidecar: clusterContainer("sidecar", SIDECAR),
    deadlineMs: Date.now() + 120_000,
    labels: {},
    chain: { jobName: "bench-0a1b2c3d", role: "all", dataProviderCount: 1 },
  };
  const startedAt = Date.now();
  await runner.start(spec);
  const ms = (await writtenAt(api, namespace, spec.name, ["sidecar"])) - startedAt;
  await runner.stop(spec.name);
  return ms;
}

async function bareMs(
  api: KubernetesApi,
  { namespace }: ClusterJobs,
  microservices: number,
  hasSidecar: boolean,
): Promise<number> {
  const name = `bare-${randomUUID().slice(0, 8)}`;
  const names = ["sidecar", ...Array.from({ length: microservices }, (_, n) => `service-${String(n)}`)];
  const containers = names.map(bareContainer);
  const [first, ...rest] = containers;
  const pod = hasSidecar
    ? { initContainers: [{ ...first, restartPolicy: "Always" }], containers: rest }
    : { containers };
  const job = {
    apiVersion: "batch/v1",
    kind: "Job",
    metadata: { name },
    spec: {
      backoffLimit: 0,
      template: {
        spec: { restartPolicy: "Never", terminationGracePeriodSeconds: 1, securityContext: RESTRICTED, ...pod },
      },
    },
  };
  const path = `/apis/batch/v1/namespaces/${namespace}/jobs`;
  const startedAt = Date.now();
  await api.call({ method: "POST", path, body: job });
  const ms = (await writtenAt(api, namespace, name, names)) - startedAt;
  await api.call({ method: "DELETE", path: `${path}/${name}`, body: { propagationPolicy: "Foreground" } });
  await kubectl(["wait", "--for=delete", `job/${name}`, "-n", namespace, "--timeout=60s"]);
  return ms;
}

const RESTRICTED = { runAsNonRoot: true, runAsUser: 10_001, seccompProfile: { type: "RuntimeDefault" } };

function bareContainer(name: string): object {
  return {
    name,
    image: TEST_NODE_IMAGE,
    imagePullPolicy: "IfNotPresent",
    command: ["node", "--input-type=module", "-e", BARE],
    securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ["ALL"] } },
  };
}

/** When the last of these containers wrote its first batch, by the container runtime's clock, which is this machine's or close to it. */
async function writtenAt(
  api: KubernetesApi,
  namespace: string,
  job: string,
  containers: readonly string[],
): Promise<number> {
  const signal = AbortSignal.timeout(GIVE_UP_MS);
  const pod = await podOf(api, namespace, job, signal);
  const times = await Promise.all(containers.map((container) => batchAt(api, namespace, pod, container, signal)));
  return Math.max(...times);
}

async function podOf(api: KubernetesApi, namespace: string, job: string, signal: AbortSignal): Promise<string> {
  const path = `/api/v1/namespaces/${namespace}/pods`;
  const query = { labelSelector: `batch.kubernetes.io/job-name=${job}`, watch: true };
  for await (const line of api.lines({ method: "GET", path, query, signal })) {
    const { object } = JSON.parse(line) as {
      object: { metadata: { name: string }; status: { containerStatuses?: { state: { running?: object } }[] } };
    };
    if (object.status.containerStatuses?.every(({ state }) => state.running)) return object.metadata.name;
  }
  throw new Error(`The pod of ${job} did not come.`);
}

async function batchAt(
  api: KubernetesApi,
  namespace: string,
  pod: string,
  container: string,
  signal: AbortSignal,
): Promise<number> {
  const path = `/api/v1/namespaces/${namespace}/pods/${pod}/log`;
  const query = { container, follow: true, timestamps: true };
  for await (const line of api.lines({ method: "GET", path, query, signal })) {
    const [time = "", text] = line.split(" ");
    if (text === FIRST) return Date.parse(time);
  }
  throw new Error(`Container ${container} of ${pod} ended without its batch.`);
}

function show(measured: Readonly<Record<string, readonly number[]>>, microservices: number): void {
  const chain = median(measured["chain"] ?? []);
  console.log(`From a Job's making to its first batch, ${String(microservices + 1)} containers, milliseconds:`);
  console.log("| | median | least | most | chain is × this |\n| --- | ---: | ---: | ---: | ---: |");
  for (const [kind, times] of Object.entries(measured)) {
    const ratio = (chain / median(times)).toFixed(2);
    console.log(
      `| ${kind} | ${median(times).toFixed(0)} | ${String(Math.min(...times))} | ${String(Math.max(...times))} | ${ratio} |`,
    );
  }
  if (chain > LIMIT * median(measured["bare Job"] ?? [])) {
    console.log(`More than ${String(LIMIT)} times a bare Job.`);
    process.exitCode = 1;
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}
