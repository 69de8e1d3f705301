/**
 * The whole system on a cluster, by its charts: core, orchestrator, VU and UVA with sample data, and SURF as third party. Files of
 * one run share it: the first that asks installs it, `uninstall.test.ts` takes it away. A file that is run alone has its own.
 */
import { after } from "node:test";
import { ExchangeClient } from "../../cli/client.ts";
import { forwardService, type Forward } from "./cluster-forward.ts";
import { newSuffix, removeNamespaces } from "./cluster-namespaces.ts";
import {
  PARTIES,
  addSteward,
  coreNamespace,
  installAgent,
  installCore,
  installOrchestrator,
  makeSite,
  partyNamespace,
  type Site,
} from "./cluster-releases.ts";
import { kubectl } from "./cluster-tools.ts";
import { eventually } from "./eventually.ts";

/** Annotation of the core's namespace, once everything is installed. */
const INSTALLED = "dynamos.test/installed";

/** See the file comment. */
export interface Installation {
  readonly site: Site;
  /** Namespace of core and orchestrator. */
  readonly core: string;
  /** Namespace of a party; any name. */
  readonly namespaceOf: (party: string) => string;
  readonly client: ExchangeClient;
  readonly adminKey: string;
  /** A Service as a port of this machine, until the file ends. */
  readonly forward: (namespace: string, service: string, portName?: string) => Promise<Forward>;
}

/** The installation of this run. To be awaited at the top level of a file: its ports are closed when the file ends. */
export async function clusterInstallation(): Promise<Installation> {
  const shared = process.env["DYNAMOS_TEST_RUN"];
  const site: Site = { suffix: shared || newSuffix(), prefix: "" };
  const forwards = new Map<string, Forward>();
  after(async () => {
    for (const forward of forwards.values()) await forward.close();
    if (!shared) await removeNamespaces(site.suffix);
  });
  const core = coreNamespace(site);
  const annotations = ["-o", "jsonpath={.metadata.annotations}"];
  const found = await kubectl(["get", "namespace", core, "--ignore-not-found", ...annotations]);
  if (!found.includes(INSTALLED)) {
    await installAll(site, Object.keys(PARTIES));
    await kubectl(["annotate", "namespace", core, `${INSTALLED}=yes`, "--overwrite"]);
  }
  const forward: Installation["forward"] = async (namespace, service, portName) => {
    const place = [namespace, service, portName].join("/");
    const opened = forwards.get(place) ?? (await forwardService(namespace, service, portName));
    forwards.set(place, opened);
    return opened;
  };
  const { port } = await forward(core, "orchestrator", "http");
  return {
    site,
    core,
    namespaceOf: (party) => partyNamespace(site, party),
    forward,
    client: new ExchangeClient(`http://127.0.0.1:${String(port)}`),
    adminKey: await secretValue(core, "orchestrator-keys", "admin-key"),
  };
}

/** Installs core, orchestrator and parties: what can be at once is. `more` has a party's own parameters for Helm. */
export async function installAll(
  site: Site,
  parties: readonly string[],
  more: Readonly<Record<string, readonly string[]>> = {},
): Promise<void> {
  await makeSite(site, parties);
  await installCore(site);
  const agents = parties.map(async (party) => {
    await addSteward(site, party, PARTIES[party as keyof typeof PARTIES]);
    await installAgent(site, party, ...(more[party] ?? []));
  });
  await Promise.all([installOrchestrator(site), ...agents]);
}

/** One value of a Secret, as text. */
export async function secretValue(namespace: string, name: string, key: string): Promise<string> {
  const path = `{.data.${key.replaceAll(".", "\\.")}}`;
  const encoded = await kubectl(["get", "secret", name, "-n", namespace, "-o", `jsonpath=${path}`]);
  if (encoded === "") throw new Error(`Secret ${namespace}/${name} has no ${key}.`);
  return Buffer.from(encoded, "base64").toString("utf8").trim();
}

/** Waits until every pod of core, orchestrator and parties is ready, and the parties' agents are known to the front door. */
export async function waitUntilWhole({
  core,
  namespaceOf,
  client,
}: Pick<Installation, "core" | "namespaceOf" | "client">): Promise<void> {
  const parties = Object.keys(PARTIES);
  for (const namespace of [core, ...parties.map(namespaceOf)]) {
    const which = ["pods", "-l", "app.kubernetes.io/name!=dynamos-chain", "-n", namespace];
    await kubectl(["wait", ...which, "--for=condition=Ready", "--timeout=90s"]);
  }
  await eventually(
    async () => {
      const online = (await client.get("getAvailableProviders")) as Readonly<Record<string, unknown>>;
      return parties.every((party) => party in online);
    },
    { timeoutMs: 60_000, intervalMs: 500, describe: `${parties.join(", ")} to be online` },
  );
}
