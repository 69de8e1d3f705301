/**
 * What a run of the harness does, decided before it begins: the same seed and options give the same plan. Requests and faults
 * draw from streams of their own, so that leaving faults out (`--only`) changes no request.
 */
import { SeededRandom } from "../support/random.ts";
import { SLICES, STEWARDS, THIRD_PARTY, rowsOf, type Algorithm, type Question, type Steward } from "./questions.ts";

/** Kinds of fault, as `--only` names them: of processes, of store, broker and links, of messages, of disks and of clocks. */
export const FAULT_KINDS = ["kill", "stop", "store", "broker", "cut", "duplicate", "disk", "clock"] as const;
export type FaultKind = (typeof FAULT_KINDS)[number];

/** What a plan depends on. */
export interface PlanOptions {
  readonly seed: number;
  /** How long requests and faults go on, in milliseconds. */
  readonly lengthMs: number;
  readonly kinds: readonly FaultKind[];
  /** Processes of each part: orchestrators, enforcers, agents per party. */
  readonly replicas: number;
  /** Whether each of them has a messaging sidecar of its own, which may be killed and stopped, too. */
  readonly hasSidecars: boolean;
}

/** How a request reaches its answer. */
export type Way =
  /** Approval and question in one go, at the front door. */
  | "oneGo"
  /** The same, answered later (`Prefer: respond-async`). */
  | "later"
  /** An approval first, then the question at the front door, by token. */
  | "frontDoor"
  /** An approval first, then the question at the party that answers, by token. */
  | "agent";

/** How it is meant to end. */
export type Ending =
  | { readonly kind: "answer"; readonly repeats: boolean }
  /** `hangUp`: the connection is closed; `delete`: DELETE of the request. After the first byte, or after so long. */
  | { readonly kind: "cancel"; readonly by: "hangUp" | "delete"; readonly after: number | "firstByte" }
  /** What is wrong with it, and so the code that it must be refused with. */
  | { readonly kind: "refusal"; readonly fault: RefusalFault };

/** What can be wrong with a request, and the code that says so. */
export const REFUSALS = {
  unknownUser: "no_authorized_providers",
  rawRowsNotAllowed: "operation_denied",
  noSuchColumn: "query_invalid",
  noSuchAlgorithm: "algorithm_unknown",
} as const;
export type RefusalFault = keyof typeof REFUSALS;

/** Formats of an agent's own answer. */
export type Format = "json" | "csv" | "arrow";

/** One request of the plan. */
export interface PlannedRequest {
  readonly name: string;
  readonly atMs: number;
  readonly way: Way;
  readonly throughThirdParty: boolean;
  readonly providers: readonly Steward[];
  readonly question: Question;
  readonly format: Format;
  readonly ending: Ending;
  /** Which orchestrator it begins with. */
  readonly door: number;
}

/** A process, chosen among those that there are when the fault begins. */
export type Target =
  | { readonly kind: "service"; readonly part: string; readonly replica: number; readonly isSidecar: boolean }
  /** An element of a chain, the next that runs at this party. */
  | { readonly kind: "chain"; readonly party: string; readonly element: ChainElement };

/** Processes of a chain: its sidecar, its microservices, a query's own process, the guard of the job. */
export const CHAIN_ELEMENTS = [
  "sidecar",
  "sql-query",
  "query-child",
  "sql-aggregate",
  "sql-algorithm",
  "guard",
] as const;
export type ChainElement = (typeof CHAIN_ELEMENTS)[number];

/** How a link between two processes fails: packets vanish, connections are reset, everything is late, one way is dead. */
export const CUTS = ["silent", "reset", "late", "oneWay"] as const;
export type Cut = (typeof CUTS)[number];

/** What a fault does. */
export type FaultAction =
  | { readonly kind: "kill"; readonly target: Target; readonly downMs: number }
  | { readonly kind: "stop"; readonly target: Target; readonly forMs: number }
  | { readonly kind: "store" | "broker"; readonly how: "kill" | "restart" | "pause"; readonly forMs: number }
  | {
      readonly kind: "cut";
      readonly from: { readonly part: string; readonly replica: number };
      /** An agent has also its chains' link to the bus, and one by which everybody reaches its HTTP API. */
      readonly to: "store" | "bus" | "chainBus" | "http";
      readonly how: Cut;
      readonly forMs: number;
    }
  | { readonly kind: "duplicate"; readonly share: number; readonly laterMs: number; readonly forMs: number }
  | { readonly kind: "disk"; readonly part: string; readonly forMs: number }
  | {
      readonly kind: "clock";
      readonly part: string;
      readonly replica: number;
      readonly byMs: number;
      readonly forMs: number;
    };

/**
 * When a fault begins: at its time, or at the next such step of any request after it. `approved`: between composition and question;
 * `query`: while a query runs, at the target's own party where it is an agent; `firstByte`: after the first batch.
 */
export type Step = "time" | "approved" | "query" | "firstByte";

/** One fault of the plan. */
export interface PlannedFault {
  readonly name: string;
  readonly atMs: number;
  readonly when: Step;
  readonly action: FaultAction;
}

