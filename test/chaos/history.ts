/** What happened in a run of the harness: the judge's only source. Times are milliseconds since the run began. */
import type { PlannedRequest } from "./plan.ts";

/** The final outcome of a request, as its client saw it. */
export type Outcome =
  | {
      readonly kind: "answered";
      /** Who is in the answer. */
      readonly providers: readonly string[];
      /** Who is named as without a result, with the code of why (`offline` for those that the plan left out). */
      readonly without: readonly { readonly provider: string; readonly code: string }[];
      /** What is wrong with it, by the oracle. */
      readonly fault: string | undefined;
    }
  | {
      readonly kind: "failed";
      readonly code: string;
      readonly detail: string;
      readonly party: string | undefined;
      readonly retryable: boolean;
    }
  | { readonly kind: "cancelled" }
  /** The client's own time was over, after the last of these; none: the only attempt never ended. */
  | { readonly kind: "gaveUp"; readonly last: string | undefined };

/** One thing that happened. */
export type HistoryEvent = { readonly atMs: number } & (
  | { readonly kind: "request"; readonly request: PlannedRequest; readonly limitMs: number }
  | { readonly kind: "attempt"; readonly request: string; readonly url: string; readonly key: string }
  /** What came of an attempt that was not the last. */
  | { readonly kind: "attemptFailed"; readonly request: string; readonly what: string }
  /** An attempt that got no end within the longest time that the product allows. */
  | { readonly kind: "hung"; readonly request: string; readonly url: string; readonly forMs: number }
  | { readonly kind: "outcome"; readonly request: string; readonly outcome: Outcome }
  /** The same request again under its id, after it was answered: the answer's fault, or that it differs. */
  | { readonly kind: "repeated"; readonly request: string; readonly fault: string | undefined }
  | { readonly kind: "faultBegan"; readonly fault: string; readonly what: string }
  /** All is as it was before; `found`: whether there was something to act on. */
  | { readonly kind: "faultEnded"; readonly fault: string; readonly found: boolean }
  /** All faults have ended, and everything says that it is ready: from here on nothing is excused. */
  | { readonly kind: "healed" }
  | { readonly kind: "exited"; readonly service: string; readonly how: string; readonly isExpected: boolean }
  | { readonly kind: "restarted"; readonly service: string; readonly afterMs: number }
  | { readonly kind: "restartFailed"; readonly service: string; readonly error: string }
  /** A line that a program logged as error or fatal. */
  | { readonly kind: "logged"; readonly service: string; readonly code: string | undefined; readonly line: string }
  /** A line that says that somebody waited in vain until the end of his time. */
  | { readonly kind: "stalled"; readonly service: string; readonly code: string; readonly line: string }
  /** After everything: what should be gone, and is not. */
  | { readonly kind: "leftOver"; readonly what: string; readonly name: string }
  | { readonly kind: "deadLetter"; readonly queue: string; readonly reason: string; readonly type: string }
  /** The most memory that a process had. */
  | { readonly kind: "memory"; readonly process: string; readonly mebibytes: number }
);

/** Collects events, and tells who waits for one. */
export class History {
  readonly #startMs: number;
  readonly #events: HistoryEvent[] = [];
  readonly #listeners = new Set<(event: HistoryEvent) => void>();

  constructor(startMs: number = Date.now()) {
    this.#startMs = startMs;
  }

  get events(): readonly HistoryEvent[] {
    return this.#events;
  }

  /** Milliseconds since the run began. */
  now(): number {
    return Date.now() - this.#startMs;
  }

  /** The run's own time for a wall clock's. */
  at(wallMs: number): number {
    return wallMs - this.#startMs;
  }

  add(event: EventBody, atMs = this.now()): void {
    const whole = { ...event, atMs } as HistoryEvent;
    this.#events.push(whole);
    for (const listener of [...this.#listeners]) listener(whole);
  }

  /** Calls with each event from now on; what it returns ends that. */
  listen(listener: (event: HistoryEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

type WithoutTime<Event> = Event extends unknown ? Omit<Event, "atMs"> : never;
/** An event that has yet to be given its time. */
export type EventBody = WithoutTime<HistoryEvent>;
