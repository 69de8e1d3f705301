/** The doctor's look at who is online, and at each service by HTTP. Facts in, findings out; pure. */
import { fault, ok, type Finding, type Outcome } from "./findings.ts";
import type { StoreFacts } from "./store.ts";

/** What `/ready` said of one dependency. */
export interface ReportedDependency {
  readonly name: string;
  readonly ok: boolean;
  readonly required?: boolean;
  readonly since?: string;
  readonly detail?: string;
  readonly fix?: string;
}

/** What was found of one service. */
export interface ServiceFacts {
  /** `orchestrator`, `agent of VU`. */
  readonly name: string;
  readonly url: string;
  readonly reached: Outcome;
  /** Its clock minus this machine's, in milliseconds; accurate to half the round trip. */
  readonly clockOffsetMs?: number;
  readonly version?: string;
  readonly isReady?: boolean;
  readonly dependencies?: readonly ReportedDependency[];
  /** Ids of the public keys that it checks tokens with; of orchestrators. */
  readonly keyIds?: readonly string[];
}

/** What was found of one certificate. */
export interface CertificateFacts {
  readonly host: string;
  readonly validUntil: Date;
}

/** What orchestrators are called here. */
export const ORCHESTRATOR = "the orchestrator";
/** Tokens and deadlines bear 30 s of difference between clocks (design decision 22). */
const CLOCK_FAIL_MS = 30_000;
const CLOCK_WARN_MS = 5_000;
const DAY_MS = 86_400_000;
const CERTIFICATE_WARN_DAYS = 30;

/**
 * Judges who should be online and is not, or is and should not.
 *
 * @param services those that were asked; a front door that answers counts, even if it has not registered yet.
 */
export function judgeOnline(
  { agreements, agents, orchestrators }: StoreFacts,
  services: readonly ServiceFacts[],
): readonly Finding[] {
  const online = agents.map(({ name }) => name);
  const stewards = agreements.map(({ name }) => name);
  const trusted = agreements.flatMap(({ computeProviders }) => computeProviders);
  const fronts = services.filter(({ name, reached }) => name === ORCHESTRATOR && reached.ok);
  return [
    judgeOrchestrators(Math.max(orchestrators.length, fronts.length)),
    ...sorted(stewards).map((steward) => judgeSteward(steward, online.filter((name) => name === steward).length)),
    ...sorted(trusted, stewards).map((party) => judgeThirdParty(party, online.includes(party))),
    ...sorted(online, [...stewards, ...trusted]).map((party) => judgeStranger(party)),
  ];
}

/** Each name once, but for those excepted. */
function sorted(names: readonly string[], except: readonly string[] = []): readonly string[] {
  return [...new Set(names)].filter((name) => !except.includes(name)).sort();
}

function judgeSteward(steward: string, instances: number): Finding {
  if (instances > 0) {
    const times = instances > 1 ? ` (${String(instances)} times)` : "";
    return ok("agent.online", `The agent of ${steward} is online${times}.`);
  }
  return fault(
    "agent.online",
    "fail",
    `${steward} has an agreement, and its agent is not online: nobody can ask it.`,
    `Start the agent of ${steward}; if it runs, its /ready says what it lacks.`,
  );
}

function judgeThirdParty(party: string, isOnline: boolean): Finding {
  if (isOnline) return ok("agent.online", `The agent of ${party}, a third party, is online.`);
  return fault(
    "agent.online",
    "warn",
    `Agreements let ${party} compute, and its agent is not online: no plan can use it.`,
    `Start the agent of ${party}, or take it out of the agreements' computeProviders.`,
  );
}

function judgeStranger(party: string): Finding {
  return fault(
    "agent.agreement",
    "warn",
    `The agent of ${party} is online, and no agreement names it: every request to it is refused.`,
    `Put an agreement of ${party} (PUT /api/v1/policyEnforcer), or stop its agent.`,
  );
}

function judgeOrchestrators(count: number): Finding {
  if (count > 0)
    return ok(
      "orchestrator.online",
      `${String(count)} ${count === 1 ? "orchestrator is" : "orchestrators are"} online.`,
    );
  const found = "No orchestrator is online: nobody can ask for an approval.";
  return fault("orchestrator.online", "fail", found, "Start an orchestrator; if it runs, its log says what it lacks.");
}

/** Judges the services that were asked. */
export function judgeServices(services: readonly ServiceFacts[], ownVersion: string): readonly Finding[] {
  return [
    ...services.flatMap((service) => judgeService(service)),
    ...judgeKeys(services),
    ...judgeVersions(services, ownVersion),
  ];
}

