/** A look at the chains on a cluster: their pods and Jobs, the queues of their runs, and the keys of their jobs. */
import assert from "node:assert/strict";
import { runQueuesAmong, type InspectedQueue } from "./bus-inspection.ts";
import { secretValue, type Installation } from "./cluster-installation.ts";
import { kubectl, kubectlJson } from "./cluster-tools.ts";
import { eventually } from "./eventually.ts";
import { keysInEtcd, type StoredKey } from "./store-inspection.ts";

/** Selects the pods and Jobs of chains. */
export const CHAIN_SELECTOR = "app.kubernetes.io/name=dynamos-chain";
const GONE_MS = 60_000;

/** A pod of a chain. */
export interface ChainPod {
  readonly name: string;
  /** Its containers have ended, or it has never begun and never will. */
  readonly isOver: boolean;
  /** All its containers run. */
  readonly isRunning: boolean;
}

interface Pod {
  readonly metadata: { readonly name: string; readonly deletionTimestamp?: string };
  readonly status: {
    readonly phase: string;
    readonly containerStatuses?: readonly { readonly state: { readonly running?: object } }[];
  };
}

/** The pods of a party's chains that are there now. */
export async function chainPods(installation: Installation, party: string): Promise<readonly ChainPod[]> {
  const { items } = await kubectlJson<{ readonly items: readonly Pod[] }>([
    "get",
    "pods",
    "-n",
    installation.namespaceOf(party),
    "-l",
    CHAIN_SELECTOR,
  ]);
  return items.map(({ metadata, status }) => ({
    name: metadata.name,
    isOver: status.phase === "Succeeded" || status.phase === "Failed",
    isRunning:
      status.phase === "Running" &&
      metadata.deletionTimestamp === undefined &&
      (status.containerStatuses ?? []).every(({ state }) => state.running !== undefined),
  }));
}

/** The pod of a party's chain, as soon as all its containers run. */
export async function runningChainPod(installation: Installation, party: string): Promise<string> {
  const found = await eventually(
    async () => (await chainPods(installation, party)).find(({ isRunning }) => isRunning),
    { timeoutMs: 60_000, intervalMs: 100, describe: `a chain of ${party} to run` },
  );
  return found.name;
}

/** Waits until no chain runs, and no queue of a run is left; fails naming them. */
export async function assertNoChainLeft(installation: Installation, ...parties: readonly string[]): Promise<void> {
  await eventually(
    async () => {
      const left: string[] = [];
      for (const party of parties) {
        const pods = await chainPods(installation, party);
        left.push(...pods.filter(({ isOver }) => !isOver).map(({ name }) => `pod ${name} of ${party}`));
        left.push(...(await activeJobs(installation, party)).map((name) => `Job ${name} of ${party}`));
      }
      left.push(...runQueuesAmong(await queuesOf(installation)).map((name) => `queue ${name}`));
      assert.deepEqual(left, []);
      return true;
    },
    { timeoutMs: GONE_MS, intervalMs: 500, describe: "chains and their queues to be gone" },
  );
}

interface Job {
  readonly metadata: { readonly name: string };
  readonly status: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

/** Jobs of a party that have not ended. */
async function activeJobs(installation: Installation, party: string): Promise<readonly string[]> {
  const { items } = await kubectlJson<{ readonly items: readonly Job[] }>([
    ...["get", "jobs", "-n", installation.namespaceOf(party), "-l", CHAIN_SELECTOR],
  ]);
  const hasEnded = ({ status }: Job): boolean =>
    (status.conditions ?? []).some(({ type, status: is }) => is === "True" && /^(Complete|Failed)$/.test(type));
  return items.filter((job) => !hasEnded(job)).map(({ metadata }) => metadata.name);
}

/** All queues of the broker, as its management API names them. */
export async function queuesOf(installation: Installation): Promise<readonly InspectedQueue[]> {
  const script = `
    const url = new URL(process.env.DYNAMOS_ADMIN_BROKER_MANAGEMENT);
    const password = require("node:fs").readFileSync(url.searchParams.get("passwordFile"), "utf8").trim();
    const authorization = "Basic " + Buffer.from(url.username + ":" + password).toString("base64");
    fetch(url.origin + "/api/queues?disable_stats=true", { headers: { authorization } })
      .then((response) => response.text()).then((text) => process.stdout.write(text));`;
  const text = await kubectl(["exec", "-n", installation.core, "deploy/core-console", "--", "node", "-e", script]);
  const queues = JSON.parse(text) as readonly { name: string; exclusive: unknown; arguments: object }[];
  return queues
    .filter(({ name }) => !name.startsWith("amq.gen-"))
    .map((queue) => ({ name: queue.name, expires: queue.exclusive === true || "x-expires" in queue.arguments }));
}

/** All keys of the store. */
export async function storedKeysOf(installation: Installation): Promise<readonly StoredKey[]> {
  const password = await secretValue(installation.core, "core-root", "etcd-password");
  const { port } = await installation.forward(installation.core, "core-etcd", "client");
  return keysInEtcd(`etcd://root:${encodeURIComponent(password)}@127.0.0.1:${String(port)}/`);
}
