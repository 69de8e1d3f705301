/** The system's releases on a cluster: Helm installs or upgrades them from this repository's charts, in namespaces of a run. */
import { join } from "node:path";
import { packageRoot } from "../../lib/package-root.ts";
import { makeNamespaces, namespaceName } from "./cluster-namespaces.ts";
import { ETCD_IMAGE, RABBITMQ_IMAGE, TEST_IMAGE, helm, kubectl } from "./cluster-tools.ts";

/** The parties of an installation, and what each may do. */
export const PARTIES = { VU: "dataProvider", UVA: "dataProvider", SURF: "thirdParty" } as const;

/** Where one whole system is installed. */
export interface Site {
  readonly suffix: string;
  /** Its namespaces' purposes begin so; other systems of the same run have another one. */
  readonly prefix: string;
  /** Parameters for Helm that this site's releases get besides the usual. */
  readonly more?: Readonly<Partial<Record<Chart | "all", readonly string[]>>>;
}

/** A chart of this repository. */
export type Chart = "core" | "orchestrator" | "agent";

const VALUES = join(packageRoot, "test", "cluster", "values");
const VALUES_OF = { core: "core-debian", orchestrator: "orchestrator", agent: "agent" } as const;
const HELM_WAIT = "180s";

/** A chart's folder. */
export function chart(name: Chart): string {
  return join(packageRoot, "charts", name);
}

/** A file of values of the cluster tests. */
export function valuesFile(name: string): string {
  return join(VALUES, `${name}.yaml`);
}

/** The namespace of core and orchestrator. */
export function coreNamespace({ suffix, prefix }: Site): string {
  return namespaceName(suffix, `${prefix}dynamos`);
}

/** The namespace of a party; any name. */
export function partyNamespace({ suffix, prefix }: Site, party: string): string {
  return namespaceName(suffix, `${prefix}${party.toLowerCase()}`);
}

/** Makes the namespaces of a site. */
export async function makeSite({ suffix, prefix }: Site, parties: readonly string[]): Promise<void> {
  await makeNamespaces(suffix, ...["dynamos", ...parties].map((name) => `${prefix}${name.toLowerCase()}`));
}

/** Installs or upgrades `charts/core`. */
export async function installCore(site: Site, ...more: readonly string[]): Promise<void> {
  const images = `${imageValues("etcd.", ETCD_IMAGE)},${imageValues("rabbitmq.", RABBITMQ_IMAGE)}`;
  await release(site, coreNamespace(site), "core", "core", ["--set-string", images, ...more]);
}

/** Installs or upgrades `charts/orchestrator`. */
export async function installOrchestrator(site: Site, ...more: readonly string[]): Promise<void> {
  await release(site, coreNamespace(site), "orchestrator", "orchestrator", more);
}

/** Installs or upgrades `charts/agent` for a party: VU with two replicas; data providers with the sample's data. */
export async function installAgent(site: Site, party: string, ...more: readonly string[]): Promise<void> {
  await release(site, partyNamespace(site, party), party.toLowerCase(), "agent", [
    ...["--set-string", `steward=${party},coreNamespace=${coreNamespace(site)}`],
    ...["--set", `replicas=${party === "VU" ? "2" : "1"},data.sample=${String(party !== "SURF")}`],
    ...more,
  ]);
}

/** Makes a party's credentials with the console, and puts their Secret where the party's release looks for it. */
export async function addSteward(site: Site, party: string, role: string): Promise<void> {
  // On a busy node a name or a connection may take longer than one attempt allows.
  const wait = ["--wait", "60"];
  const secret = await console(
    site,
    "steward",
    "add",
    party,
    "--role",
    role,
    "--secret",
    "dynamos-credentials",
    ...wait,
  );
  await kubectl(["apply", "-n", partyNamespace(site, party), "-f", "-"], { input: secret });
}

/** Takes a party's credentials away. */
export async function removeSteward(site: Site, party: string): Promise<void> {
  await console(site, "steward", "remove", party);
}

async function console(site: Site, ...command: readonly string[]): Promise<string> {
  return kubectl(["exec", "-n", coreNamespace(site), "deploy/core-console", "--", "dynamos", ...command]);
}

async function release(
  site: Site,
  namespace: string,
  name: string,
  of: Chart,
  parameters: readonly string[],
): Promise<void> {
  await helm([
    ...["upgrade", "--install", name, chart(of), "-n", namespace, "--wait", "--timeout", HELM_WAIT],
    ...["--set-string", imageValues("", TEST_IMAGE), "-f", valuesFile(VALUES_OF[of])],
    ...(site.more?.all ?? []),
    ...(site.more?.[of] ?? []),
    ...parameters,
  ]);
}

/** An image as values of a chart. */
export function imageValues(prefix: string, image: string): string {
  const [, repository = image, tag = "latest"] = /^(.*):([^:/]+)$/.exec(image) ?? [];
  return `${prefix}image.repository=${repository},${prefix}image.tag=${tag}`;
}
