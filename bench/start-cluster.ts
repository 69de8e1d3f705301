/**
 * From a request to the first batch of its answer on the cluster that KUBECONFIG names, in an installation of its own by the
 * charts: VU's chains are cold, UVA has warm ones. The cluster has the images that the cluster tests need.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ExchangeClient } from "../cli/client.ts";
import { CHAIN_SELECTOR } from "../test/support/cluster-chains.ts";
import { forwardService, type Forward } from "../test/support/cluster-forward.ts";
import { installAll, waitUntilWhole } from "../test/support/cluster-installation.ts";
import { newSuffix, removeNamespaces } from "../test/support/cluster-namespaces.ts";
import { coreNamespace, installAgent, PARTIES, partyNamespace, type Site } from "../test/support/cluster-releases.ts";
import { kubectlJson, TEST_IMAGE } from "../test/support/cluster-tools.ts";
import { eventually } from "../test/support/eventually.ts";
import { ANALYST } from "../test/support/exchange.ts";
import { ask } from "./ask.ts";
import { quantile, ratios, summarize } from "./measured.ts";
import { roundsOf, type RunOptions, type Table, type TableBench } from "./table.ts";

const USUAL_ROUNDS = 10;
const WARM_CHAINS = 2;
const WARM_LIMIT_MS = 300;
/** For the node to be done with what the request before left. */
const SETTLING_MS = 1_000;
const COLD = "VU";
const WARM = "UVA";
const QUESTION = {
  type: "sqlDataRequest",
  query: "SELECT Geslacht, Aanst_22 FROM Personen JOIN Aanstellingen USING (Unieknr, Peildat) LIMIT 10",
};

/** See the file comment. */
export const START_CLUSTER: TableBench = {
  name: "start-cluster",
  about: "request to first batch with cold and warm chains, on the cluster of KUBECONFIG",
  onlyByName: true,
  run: async (options) => {
    const site: Site = { suffix: newSuffix(), prefix: "" };
    try {
      options.progress(`start-cluster: installing ${TEST_IMAGE}`);
      await installAll(site, Object.keys(PARTIES));
      await installAgent(site, WARM, "--set", `settings.warmChains=${String(WARM_CHAINS)}`);
      return [await measure(site, options)];
    } finally {
      await removeNamespaces(site.suffix);
    }
  },
};

async function measure(site: Site, options: RunOptions): Promise<Table> {
  const core = coreNamespace(site);
  const namespaceOf = (party: string): string => partyNamespace(site, party);
  const door = await forwardService(core, "orchestrator", "http");
  const agents = { [COLD]: await agentOf(site, COLD), [WARM]: await agentOf(site, WARM) };
  try {
    const client = new ExchangeClient(`http://127.0.0.1:${String(door.port)}`);
    await waitUntilWhole({ core, namespaceOf, client });
    const askOf = async (party: typeof COLD | typeof WARM): Promise<() => Promise<number>> => {
      const approval = await client.requestApproval({ type: QUESTION.type, user: ANALYST, dataProviders: [party] });
      const url = new URL(approval.authorizedProviders[party] ?? "");
      url.host = `127.0.0.1:${String(agents[party].port)}`;
      return async () => (await ask(url.href, QUESTION, { token: approval.auth.accessToken })).firstMs;
    };
    const asks = { cold: await askOf(COLD), warm: await askOf(WARM) };
    const ms: { readonly cold: number[]; readonly warm: number[] } = { cold: [], warm: [] };
    const rounds = roundsOf(options, USUAL_ROUNDS);
    // Loads the data, and lets UVA's agent see what is asked of it.
    for (const askOnce of Object.values(asks)) await askOnce();
    for (let round = 0; round < rounds; round += 1) {
      options.progress(`start-cluster: round ${String(round + 1)} of ${String(rounds)}`);
      await untilOneWaits(namespaceOf(WARM));
      ms.cold.push(await asks.cold());
      await untilOneWaits(namespaceOf(WARM));
      ms.warm.push(await asks.warm());
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

interface ChainJob {
  readonly status: { readonly ready?: number };
}

/** Waits until a chain waits for a request, as an approval has made its agent expect, and for what came before to settle. */
async function untilOneWaits(namespace: string): Promise<void> {
  const which = ["get", "jobs", "-n", namespace, "-l", `${CHAIN_SELECTOR},dynamos.lifetime=warm`];
  await eventually(
    async () => {
      const { items } = await kubectlJson<{ readonly items: readonly ChainJob[] }>(which);
      return items.some(({ status }) => (status.ready ?? 0) > 0);
    },
    { timeoutMs: 90_000, intervalMs: 250, describe: `a chain to wait in ${namespace}` },
  );
  await sleep(SETTLING_MS);
}

function table({ cold, warm }: { readonly cold: number[]; readonly warm: number[] }): Table {
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
      ["cold", quantile(cold, 0.5), quantile(cold, 0.95), summarize(cold), null],
      ["warm", quantile(warm, 0.5), quantile(warm, 0.95), summarize(warm), ratios(warm, cold)],
    ],
    targets: [
      {
        what: "request to first batch on a cluster, warm, p95",
        unit: "ms",
        measured: quantile(warm, 0.95),
        atMost: WARM_LIMIT_MS,
      },
    ],
    notes: [
      "By computeToData, ten rows, at the agent, through a port forwarded by the cluster's API; in turns, each once a warm chain waits. etcd, RabbitMQ and sidecars of the cluster.",
    ],
  };
}