/** Requests and faults, each in the order of their times. */
export interface ChaosPlan {
  readonly options: PlanOptions;
  readonly requests: readonly PlannedRequest[];
  readonly faults: readonly PlannedFault[];
}

/** What the streams of random numbers begin with, beside the seed. */
const REQUESTS_STREAM = 0x5eed1;
const FAULTS_STREAM = 0x5eed2;
/** Nothing fails before the exchange has answered something. */
const FIRST_FAULT_MS = 6_000;

/** Makes the plan. */
export function makePlan(options: PlanOptions): ChaosPlan {
  return { options, requests: planRequests(options), faults: planFaults(options) };
}

/** Restarts of a killed process take so long at least. */
const MIN_DOWN_MS = 200;

function planRequests({ seed, lengthMs }: PlanOptions): PlannedRequest[] {
  const random = new SeededRandom(seed ^ REQUESTS_STREAM);
  const requests: PlannedRequest[] = [];
  for (let atMs = 0; atMs < lengthMs; atMs += random.int(300, 6_000)) {
    requests.push(planRequest(random, `r${String(requests.length + 1).padStart(4, "0")}`, atMs));
  }
  return requests;
}

function planRequest(random: SeededRandom, name: string, atMs: number): PlannedRequest {
  const throughThirdParty = random.chance(0.45);
  const way = random.pick(["oneGo", "oneGo", "later", "frontDoor", "agent", "agent", "agent"] as const);
  const ending = planEnding(random, way);
  const providers = random.some(STEWARDS, random.pick([1, 1, 2, 2, 3, 4]));
  const algorithm = planAlgorithm(random);
  const largest = way === "agent" || algorithm !== undefined ? SLICES.length - 1 : SLICES.length - 2;
  // Large ones are rare, and never asked of all: two cores are to do this within minutes.
  const place = random.chance(0.12) ? largest : random.int(0, 4);
  const slice = SLICES[place] ?? SLICES[0]!;
  const most = rowsOf(slice) > 100_000 ? 2 : providers.length;
  return {
    name,
    atMs,
    way,
    throughThirdParty,
    // By token an agent that computes at home answers for itself alone.
    providers: way === "agent" && !throughThirdParty ? providers.slice(0, 1) : providers.slice(0, most),
    question: { slice, ...(algorithm === undefined || isRawRows(ending) ? {} : { algorithm }) },
    format: way === "agent" && algorithm === undefined ? random.pick(["json", "csv", "arrow"] as const) : "json",
    ending,
    door: random.int(0, 7),
  };
}

function isRawRows(ending: Ending): boolean {
  return ending.kind === "refusal" && ending.fault === "rawRowsNotAllowed";
}

function planEnding(random: SeededRandom, way: Way): Ending {
  const draw = random.next();
  const by = way === "later" || (way === "agent" && random.chance(0.4)) ? "delete" : "hangUp";
  const after = random.chance(0.5) && by === "hangUp" ? "firstByte" : random.int(50, 2_500);
  const fault = random.pick(Object.keys(REFUSALS) as RefusalFault[]);
  if (draw < 0.15) return { kind: "cancel", by, after };
  if (draw < 0.27) return { kind: "refusal", fault };
  return { kind: "answer", repeats: draw > 0.8 };
}

function planAlgorithm(random: SeededRandom): Algorithm | undefined {
  const byGroup = random.chance(0.5);
  const names = random.some(["count", "sum", "average", "min", "max"], random.int(1, 3));
  return random.chance(0.5) ? { names, byGroup } : undefined;
}

function planFaults(options: PlanOptions): PlannedFault[] {
  const { seed, lengthMs, kinds } = options;
  const random = new SeededRandom(seed ^ FAULTS_STREAM);
  const faults: PlannedFault[] = [];
  if (kinds.length === 0) return faults;
  for (let atMs = FIRST_FAULT_MS; atMs < lengthMs; atMs += random.int(2_000, 11_000)) {
    const action = planAction(random, random.pick(kinds), options);
    const when = random.pick(["time", "time", "approved", "query", "firstByte"] as const);
    faults.push({ name: `f${String(faults.length + 1).padStart(4, "0")}`, atMs, when, action });
  }
  return faults;
}

const PARTIES = [...STEWARDS, THIRD_PARTY];

function planAction(random: SeededRandom, kind: FaultKind, options: PlanOptions): FaultAction {
  const forMs = random.int(500, 6_000);
  const service = { part: planPart(random), replica: random.int(1, options.replicas) };
  switch (kind) {
    case "kill":
      return { kind, target: planTarget(random, options), downMs: random.int(MIN_DOWN_MS, 4_000) };
    case "stop":
      return { kind, target: planTarget(random, options), forMs };
    case "store":
    case "broker":
      return { kind, how: random.pick(["kill", "restart", "pause"] as const), forMs };
    case "cut": {
      const links = ["store", "bus", "chainBus", "http"] as const;
      const to = random.pick(service.part.startsWith("agent-") ? links : links.slice(0, 2));
      return { kind, from: service, to, how: random.pick(CUTS), forMs };
    }
    case "duplicate":
      return { kind, share: random.pick([0.05, 0.2, 1]), laterMs: random.pick([0, 300, 3_000]), forMs: 2 * forMs };
    case "disk":
      return { kind, part: `agent-${random.pick(PARTIES)}`, forMs };
    case "clock":
      return { kind, ...service, byMs: random.pick([-20_000, 20_000]), forMs: 2 * forMs };
  }
}

