/**
 * Finds what must not have happened in a run's history. Pure: the same history gives the same violations.
 *
 * - J1 each request has exactly one outcome, within its time, and nobody waits in vain until the end of his;
 * - J2 an answer is right for the parties that it names, and names every other party of the request with a reason;
 * - J3 a failure has a code that a fault of the time explains, and none that blames the analyst or hides the cause;
 * - J4 what is to be refused is refused with its own code, or fails by a fault;
 * - J5 a repeat gives the same answer;
 * - J6 nothing is left behind: processes, queues, keys, leases, files, dead letters;
 * - J7 programs end only when a fault ends them, start again, log no unexpected error, and stay within their memory.
 */
import type { HistoryEvent, Outcome } from "./history.ts";
import { REFUSALS, type PlannedRequest } from "./plan.ts";
import { THIRD_PARTY } from "./questions.ts";

/** One thing that must not have happened. */
export interface Violation {
  readonly rule: "J1" | "J2" | "J3" | "J4" | "J5" | "J6" | "J7";
  readonly what: string;
  /** Whose timeline tells more. */
  readonly request?: string;
}

/** What a run allowed. */
export interface JudgeLimits {
  /** Beyond a client's own limit an outcome may come so late. */
  readonly toleranceMs: number;
  /** After a fault has ended, its effects may be seen so long. */
  readonly recoveryMs: number;
  /** Largest resident size of any process, in MiB. */
  readonly maxMebibytes: number;
}

/**
 * Codes that say: something on the way was not there, and it may be by now. A fault must explain them. Those that say that time
 * was over are not among them: every fault is far shorter than any limit.
 */
const TRANSIENT = new Set([
  "agent_offline",
  "agent_timeout",
  "compute_provider_unavailable",
  "conflict",
  "job_failed",
  "job_start_failed",
  "no_authorized_providers",
  "offline",
  "storage_full",
  "stream_interrupted",
  "unavailable",
]);

/** All violations, in the order of their rules. */
export function judge(events: readonly HistoryEvent[], limits: JudgeLimits): readonly Violation[] {
  const faults = faultWindows(events, limits.recoveryMs);
  const requests = requestsOf(events);
  return [
    ...[...requests.values()].flatMap((request) => judgeRequest(request, faults, limits)),
    ...events.flatMap((event) => judgeEvent(event, faults, limits)),
  ].sort((left, right) => (left.rule < right.rule ? -1 : left.rule > right.rule ? 1 : 0));
}

/** A time in which effects of a fault may be seen. */
interface Window {
  readonly fromMs: number;
  readonly toMs: number;
}

function faultWindows(events: readonly HistoryEvent[], recoveryMs: number): readonly Window[] {
  const windows: Window[] = [];
  const open = new Map<string, number>();
  const healedMs = events.find(({ kind }) => kind === "healed")?.atMs ?? Infinity;
  for (const event of events) {
    if (event.kind === "faultBegan") open.set(event.fault, event.atMs);
    if (event.kind !== "faultEnded") continue;
    const fromMs = open.get(event.fault);
    open.delete(event.fault);
    if (fromMs !== undefined && event.found) {
      windows.push({ fromMs, toMs: Math.min(event.atMs + recoveryMs, healedMs) });
    }
  }
  for (const fromMs of open.values()) windows.push({ fromMs, toMs: healedMs });
  return windows;
}

function isExplained(windows: readonly Window[], fromMs: number, toMs: number): boolean {
  return windows.some((window) => window.fromMs <= toMs && fromMs <= window.toMs);
}

/** What the history has of one request. */
interface RequestStory {
  readonly request: PlannedRequest;
  readonly beganMs: number;
  readonly limitMs: number;
  readonly outcomes: { readonly atMs: number; readonly outcome: Outcome }[];
}

function requestsOf(events: readonly HistoryEvent[]): ReadonlyMap<string, RequestStory> {
  const stories = new Map<string, RequestStory>();
  for (const event of events) {
    if (event.kind === "request") {
      const { request, limitMs, atMs } = event;
      stories.set(request.name, { request, beganMs: atMs, limitMs, outcomes: [] });
    }
    if (event.kind === "outcome") stories.get(event.request)?.outcomes.push(event);
  }
  return stories;
}

function judgeRequest(story: RequestStory, faults: readonly Window[], limits: JudgeLimits): Violation[] {
  const { request, outcomes, beganMs, limitMs } = story;
  const found: Violation[] = [];
  const violate = (rule: Violation["rule"], what: string): void => {
    found.push({ rule, what: `${request.name}: ${what}`, request: request.name });
  };
  if (outcomes.length !== 1) violate("J1", `${String(outcomes.length)} outcomes instead of one`);
  for (const { atMs, outcome } of outcomes) {
    const tookMs = atMs - beganMs;
    if (tookMs > limitMs + limits.toleranceMs) violate("J1", `an outcome only after ${String(tookMs)} ms`);
    const explained = isExplained(faults, beganMs, atMs);
    judgeOutcome(request, outcome, explained, violate);
  }
  return found;
}

