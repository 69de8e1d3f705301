/**
 * From a request to the first batch of its answer on the cluster that KUBECONFIG names, in an installation of its own by the
 * charts: VU's chains are cold for one user and persistent for another, UVA and the third party SURF have warm ones. The cluster has the
 * images that the cluster tests need.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ExchangeClient } from "../cli/client.ts";
import type { Agreement } from "../lib/model/agreement.ts";
import type { User } from "../lib/model/names.ts";
import { CHAIN_SELECTOR } from "../test/support/cluster-chains.ts";
import { forwardService, type Forward } from "../test/support/cluster-forward.ts";
import { installAll, secretValue, waitUntilWhole } from "../test/support/cluster-installation.ts";
import { newSuffix, removeNamespaces } from "../test/support/cluster-namespaces.ts";
import { coreNamespace, PARTIES, partyNamespace, type Site } from "../test/support/cluster-releases.ts";
import { kubectlJson, TEST_IMAGE } from "../test/support/cluster-tools.ts";
import { eventually } from "../test/support/eventually.ts";
import { ANALYST } from "../test/support/exchange.ts";
import { ask, knock } from "./ask.ts";
import type { Lifetime } from "./lifetimes.ts";
import { quantile, ratios, summarize } from "./measured.ts";
import { roundsOf, type RunOptions, type Table, type TableBench } from "./table.ts";

const USUAL_ROUNDS = 8;
const WARM_CHAINS = 2;
const WARM_LIMIT_MS = 300;
/** For the node to be done with what the request before left. */
const SETTLING_MS = 1_000;
/** Nobody waits that long between two requests here. */
const IDLE_MS = 600_000;
/** One way to be answered. */
interface Way {
  readonly name: string;
  readonly lifetime: Lifetime;
  /** Who has the data; its chains are of this lifetime for this user. */
  readonly steward: "VU" | "UVA";
  /** Who answers, by an open connection. */
  readonly answers: keyof typeof PARTIES;
}

const WAYS: readonly Way[] = [
  { name: "cold", lifetime: "cold", steward: "VU", answers: "VU" },
  { name: "warm", lifetime: "warm", steward: "UVA", answers: "UVA" },
  { name: "persistent", lifetime: "persistent", steward: "VU", answers: "VU" },
  { name: "warm, through a third party", lifetime: "warm", steward: "UVA", answers: "SURF" },
];
/** Of each party, for the ways above: one per shape. */
const WARM_SHAPES = { UVA: 2, SURF: 1 } as const;
/** Whose agreement says that chains are persistent, at the party that has cold ones for others. */
const REGULAR: User = { id: "regular-1", userName: "regular@example.org" };
const QUESTION = {
  type: "sqlDataRequest",
  query: "SELECT Geslacht, Aanst_22 FROM Personen JOIN Aanstellingen USING (Unieknr, Peildat) LIMIT 10",
};

/** See the file comment. */
export const START_CLUSTER: TableBench = {
  name: "start-cluster",
  about: "request to first batch with cold, warm and persistent chains, on the cluster of KUBECONFIG",
  onlyByName: true,
  run: async (options) => {
    const site: Site = { suffix: newSuffix(), prefix: "" };
    try {
      options.progress(`start-cluster: installing ${TEST_IMAGE}`);
      await installAll(site, Object.keys(PARTIES), {
        VU: ["--set", `replicas=1,settings.chainIdleMs=${String(IDLE_MS)}`],
        UVA: ["--set", `settings.warmChains=${String(WARM_CHAINS)}`],
        SURF: ["--set", `settings.warmChains=${String(WARM_CHAINS)}`],
      });
      return [await measure(site, options)];
    } finally {
      await removeNamespaces(site.suffix);
    }
  },
};

/** Milliseconds by name of a way, of each round one; and those of a call that does nothing. */
interface Figures {
  readonly ways: ReadonlyMap<string, number[]>;
  readonly nothing: number[];
}

async function measure(site: Site, options: RunOptions): Promise<Table> {
  const core = coreNamespace(site);
  const namespaceOf = (party: string): string => partyNamespace(site, party);
  const door = await forwardService(core, "orchestrator", "http");
  const agents = { VU: await agentOf(site, "VU"), UVA: await agentOf(site, "UVA"), SURF: await agentOf(site, "SURF") };
  try {
    const client = new ExchangeClient(`http://127.0.0.1:${String(door.port)}`);
    await waitUntilWhole({ core, namespaceOf, client });
    await allowPersistent(client, await secretValue(core, "orchestrator-keys", "admin-key"));
    const asks = new Map<string, Awaited<ReturnType<typeof asking>>>();
    for (const way of WAYS) asks.set(way.name, await asking(client, way, agents[way.answers]));
    // Loads the data, lets the agents see what is asked of them, and starts the chain that stays.
    for (const askOnce of asks.values()) await askOnce();
    const ms: Figures = { ways: new Map(WAYS.map(({ name }) => [name, []])), nothing: [] };
    const rounds = roundsOf(options, USUAL_ROUNDS);
    for (let round = 0; round < rounds; round += 1) {
      options.progress(`start-cluster: round ${String(round + 1)} of ${String(rounds)}`);
      for (const [name, askOnce] of asks) {
        await untilAtRest(site, agents);
        const { nothingMs, firstMs } = await askOnce();
        ms.ways.get(name)?.push(firstMs);
        ms.nothing.push(nothingMs);
      }
    }
    return table(ms);
  } finally {
    for (const forward of [door, ...Object.values(agents)]) await forward.close();
  }
}

/** A party's agent as a port of this machine. */
function agentOf(site: Site, party: string): Promise<Forward> {
  return forwardService(partyNamespace(site, party), party.toLowerCase(), "http");
}