function planPart(random: SeededRandom): string {
  return random.pick(["orchestrator", "policy-enforcer", ...PARTIES.map((party) => `agent-${party}`)]);
}

function planTarget(random: SeededRandom, { replicas, hasSidecars }: PlanOptions): Target {
  if (random.chance(0.5)) {
    const isSidecar = random.chance(0.3) && hasSidecars;
    return { kind: "service", part: planPart(random), replica: random.int(1, replicas), isSidecar };
  }
  const element = random.pick(CHAIN_ELEMENTS);
  return { kind: "chain", party: element === "sql-aggregate" ? THIRD_PARTY : random.pick(PARTIES), element };
}

/** Plans one after the other, as one; their requests and faults keep their seeds in their names. */
export function joinPlans(plans: readonly ChaosPlan[]): ChaosPlan {
  let beforeMs = 0;
  const requests: PlannedRequest[] = [];
  const faults: PlannedFault[] = [];
  for (const { options, requests: ownRequests, faults: ownFaults } of plans) {
    const later = <Planned extends { readonly name: string; readonly atMs: number }>(planned: Planned): Planned => ({
      ...planned,
      name: plans.length === 1 ? planned.name : `${planned.name}-of-${String(options.seed)}`,
      atMs: planned.atMs + beforeMs,
    });
    requests.push(...ownRequests.map(later));
    faults.push(...ownFaults.map(later));
    beforeMs += options.lengthMs;
  }
  const [first] = plans;
  if (first === undefined) throw new Error("There is no plan to be joined.");
  return { options: { ...first.options, lengthMs: beforeMs }, requests, faults };
}

/**
 * Providers that die while a third party waits for them: before their rows flow, and when these are on their way. What the
 * mutants of `mutants.ts` break shows here at once, so a minute is enough to see it.
 */
export function makeDyingProvidersPlan(seed: number): ChaosPlan {
  const random = new SeededRandom(seed);
  const requests: PlannedRequest[] = [];
  const faults: PlannedFault[] = [];
  for (const when of ["query", "firstByte"] as const) {
    const name = String(requests.length + 1).padStart(4, "0");
    const providers = random.some(STEWARDS, 2);
    const atMs = requests.length * DYING_PROVIDERS_GAP_MS;
    const algorithm = { names: ["sum"], byGroup: true };
    requests.push({
      name: `r${name}`,
      atMs,
      way: "agent",
      throughThirdParty: true,
      providers,
      question: { slice: SLICES.at(-1)!, ...(when === "query" ? { algorithm } : {}) },
      format: when === "query" ? "json" : "csv",
      ending: { kind: "answer", repeats: false },
      door: 0,
    });
    const part = `agent-${random.pick(providers)}`;
    const target = { kind: "service", part, replica: 1, isSidecar: false } as const;
    // Just after the request has begun.
    faults.push({
      name: `f${name}`,
      atMs: atMs + 1,
      when,
      action: { kind: "kill", target, downMs: random.int(200, 800) },
    });
  }
  const lengthMs = requests.length * DYING_PROVIDERS_GAP_MS;
  return { options: { seed, lengthMs, kinds: ["kill"], replicas: 1, hasSidecars: false }, requests, faults };
}

const DYING_PROVIDERS_GAP_MS = 1_000;

/** One line per fault, and what the requests are, for the log. */
export function describePlan({ options, requests, faults }: ChaosPlan): string {
  const count = (matches: (request: PlannedRequest) => boolean): string => String(requests.filter(matches).length);
  return [
    `seed ${String(options.seed)}: ${String(requests.length)} requests ` +
      `(${count(({ throughThirdParty }) => throughThirdParty)} through the third party, ` +
      `${count(({ ending }) => ending.kind === "cancel")} to be cancelled, ` +
      `${count(({ ending }) => ending.kind === "refusal")} to be refused, ` +
      `${count(({ question }) => rowsOf(question.slice) >= 100_000)} of 100,000 rows or more), ` +
      `${String(faults.length)} faults in ${String(Math.round(options.lengthMs / 1000))} s`,
    ...faults.map((fault) => `  ${describeFault(fault)}`),
  ].join("\n");
}

/** A fault in one line. */
export function describeFault({ name, atMs, when, action }: PlannedFault): string {
  const at = `${name} at ${(atMs / 1000).toFixed(1)} s${when === "time" ? "" : `, next ${when}`}`;
  const { kind, ...rest } = action;
  return `${at}: ${kind} ${JSON.stringify(rest)}`;
}
