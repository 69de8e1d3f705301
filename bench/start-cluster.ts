/**
 * From a request to the first batch of its answer on the cluster that KUBECONFIG names, in an installation of its own by the
 * charts: VU's chains are cold for one user and persistent for another, UVA has warm ones. The cluster has the images that the cluster
 * tests need.
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
import { LIFETIMES, type Lifetime } from "./lifetimes.ts";
import { quantile, ratios, summarize } from "./measured.ts";
import { roundsOf, type RunOptions, type Table, type TableBench } from "./table.ts";

const USUAL_ROUNDS = 8;
const WARM_CHAINS = 2;
const WARM_LIMIT_MS = 300;
/** For the node to be done with what the request before left. */
const SETTLING_MS = 1_000;
/** Nobody waits that long between two requests here. */
const IDLE_MS = 600_000;
/** Who has the chains of each lifetime. */
const PARTY_OF = { cold: "VU", warm: "UVA", persistent: "VU" } as const;
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
      });
      return [await measure(site, options)];
    } finally {
      await removeNamespaces(site.suffix);
    }
  },
};

/** Milliseconds, of each round one. */
type Figures = Readonly<Record<Lifetime | "nothing", number[]>>;

async function measure(site: Site, options: RunOptions): Promise<Table> {
  const core = coreNamespace(site);
  const namespaceOf = (party: string): string => partyNamespace(site, party);
  const door = await forwardService(core, "orchestrator", "http");
  const agents = { VU: await agentOf(site, "VU"), UVA: await agentOf(site, "UVA") };
  try {
    const client = new ExchangeClient(`http://127.0.0.1:${String(door.port)}`);
    await waitUntilWhole({ core, namespaceOf, client });
    await allowPersistent(client, await secretValue(core, "orchestrator-keys", "admin-key"));
    const asks = {
      cold: await asking(client, "cold", agents.VU),
      warm: await asking(client, "warm", agents.UVA),
      persistent: await asking(client, "persistent", agents.VU),
    };
    const ms: Figures = { cold: [], warm: [], persistent: [], nothing: [] };
    const rounds = roundsOf(options, USUAL_ROUNDS);
    // Loads the data, lets UVA's agent see what is asked of it, and starts the chain that stays.
    for (const lifetime of LIFETIMES) await asks[lifetime]();
    for (let round = 0; round < rounds; round += 1) {
      options.progress(`start-cluster: round ${String(round + 1)} of ${String(rounds)}`);
      for (const lifetime of LIFETIMES) {
        await untilAtRest(namespaceOf);
        const { nothingMs, firstMs } = await asks[lifetime]();
        ms[lifetime].push(firstMs);
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
  const party = PARTY_OF.persistent;
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
  lifetime: Lifetime,
  { port }: Forward,
): Promise<() => Promise<{ readonly nothingMs: number; readonly firstMs: number }>> {
  const party = PARTY_OF[lifetime];
  const user = lifetime === "persistent" ? REGULAR : ANALYST;
  const approval = await client.requestApproval({ type: QUESTION.type, user, dataProviders: [party] });
  const url = new URL(approval.authorizedProviders[party] ?? "");
  url.host = `127.0.0.1:${String(port)}`;
  return async () => {
    const nothingMs = await knock(url.href);
    return { nothingMs, firstMs: (await ask(url.href, QUESTION, { token: approval.auth.accessToken })).firstMs };
  };
}

interface ChainJob {
  readonly metadata: { readonly labels: Readonly<Record<string, string>> };
  readonly status: { readonly active?: number; readonly ready?: number };
}

/**
 * Waits until a warm chain waits for a request, as an approval has made its agent expect, until no cold one is left of the request
 * before, and for the node to settle.
 */
async function untilAtRest(namespaceOf: (party: string) => string): Promise<void> {
  const has = async (lifetime: Lifetime, isSuch: (job: ChainJob) => boolean): Promise<boolean> => {
    const which = ["-n", namespaceOf(PARTY_OF[lifetime]), "-l", `${CHAIN_SELECTOR},dynamos.lifetime=${lifetime}`];
    const { items } = await kubectlJson<{ readonly items: readonly ChainJob[] }>(["get", "jobs", ...which]);
    return items.some(isSuch);
  };
  await eventually(
    async () =>
      (await has("warm", ({ status }) => (status.ready ?? 0) > 0)) &&
      !(await has("cold", ({ status }) => (status.active ?? 0) > 0)),
    { timeoutMs: 90_000, intervalMs: 250, describe: "a warm chain to wait, and cold ones to be gone" },
  );
  await sleep(SETTLING_MS);
}

function table(ms: Figures): Table {
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
      ...LIFETIMES.map((lifetime) => [
        ...row(lifetime, ms[lifetime]),
        lifetime === "cold" ? null : ratios(ms[lifetime], ms.cold),
      ]),
      [...row("none: a call of the agent that does nothing", ms.nothing), null],
    ],
    targets: [
      {
        what: "request to first batch on a cluster, warm, p95",
        unit: "ms",
        measured: quantile(ms.warm, 0.95),
        atMost: WARM_LIMIT_MS,
      },
    ],
    notes: [
      "By computeToData, ten rows, at the agent, by an open connection through a port forwarded by the cluster's API; in turns, each once a warm chain waits and no cold one is left. etcd, RabbitMQ and sidecars of the cluster.",
    ],
  };
}

function row(chain: string, ms: readonly number[]): Table["rows"][number] {
  return [chain, quantile(ms, 0.5), quantile(ms, 0.95), summarize(ms)];
}
