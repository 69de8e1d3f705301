/** One run of the harness: the exchange is started, the plan is done, all is healed and looked at, and the history is judged. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Exchange } from "../../cli/exchange/exchange.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { makeRequest, type ClientOptions } from "./client.ts";
import { injectFault, type FaultContext } from "./faults.ts";
import { History, type HistoryEvent } from "./history.ts";
import { leftOvers, leftOversOfStopped, QUEUE_EXPIRY_MS, readLogs, untilNothingIsLeft } from "./inspection.ts";
import { judge, type JudgeLimits, type Violation } from "./judge.ts";
import type { ChaosPlan, PlannedRequest } from "./plan.ts";
import { PlanClock } from "./plan-clock.ts";
import { processesOf } from "./processes.ts";
import { SLICES, STEWARDS } from "./questions.ts";
import { StepSignal } from "./step-signal.ts";
import { Supervisor } from "./supervisor.ts";
import { openWorld, type World } from "./world.ts";

/** How a run is done, beside its plan. */
export interface RunOptions {
  /** An empty folder for everything that the exchange writes. */
  readonly folder: string;
  readonly progress: (line: string) => void;
  readonly depth: RunDepth;
  readonly backends: "embedded" | "real";
  /** Of the machine: 1 is one with two quiet cores. All limits are so many times as long. */
  readonly slowness: number;
  /** Requests under way at a time. */
  readonly maxAtOnce: number;
}

/** What came of it. */
export interface RunResult {
  readonly history: History;
  readonly violations: readonly Violation[];
}

/** How a run is done for what it is to show. */
export interface RunDepth {
  /** Longest time of a request at the product, for a slowness of 1. */
  readonly requestDeadlineMs: number;
  /** Whether in the end all must be well again, and nothing left behind; else only the requests count. */
  readonly looksAtTheEnd: boolean;
}

/** As the plans are made for. */
export const WHOLE: RunDepth = { requestDeadlineMs: 60_000, looksAtTheEnd: true };
/** Soon over, also where a request is never answered. */
export const REQUESTS_ALONE: RunDepth = { requestDeadlineMs: 30_000, looksAtTheEnd: false };

/** The product's own limits, so short that what ends by itself ends within the run; and the harness's. All for a slowness of 1. */
const JOB_LEASE_MS = 15_000;
const SETTINGS_MS = {
  DYNAMOS_JOB_LEASE_MS: JOB_LEASE_MS,
  DYNAMOS_ONLINE_LEASE_MS: 3_000,
  DYNAMOS_KEPT_ANSWER_MS: 15_000,
  DYNAMOS_ANSWER_LINGER_MS: 5_000,
  DYNAMOS_STALL_TIMEOUT_MS: 20_000,
  DYNAMOS_COMPOSITION_TIMEOUT_MS: 5_000,
  DYNAMOS_PROVIDER_ACCEPT_MS: 10_000,
};
/** A deadline's answer may take so long on its way. */
const GRACE_MS = 20_000;
const TOLERANCE_MS = 5_000;
const RECOVERY_MS = 20_000;
const CLIENT_LIMIT_MS = 150_000;
/** Leases end between one and two times their length after their last use; a cancelled run may linger before. */
const LEFT_OVER_LIMIT_MS = 2 * JOB_LEASE_MS + 20_000;
const STOPPED_LIMIT_MS = 15_000;
const READY_LIMIT_MS = 60_000;
const MAX_MEBIBYTES = 300;
const MEMORY_LOOK_MS = 2_000;
const PROGRESS_MS = 15_000;

/** Does the plan; resolves when nothing of it runs any more. */
export async function runChaos(plan: ChaosPlan, options: RunOptions): Promise<RunResult> {
  const { folder, progress, slowness } = options;
  const world = await openWorld({
    folder,
    seed: plan.options.seed,
    replicas: plan.options.replicas,
    backends: options.backends,
    sidecar: plan.options.hasSidecars ? "separate" : "inProcess",
    settings: Object.fromEntries(
      Object.entries({ ...SETTINGS_MS, DYNAMOS_REQUEST_DEADLINE_MS: options.depth.requestDeadlineMs }).map(
        ([name, ms]) => [name, String(Math.round(ms * slowness))],
      ),
    ),
    hasSmallDisks: plan.options.kinds.includes("disk"),
    readyMs: READY_LIMIT_MS * slowness,
  });
  const history = new History();
  const supervisor = new Supervisor(world.exchange, history);
  progress(`the exchange is up, on ${options.backends} backends`);
  const watching = new AbortController();
  const memory = watchMemory(world.stateFolder, watching.signal);
  const saying = setInterval(() => progress(describeProgress(plan, history)), PROGRESS_MS);
  try {
    try {
      await doPlan(plan, options, world, supervisor, history);
    } finally {
      await supervisor.close();
      await world.exchange.stop();
      clearInterval(saying);
      watching.abort();
    }
    for (const [process, mebibytes] of await memory) history.add({ kind: "memory", process, mebibytes });
    if (options.depth.looksAtTheEnd) await inspectStopped(world, history, slowness);
    readLogs(world.stateFolder, history);
  } finally {
    await world.close();
  }
  return { history, violations: judge(history.events, limitsOf(slowness)) };
}

