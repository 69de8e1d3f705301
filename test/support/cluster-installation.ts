/**
 * The whole system on a cluster, by its charts: core, orchestrator, VU and UVA with sample data, and SURF as third party. Files of
 * one run share it: the first that asks installs it, `uninstall.test.ts` takes it away. A file that is run alone has its own.
 */
import { join } from "node:path";
import { after } from "node:test";
import { packageRoot } from "../../lib/package-root.ts";
import { ExchangeClient } from "../../cli/client.ts";
import { forwardService, type Forward } from "./cluster-forward.ts";
import { makeNamespaces, namespaceName, newSuffix, removeNamespaces } from "./cluster-namespaces.ts";
import { ETCD_IMAGE, RABBITMQ_IMAGE, TEST_IMAGE, helm, kubectl } from "./cluster-tools.ts";
import { eventually } from "./eventually.ts";

/** The parties of the installation, and what each may do. */
export const PARTIES = { VU: "both", UVA: "both", SURF: "thirdParty" } as const;
/** The namespace's purpose of core and orchestrator. */
export const CORE = "dynamos";

const VALUES = join(packageRoot, "test", "cluster", "values");
const HELM_WAIT = "180s";

/** See the file comment. */
export interface Installation {
  readonly suffix: string;
  /** Namespace of core and orchestrator. */
  readonly core: string;
  /** Namespace of a party; any name. */
  readonly namespaceOf: (party: string) => string;
  readonly client: ExchangeClient;
  readonly adminKey: string;
  /** A party's agents, by their Service. */
  readonly agentUrl: (party: string) => Promise<string>;
  /** A Service as a port of this machine, until the file ends. */
  readonly forward: (namespace: string, service: string, portName?: string) => Promise<Forward>;
}

/** Parameters of `helm` that every release of a run gets. */
export function imageParameters(image: string): string[] {
  const [, repository = image, tag = "latest"] = /^(.*):([^:/]+)$/.exec(image) ?? [];
  return ["--set-string", `image.repository=${repository},image.tag=${tag}`];
}

/** A chart of this repository. */
export function chart(name: "core" | "orchestrator" | "agent"): string {
  return join(packageRoot, "charts", name);
}

/** The installation of this run. To be awaited at the top level of a file: its ports are closed when the file ends. */
export async function clusterInstallation(): Promise<Installation> {
  const shared = process.env["DYNAMOS_TEST_RUN"];
  const suffix = shared || newSuffix();
  const forwards: Forward[] = [];
  after(async () => {
    for (const forward of forwards) await forward.close();
    if (!shared) await removeNamespaces(suffix);
  });
  await installAll(suffix);
  const core = namespaceName(suffix, CORE);
  const namespaceOf: Installation["namespaceOf"] = (party) => namespaceName(suffix, party.toLowerCase());
  const forward: Installation["forward"] = async (namespace, service, portName) => {
    const opened = await forwardService(namespace, service, portName);
    forwards.push(opened);
    return opened;
  };
  const { port } = await forward(core, "orchestrator", "http");
  return {
    suffix,
    core,
    namespaceOf,
    forward,
    client: new ExchangeClient(`http://127.0.0.1:${String(port)}`),
    adminKey: await secretValue(core, "orchestrator-keys", "admin-key"),
    agentUrl: async (party) => {
      const agent = await forward(namespaceOf(party), party.toLowerCase(), "http");
      return `http://127.0.0.1:${String(agent.port)}`;
    },
  };
}

/** One value of a Secret, as text. */
export async function secretValue(namespace: string, name: string, key: string): Promise<string> {
  const path = `{.data.${key.replaceAll(".", "\\.")}}`;
  const encoded = await kubectl(["get", "secret", name, "-n", namespace, "-o", `jsonpath=${path}`]);
  if (encoded === "") throw new Error(`Secret ${namespace}/${name} has no ${key}.`);
  return Buffer.from(encoded, "base64").toString("utf8").trim();
}