function judgeService(service: ServiceFacts): readonly Finding[] {
  const { name, url, reached } = service;
  if (!reached.ok) {
    return [
      fault(
        "service.reachable",
        "fail",
        `${upper(name)} at ${url} does not answer: ${reached.message}`,
        "If it runs, see its address (DYNAMOS_HOST, DYNAMOS_PORT; of agents DYNAMOS_INSTANCE_URL) and the network between; if it hangs, restart it.",
      ),
    ];
  }
  const answers = ok("service.reachable", `${upper(name)} at ${url} answers (${String(reached.ms)} ms).`);
  return [answers, ...judgeReady(service), ...judgeClock(service)];
}

function judgeReady({ name, isReady, dependencies = [] }: ServiceFacts): readonly Finding[] {
  if (isReady === undefined) return [];
  const away = dependencies.filter((dependency) => !dependency.ok);
  if (away.length === 0 && isReady) return [ok("service.ready", `${upper(name)} is ready.`)];
  return away.map((dependency) => {
    const since = dependency.since === undefined ? "" : ` since ${dependency.since}`;
    const found = `${upper(name)} lacks the ${dependency.name}${since}: ${dependency.detail ?? "no reason given"}`;
    const level = dependency.required === false ? "warn" : "fail";
    return fault("service.ready", level, found, dependency.fix ?? `See the log of ${name}.`);
  });
}

function judgeClock({ name, clockOffsetMs }: ServiceFacts): readonly Finding[] {
  if (clockOffsetMs === undefined) return [];
  const off = Math.abs(clockOffsetMs);
  const seconds = `${(off / 1000).toFixed(0)} s`;
  if (off <= CLOCK_WARN_MS) return [ok("service.clock", `The clock of ${name} agrees with this machine's.`)];
  const found = `The clock of ${name} is ${seconds} ${clockOffsetMs > 0 ? "ahead of" : "behind"} this machine's.`;
  const fix = "Let both machines keep their time by NTP (timedatectl, chronyc tracking); up to 30 s are borne.";
  return [fault("service.clock", off > CLOCK_FAIL_MS ? "fail" : "warn", found, fix)];
}

/** Replicas of the orchestrator sign tokens with one key; otherwise what one approved, the agents refuse half of the time. */
function judgeKeys(services: readonly ServiceFacts[]): readonly Finding[] {
  const sets = services.flatMap(({ keyIds }) => (keyIds === undefined ? [] : [[...keyIds].sort().join(" ")]));
  if (sets.length === 0) return [];
  if (sets.includes("")) {
    const found = "An orchestrator publishes no key to check tokens with.";
    return [
      fault("orchestrator.keys", "fail", found, "See its state folder: signing-key.json, readable by its owner."),
    ];
  }
  if (new Set(sets).size === 1) return [ok("orchestrator.keys", "The orchestrators publish their keys, and the same.")];
  return [
    fault(
      "orchestrator.keys",
      "fail",
      "The orchestrators sign with different keys: agents refuse the tokens of some.",
      "Give all orchestrators the same signing-key.json in their state folders (DYNAMOS_STATE_FOLDER).",
    ),
  ];
}

function judgeVersions(services: readonly ServiceFacts[], ownVersion: string): readonly Finding[] {
  const versions = services.flatMap(({ name, version }) => (version === undefined ? [] : [{ name, version }]));
  if (versions.length === 0) return [];
  const others = versions.filter(({ version }) => version !== ownVersion);
  if (others.length === 0) return [ok("service.version", `All have version ${ownVersion}, as this command.`)];
  const list = others.map(({ name, version }) => `${name} ${version}`).join(", ");
  return [
    fault(
      "service.version",
      "warn",
      `This command has version ${ownVersion}, and others have: ${list}.`,
      "Bring all parts to one version; parts one minor version apart work together while you do.",
    ),
  ];
}

/** Judges certificates by their end. */
export function judgeCertificates(certificates: readonly CertificateFacts[], nowMs: number): readonly Finding[] {
  return certificates.map(({ host, validUntil }) => {
    const days = Math.floor((validUntil.getTime() - nowMs) / DAY_MS);
    const until = `The certificate of ${host} is valid until ${validUntil.toISOString().slice(0, 10)}`;
    if (days >= CERTIFICATE_WARN_DAYS) return ok("tls.certificate", `${until}.`);
    const isOver = validUntil.getTime() <= nowMs;
    const found = isOver ? `${until}, which is over.` : `${until}: ${String(days)} days from now.`;
    const fix = "Renew it, and see that what renews certificates runs.";
    return fault("tls.certificate", isOver ? "fail" : "warn", found, fix);
  });
}

function upper(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