async function doPlan(
  plan: ChaosPlan,
  options: RunOptions,
  world: World,
  supervisor: Supervisor,
  history: History,
): Promise<void> {
  const { exchange, oracle } = world;
  const { slowness, depth } = options;
  const steps = new StepSignal();
  const client: ClientOptions = {
    history,
    oracle,
    doors: exchange.urls,
    onStep: (step) => steps.tell(step),
    limitMs: CLIENT_LIMIT_MS * slowness,
    attemptLimitMs: (depth.requestDeadlineMs + GRACE_MS) * slowness,
  };
  const nextStep: FaultContext["nextStep"] = (step, signal) => steps.next(step, signal);
  const faults = { history, supervisor, world, nextStep, busy: new Set() };
  const clock = new PlanClock(() => history.now());
  await Promise.all([
    doRequests(plan.requests, client, clock, options),
    ...plan.faults.map(async (fault) => {
      await clock.until(fault.atMs);
      await injectFault(fault, faults);
    }),
  ]);
  if (!depth.looksAtTheEnd) return;
  options.progress("all requests and faults have ended; now all is to be well again");
  await heal(exchange, supervisor, history, slowness);
  for (const probe of PROBES) await makeRequest(probe, client);
  options.progress("looking for what is left behind");
  await inspectRunning(world, history, slowness);
}

function limitsOf(slowness: number): JudgeLimits {
  return {
    toleranceMs: TOLERANCE_MS * slowness,
    recoveryMs: RECOVERY_MS * slowness,
    maxMebibytes: MAX_MEBIBYTES,
  };
}

function describeProgress({ requests, faults }: ChaosPlan, { events }: History): string {
  const count = (kind: HistoryEvent["kind"]): string => String(events.filter((event) => event.kind === kind).length);
  return (
    `${count("outcome")} of ${String(requests.length)} requests have an outcome, ` +
    `${count("faultEnded")} of ${String(faults.length)} faults have ended`
  );
}

async function doRequests(
  requests: readonly PlannedRequest[],
  client: ClientOptions,
  clock: PlanClock,
  { maxAtOnce }: RunOptions,
): Promise<void> {
  const underWay = new Set<Promise<void>>();
  for (const [index, request] of requests.entries()) {
    await clock.until(request.atMs);
    while (underWay.size >= maxAtOnce) await Promise.race(underWay);
    clock.begins(request.atMs, requests[index + 1]?.atMs ?? Infinity);
    const work: Promise<void> = makeRequest(request, client).finally(() => underWay.delete(work));
    underWay.add(work);
  }
  await Promise.all(underWay);
}

/** Waits until all services run and say that they are ready. */
async function heal(exchange: Exchange, supervisor: Supervisor, history: History, slowness: number): Promise<void> {
  await supervisor.settle();
  const notReady = async () => {
    const deployables = [...exchange.services.values()].filter(({ name }) => !name.endsWith("-sidecar"));
    const outcomes = deployables.map(async ({ name, url }) => {
      const answer = await fetch(`${url}/ready`, { signal: AbortSignal.timeout(5_000) }).catch(() => undefined);
      return answer?.ok === true ? [] : [{ what: "service that is not ready", name }];
    });
    return (await Promise.all(outcomes)).flat();
  };
  for (const left of await untilNothingIsLeft(notReady, READY_LIMIT_MS * slowness))
    history.add({ kind: "leftOver", ...left });
  history.add({ kind: "healed" });
}

/** When all is well again, these are answered by everybody. */
const PROBES: readonly PlannedRequest[] = [false, true].map((throughThirdParty) => ({
  name: throughThirdParty ? "probe-through-third-party" : "probe-at-home",
  atMs: 0,
  way: "oneGo",
  throughThirdParty,
  providers: STEWARDS,
  question: { slice: SLICES[1]!, algorithm: { names: ["count", "sum"], byGroup: true } },
  format: "json",
  ending: { kind: "answer", repeats: true },
  door: 0,
}));

function recentDeaths(history: History): number {
  const sinceMs = history.now() - QUEUE_EXPIRY_MS;
  return history.events.filter(({ kind, atMs }) => kind === "exited" && atMs > sinceMs).length;
}

async function inspectRunning({ exchange, backends }: World, history: History, slowness: number): Promise<void> {
  const store = await openKnowledgeStore(backends.storeUrl);
  try {
    const left = await untilNothingIsLeft(
      () => leftOvers(exchange, backends, store, recentDeaths(history)),
      LEFT_OVER_LIMIT_MS * slowness,
    );
    for (const each of left) history.add({ kind: "leftOver", ...each });
  } finally {
    await store.close();
  }
}

async function inspectStopped({ stateFolder, backends }: World, history: History, slowness: number): Promise<void> {
  const store = await openKnowledgeStore(backends.storeUrl);
  try {
    const left = await untilNothingIsLeft(
      () => leftOversOfStopped(stateFolder, backends, store, recentDeaths(history)),
      STOPPED_LIMIT_MS * slowness,
    );
    for (const each of left) history.add({ kind: "leftOver", ...each });
  } finally {
    await store.close();
  }
  for (const letter of await backends.deadLetters()) history.add({ kind: "deadLetter", ...letter });
}

/** The most memory that a process of each program had. */
async function watchMemory(stateFolder: string, signal: AbortSignal): Promise<ReadonlyMap<string, number>> {
  const most = new Map<string, number>();
  while (!signal.aborted) {
    for (const { program, mostMebibytes } of processesOf(stateFolder)) {
      most.set(program, Math.max(most.get(program) ?? 0, mostMebibytes));
    }
    await sleep(MEMORY_LOOK_MS, undefined, { signal }).catch(() => undefined);
  }
  return most;
}
