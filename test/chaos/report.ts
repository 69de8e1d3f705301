/** A run in words: what became of the requests, which faults there were, and each violation with all that belongs to it. */
import type { HistoryEvent } from "./history.ts";
import type { Violation } from "./judge.ts";

/** Requests by outcome, faults by kind, services that were started again, memory. */
export function describeHistory(events: readonly HistoryEvent[]): string {
  const outcomes = new Map<string, number>();
  const faults = new Map<string, number>();
  let attempts = 0;
  let repeats = 0;
  let restarts = 0;
  let foundNothing = 0;
  const memory: string[] = [];
  for (const event of events) {
    if (event.kind === "outcome") increase(outcomes, outcomeName(event));
    if (event.kind === "attempt") attempts += 1;
    if (event.kind === "repeated") repeats += 1;
    if (event.kind === "restarted") restarts += 1;
    if (event.kind === "faultBegan") increase(faults, /: (\w+)/.exec(event.what)?.[1] ?? event.what);
    if (event.kind === "faultEnded" && !event.found) foundNothing += 1;
    if (event.kind === "memory") memory.push(`${event.process} ${String(event.mebibytes)}`);
  }
  return [
    "requests by outcome:",
    ...table(outcomes),
    `attempts: ${String(attempts)}; answered requests that were repeated: ${String(repeats)}`,
    "faults that were done:",
    ...table(faults),
    `faults that found nothing to act on: ${String(foundNothing)}; services that were started again: ${String(restarts)}`,
    `most memory in MiB: ${memory.sort().join(", ")}`,
  ].join("\n");
}

/** One violation, with the timeline of its request. */
export function describeViolation(violation: Violation, events: readonly HistoryEvent[]): string {
  const { request } = violation;
  const lines = [`${violation.rule} ${violation.what}`];
  if (request === undefined) return lines.join("\n");
  for (const event of events) {
    const isOwn = "request" in event && (event.request === request || nameOf(event.request) === request);
    const isFault = event.kind === "faultBegan" || event.kind === "faultEnded" || event.kind === "exited";
    if (isOwn || (isFault && overlaps(event.atMs, request, events))) lines.push(`    ${describeEvent(event)}`);
  }
  return lines.join("\n");
}

/** One event in one line. */
export function describeEvent(event: HistoryEvent): string {
  const { atMs, kind, ...rest } = event;
  return `${(atMs / 1000).toFixed(3).padStart(9)} s ${kind} ${JSON.stringify(rest)}`;
}

function nameOf(request: unknown): unknown {
  return typeof request === "object" && request !== null && "name" in request ? request.name : undefined;
}

function overlaps(atMs: number, request: string, events: readonly HistoryEvent[]): boolean {
  const own = events.filter(
    (event) => "request" in event && (event.request === request || nameOf(event.request) === request),
  );
  const last = own.at(-1)?.atMs ?? 0;
  return atMs >= (own[0]?.atMs ?? 0) - 5_000 && atMs <= last + 1_000;
}

function outcomeName({ outcome }: Extract<HistoryEvent, { kind: "outcome" }>): string {
  switch (outcome.kind) {
    case "answered":
      return outcome.without.length === 0 ? "answered" : "answered, without some party";
    case "failed":
      return `failed: ${outcome.code}`;
    case "gaveUp":
    case "cancelled":
      return outcome.kind;
  }
}

function increase(counts: Map<string, number>, name: string): void {
  counts.set(name, (counts.get(name) ?? 0) + 1);
}

function table(counts: ReadonlyMap<string, number>): string[] {
  return [...counts].sort().map(([name, count]) => `  ${String(count).padStart(5)}  ${name}`);
}