type Violate = (rule: Violation["rule"], what: string) => void;

function judgeOutcome(request: PlannedRequest, outcome: Outcome, isExplained: boolean, violate: Violate): void {
  switch (outcome.kind) {
    case "answered":
      if (request.ending.kind === "refusal") violate("J4", "was answered, and should have been refused");
      if (outcome.fault !== undefined) violate("J2", `the answer is wrong: ${outcome.fault}`);
      judgeParties(request, outcome, isExplained, violate);
      return;
    case "failed":
      return judgeFailure(request, outcome, isExplained, violate);
    case "gaveUp":
      return violate("J1", `no outcome within the client's own time; the last word was ${outcome.last ?? "none"}`);
    case "cancelled":
      if (request.ending.kind !== "cancel") violate("J3", "was cancelled, and nobody had asked for that");
  }
}

/** Everyone who was asked is in the answer, or named with why not. */
function judgeParties(
  request: PlannedRequest,
  { providers, without }: Extract<Outcome, { kind: "answered" }>,
  isExplained: boolean,
  violate: Violate,
): void {
  const named = new Set([...providers, ...without.map(({ provider }) => provider)]);
  // A third party that has no answer speaks for all of its providers.
  const isThirdPartySilent = without.some(({ provider }) => provider === THIRD_PARTY);
  const missing = isThirdPartySilent ? [] : request.providers.filter((provider) => !named.has(provider));
  if (missing.length > 0) violate("J2", `the answer does not name ${missing.join(", ")}`);
  for (const { provider, code } of without) {
    if (!TRANSIENT.has(code)) violate("J3", `${provider} failed with ${code}`);
    else if (!isExplained) violate("J3", `${provider} failed with ${code}, and no fault explains it`);
  }
}

function judgeFailure(
  request: PlannedRequest,
  { code, detail, party }: Extract<Outcome, { kind: "failed" }>,
  isExplained: boolean,
  violate: Violate,
): void {
  const { ending } = request;
  const said = `${code}${party === undefined ? "" : ` of ${party}`} (${detail})`;
  if (ending.kind === "refusal" && code === REFUSALS[ending.fault]) return;
  if (ending.kind === "cancel" && code === "cancelled") return;
  if (!TRANSIENT.has(code)) violate(ending.kind === "refusal" ? "J4" : "J3", `failed with ${said}`);
  else if (!isExplained) violate("J3", `failed with ${said}, and no fault explains it`);
}

const MOST_OF_A_LINE = 600;

function judgeEvent(event: HistoryEvent, faults: readonly Window[], limits: JudgeLimits): Violation[] {
  const ofRequest = "request" in event && typeof event.request === "string" ? { request: event.request } : {};
  const violation = (rule: Violation["rule"], what: string): Violation[] => [{ rule, what, ...ofRequest }];
  const explained = isExplained(faults, event.atMs, event.atMs);
  switch (event.kind) {
    case "hung":
      return violation("J1", `${event.request}: no end after ${String(event.forMs)} ms at ${event.url}`);
    case "repeated":
      return event.fault === undefined ? [] : violation("J5", `${event.request}: the repeat: ${event.fault}`);
    case "leftOver":
      return violation("J6", `left behind: ${event.what} ${event.name}`);
    case "deadLetter":
      // What nobody took in time, because whoever would was away.
      if (event.reason === "expired" && faults.length > 0) return [];
      return violation("J6", `a dead letter of ${event.queue}: ${event.type}, ${event.reason}`);
    case "exited":
      return event.isExpected || explained ? [] : violation("J7", `${event.service} ended (${event.how})`);
    case "restartFailed":
      return violation("J7", `${event.service} could not be started again: ${event.error}`);
    case "logged":
      if (event.code !== "internal" && event.code !== undefined && explained) return [];
      return violation("J7", `${event.service} logged: ${event.line.slice(0, MOST_OF_A_LINE)}`);
    case "stalled":
      return violation("J1", `${event.service} waited in vain: ${event.line.slice(0, MOST_OF_A_LINE)}`);
    case "memory":
      if (event.mebibytes <= limits.maxMebibytes) return [];
      return violation("J7", `${event.process} had ${String(event.mebibytes)} MiB`);
    case "attempt":
    case "attemptFailed":
    case "faultBegan":
    case "faultEnded":
    case "healed":
    case "outcome":
    case "request":
    case "restarted":
      return [];
  }
}
