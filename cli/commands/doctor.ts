/** `dynamos doctor`: looks at a deployment from outside, part by part, and says what is wrong and what to do. */
import { join, resolve } from "node:path";
import { systemClock, type Clock } from "../../lib/clock.ts";
import { extraAuthoritiesFile } from "../../lib/config/env.ts";
import { packageRoot, packageVersion } from "../../lib/package-root.ts";
import { createLogger } from "../../lib/telemetry/logger.ts";
import { openTrust } from "../../lib/tls/trust.ts";
import { judgeBus } from "../doctor/bus.ts";
import type { Finding } from "../doctor/findings.ts";
import { judgeCluster, judgeClusterNamespace, judgeTrial } from "../doctor/kubernetes.ts";
import { judgeMachine, type Checked } from "../doctor/machine.ts";
import { probeBus } from "../doctor/probe-bus.ts";
import { probeMachine, toChecked } from "../doctor/probe-machine.ts";
import { probeCertificates, probeServices } from "../doctor/probe-services.ts";
import { probeStore } from "../doctor/probe-store.ts";
import { findingLines, summarize, summaryLine } from "../doctor/report.ts";
import { judgeCertificates, judgeOnline, judgeServices } from "../doctor/services.ts";
import { judgeStore, type StoreFacts } from "../doctor/store.ts";
import { exchangeSettings, type ExchangeSettings } from "../exchange/settings.ts";

/** Options of the command. */
export interface DoctorOptions {
  /** Configuration folder; absent: that of the sample, whose documents are not looked at then. */
  readonly configuration: string | undefined;
  /** Absent: `.dynamos/up` below the working folder. */
  readonly stateFolder: string | undefined;
  readonly store: string | undefined;
  readonly bus: string | undefined;
  /** Base URL of a front door to ask besides those that are registered. */
  readonly orchestrator: string | undefined;
  /** PEM file of authorities to trust besides Node's when services are asked. */
  readonly ca?: string | undefined;
  /** Looks at a cluster, instead of at a machine, store, bus and services: in these namespaces, or in all where parts are. */
  readonly kubernetes?: { readonly namespaces: readonly string[]; readonly tryNetwork: boolean } | undefined;
  /** One JSON document instead of lines. */
  readonly json: boolean;
  readonly write: (line: string) => void;
  readonly clock?: Clock;
}

/** Runs the command; its exit code is 1 where something fails, else 0: warnings alone do not fail it. */
export async function doctor(options: DoctorOptions): Promise<number> {
  const findings: Finding[] = [];
  const section = (title: string): void => {
    if (!options.json) options.write(title);
  };
  const report = (found: readonly Finding[]): void => {
    findings.push(...found);
    if (!options.json) for (const line of found.flatMap(findingLines)) options.write(line);
  };
  if (options.kubernetes === undefined) await examine(options, section, report);
  else await examineCluster(options.kubernetes, options.clock ?? systemClock, section, report);
  const summary = summarize(findings);
  options.write(
    options.json
      ? JSON.stringify({ version: packageVersion, summary, findings }, undefined, 2)
      : `\n${summaryLine(summary)}`,
  );
  return summary.fail > 0 ? 1 : 0;
}

async function examineCluster(
  { namespaces, tryNetwork: isTrying }: NonNullable<DoctorOptions["kubernetes"]>,
  clock: Clock,
  section: (title: string) => void,
  report: (findings: readonly Finding[]) => void,
): Promise<void> {
  // The client's library is large, and nobody else needs it.
  const { probeKubernetes } = await import("../doctor/probe-kubernetes.ts");
  section("Cluster");
  const facts = await probeKubernetes(namespaces, clock);
  report(judgeCluster(facts));
  for (const namespace of facts.namespaces) {
    section(`Namespace ${namespace.name}`);
    report(judgeClusterNamespace(namespace));
  }
  if (!isTrying || !facts.reached.ok) return;
  section("Network");
  const { tryNetwork } = await import("../doctor/probe-network.ts");
  report([judgeTrial(await tryNetwork(facts.namespaces))]);
}

async function examine(
  options: DoctorOptions,
  section: (title: string) => void,
  report: (findings: readonly Finding[]) => void,
): Promise<void> {
  const clock = options.clock ?? systemClock;
  const stateFolder = resolve(options.stateFolder ?? join(".dynamos", "up"));
  const { settings, checked } = await readSettings(options);
  section("This machine");
  report(judgeMachine(await probeMachine({ settings: checked, configuration: options.configuration, stateFolder })));
  if (settings === undefined) return;

  const storeUrl = settings.storeUrl ?? `sqlite:${join(stateFolder, "store.db")}`;
  section("Knowledge store");
  const store = await probeStore(storeUrl);
  report(judgeStore(store));

  const busUrl = settings.busUrl ?? `embedded:${join(stateFolder, "bus.db")}`;
  section("Message bus");
  report(judgeBus(await probeBus(busUrl, store)));

  section("Services");
  const services = await askServices(store, options, clock);
  if (store.reached.ok) report(judgeOnline(store, services));
  report(judgeServices(services, packageVersion));
  const urls = [storeUrl, busUrl, ...services.map(({ url }) => url), ...store.agents.map(({ dns }) => dns)];
  report(judgeCertificates(await probeCertificates(urls), clock.now()));
}

async function askServices(store: StoreFacts, { orchestrator, ca }: DoctorOptions, clock: Clock) {
  const trust = await openTrust(ca, { clock, logger: createLogger("doctor", {}, "silent") }, extraAuthoritiesFile());
  try {
    return await probeServices(store, orchestrator?.replace(/\/$/, ""), { clock, trust });
  } finally {
    await trust.close();
  }
}

/** Settings as `dynamos up` finds them: flags, environment, `exchange.json`. */
async function readSettings({
  configuration,
  store,
  bus,
}: DoctorOptions): Promise<{ readonly settings?: ExchangeSettings; readonly checked: Checked }> {
  try {
    const settings = await exchangeSettings({ store, bus }, configuration ?? join(packageRoot, "configuration"));
    return { settings, checked: { ok: true, what: "The settings for store and bus are valid." } };
  } catch (thrown) {
    return { checked: toChecked(thrown) };
  }
}
