/**
 * The time of the plan: that of the run, less what requests had to wait for their turn. So a slow machine does the same faults
 * among the same requests as a fast one, only later.
 */
import { setTimeout as sleep } from "node:timers/promises";

const LOOK_MS = 100;

/** See the file comment. */
export class PlanClock {
  readonly #now: () => number;
  #behindMs = 0;
  /** What comes next has this time, and the plan's does not pass it before it has begun. */
  #nextMs = 0;

  /** @param now milliseconds since the run began. */
  constructor(now: () => number) {
    this.#now = now;
  }

  /** Milliseconds of the plan that have passed. */
  now(): number {
    return Math.min(this.#now() - this.#behindMs, this.#nextMs);
  }

  /** The request of this time begins now; the next one is that of `nextMs`, Infinity where there is none. */
  begins(atMs: number, nextMs: number): void {
    this.#behindMs = Math.max(this.#behindMs, this.#now() - atMs);
    this.#nextMs = nextMs;
  }

  /** Resolves at a time of the plan. */
  async until(atMs: number): Promise<void> {
    for (let restMs = atMs - this.now(); restMs > 0; restMs = atMs - this.now()) await sleep(Math.min(restMs, LOOK_MS));
  }
}