/** Installs what is not installed yet. */
async function installAll(suffix: string): Promise<void> {
  const core = namespaceName(suffix, CORE);
  const done = await kubectl([
    "get",
    "namespace",
    core,
    "--ignore-not-found",
    "-o",
    "jsonpath={.metadata.annotations}",
  ]);
  if (done.includes("dynamos.test/installed")) return;
  await makeNamespaces(suffix, CORE, ...Object.keys(PARTIES).map((party) => party.toLowerCase()));
  await installCore(suffix);
  const orchestrator = installOrchestrator(suffix);
  const agents = Object.entries(PARTIES).map(async ([party, role]) => {
    await addSteward(suffix, party, role);
    await installAgent(suffix, party);
  });
  await Promise.all([orchestrator, ...agents]);
  await kubectl(["annotate", "namespace", core, "dynamos.test/installed=yes", "--overwrite"]);
}

/** Installs or upgrades `charts/core`. */
export async function installCore(suffix: string, ...more: readonly string[]): Promise<void> {
  await release(suffix, CORE, "core", chart("core"), [...coreImages(), "-f", join(VALUES, "core.yaml"), ...more]);
}

/** Installs or upgrades `charts/orchestrator`. */
export async function installOrchestrator(suffix: string, ...more: readonly string[]): Promise<void> {
  const values = ["-f", join(VALUES, "orchestrator.yaml"), ...more];
  await release(suffix, CORE, "orchestrator", chart("orchestrator"), [...imageParameters(TEST_IMAGE), ...values]);
}

/** Installs or upgrades `charts/agent` for a party. */
export async function installAgent(suffix: string, party: string, ...more: readonly string[]): Promise<void> {
  const purpose = party.toLowerCase();
  await release(suffix, purpose, purpose, chart("agent"), [
    ...imageParameters(TEST_IMAGE),
    ...["-f", join(VALUES, "agent.yaml")],
    ...["--set-string", `steward=${party},coreNamespace=${namespaceName(suffix, CORE)}`],
    ...["--set", `replicas=${party === "VU" ? "2" : "1"},data.sample=${String(party !== "SURF")}`],
    ...more,
  ]);
}

/** Makes a party's credentials with the console, and puts their Secret where the party's release looks for it. */
export async function addSteward(suffix: string, party: string, role: string): Promise<void> {
  const core = namespaceName(suffix, CORE);
  const command = ["dynamos", "steward", "add", party, "--role", role, "--secret", "dynamos-credentials"];
  const secret = await kubectl(["exec", "-n", core, "deploy/core-console", "--", ...command]);
  await kubectl(["apply", "-n", namespaceName(suffix, party.toLowerCase()), "-f", "-"], { input: secret });
}

/** Waits until the parties' agents are known to the front door. */
export async function waitUntilOnline(installation: Installation, ...parties: readonly string[]): Promise<void> {
  await eventually(
    async () => {
      for (const party of parties) {
        const ready = await fetch(`${await installation.agentUrl(party)}/ready`);
        if (ready.status !== 200) throw new Error(`${party}: ${await ready.text()}`);
      }
      return true;
    },
    { timeoutMs: 60_000, intervalMs: 500, describe: `${parties.join(", ")} to be online` },
  );
}

async function release(
  suffix: string,
  purpose: string,
  name: string,
  folder: string,
  parameters: readonly string[],
): Promise<void> {
  const where = ["-n", namespaceName(suffix, purpose), "--wait", "--timeout", HELM_WAIT];
  await helm(["upgrade", "--install", name, folder, ...where, ...parameters]);
}

function coreImages(): string[] {
  const part = (name: string, image: string): string => {
    const [, repository = image, tag = "latest"] = /^(.*):([^:/]+)$/.exec(image) ?? [];
    return `${name}.image.repository=${repository},${name}.image.tag=${tag}`;
  };
  return [
    ...imageParameters(TEST_IMAGE),
    "--set-string",
    `${part("etcd", ETCD_IMAGE)},${part("rabbitmq", RABBITMQ_IMAGE)}`,
  ];
}