/** Lets another user ask what the sample's analyst may, by persistent chains. */
async function allowPersistent(client: ExchangeClient, adminKey: string): Promise<void> {
  const party = "VU";
  const token = { token: adminKey };
  const agreement = (await client.get(`policyEnforcer/${party}`, token)) as Agreement;
  const relation = agreement.relations[ANALYST.userName];
  if (relation === undefined) throw new Error(`${party} has no agreement with ${ANALYST.userName}.`);
  const relations = {
    ...agreement.relations,
    [REGULAR.userName]: { ...relation, ID: REGULAR.id, chainLifetime: "persistent" as const },
  };
  await client.put("policyEnforcer", { ...agreement, relations }, token);
}

/** Asks by one approval, each time by a connection that is open. */
async function asking(
  client: ExchangeClient,
  { lifetime, steward, answers }: Way,
  { port }: Forward,
): Promise<() => Promise<{ readonly nothingMs: number; readonly firstMs: number }>> {
  const user = lifetime === "persistent" ? REGULAR : ANALYST;
  const options = { aggregate: answers !== steward };
  const approval = await client.requestApproval({ type: QUESTION.type, user, dataProviders: [steward], options });
  const url = new URL(approval.authorizedProviders[answers] ?? "");
  url.host = `127.0.0.1:${String(port)}`;
  return async () => {
    const nothingMs = await knock(url.href);
    const question = { ...QUESTION, options };
    return { nothingMs, firstMs: (await ask(url.href, question, { token: approval.auth.accessToken })).firstMs };
  };
}

interface ChainPod {
  readonly metadata: { readonly labels: Readonly<Record<string, string>>; readonly deletionTimestamp?: string };
  readonly status: { readonly phase: string };
}

/**
 * Waits until the agents say that a warm chain of every shape is ready, as approvals have made them expect, and that none is getting
 * ready; until no pod of the requests before runs or goes; and for the node to settle.
 */
async function untilAtRest(site: Site, agents: Readonly<Record<keyof typeof PARTIES, Forward>>): Promise<void> {
  const isWarm = async (party: keyof typeof WARM_SHAPES): Promise<boolean> => {
    const { ready, starting } = await warmChains(agents[party]);
    return ready >= WARM_SHAPES[party] && starting === 0 && (await podsOfOthers(site, party, "warm", ready)) === 0;
  };
  await eventually(
    async () =>
      (await isWarm("UVA")) && (await isWarm("SURF")) && (await podsOfOthers(site, "VU", "persistent", 1)) === 0,
    { timeoutMs: 90_000, intervalMs: 250, describe: "a warm chain of each shape to wait, and others to be gone" },
  );
  await sleep(SETTLING_MS);
}

/** How many warm chains an agent has, as its metrics say. */
async function warmChains({ port }: Forward): Promise<{ readonly ready: number; readonly starting: number }> {
  const metrics = await (await fetch(`http://127.0.0.1:${String(port)}/metrics`)).text();
  const count = (state: string): number =>
    Number(
      new RegExp(`^dynamos_chain_warm\\{[^}]*state="${state}"[^}]*\\} (\\d+)`, "m").exec(metrics)?.[1] ?? Number.NaN,
    );
  return { ready: count("ready"), starting: count("starting") };
}

/** Pods of a party's chains that run or go, beyond so many of this lifetime that wait for requests. Those that are over are kept for a while. */
async function podsOfOthers(site: Site, party: string, lifetime: Lifetime, waiting: number): Promise<number> {
  const which = ["-n", partyNamespace(site, party), "-l", CHAIN_SELECTOR];
  const { items } = await kubectlJson<{ readonly items: readonly ChainPod[] }>(["get", "pods", ...which]);
  const isOver = ({ metadata, status }: ChainPod): boolean =>
    metadata.deletionTimestamp === undefined && (status.phase === "Succeeded" || status.phase === "Failed");
  const there = items.filter((pod) => !isOver(pod));
  const isStaying = ({ metadata }: ChainPod): boolean =>
    metadata.labels["dynamos.lifetime"] === lifetime && metadata.deletionTimestamp === undefined;
  return there.length - Math.min(waiting, there.filter(isStaying).length);
}

function table(ms: Figures): Table {
  const msOf = (name: string): number[] => ms.ways.get(name) ?? [];
  return {
    name: "start-cluster",
    title: "From request to first batch on a cluster",
    columns: [
      { name: "chain" },
      { name: "p50", unit: "ms" },
      { name: "p95", unit: "ms" },
      { name: "median, spread", unit: "ms" },
      { name: "of cold" },
    ],
    rows: [
      ...WAYS.map(({ name }) => {
        const own = msOf(name);
        return [...row(name, own), name === "cold" ? null : ratios(own, msOf("cold"))];
      }),
      [...row("none: a call of the agent that does nothing", ms.nothing), null],
    ],
    targets: WAYS.filter(({ lifetime }) => lifetime === "warm").map(({ name }) => ({
      what: `request to first batch on a cluster, ${name}, p95`,
      unit: "ms",
      measured: quantile(msOf(name), 0.95),
      atMost: WARM_LIMIT_MS,
    })),
    notes: [
      "By computeToData where no third party is named, ten rows, at the agent, by an open connection through a port forwarded by the cluster's API; in turns, each once a warm chain waits and no cold one is left. etcd, RabbitMQ and sidecars of the cluster.",
    ],
  };
}

function row(chain: string, ms: readonly number[]): Table["rows"][number] {
  return [chain, quantile(ms, 0.5), quantile(ms, 0.95), summarize(ms)];
}
