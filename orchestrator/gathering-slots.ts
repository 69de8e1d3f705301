/** How many answers are gathered at once: each holds the bodies of its parties in memory until it is made of them. */
import { AppError } from "../lib/errors.ts";

const RETRY_AFTER_SECONDS = 2;

/** See the file comment. One per process. */
export class GatheringSlots {
  readonly #maxTaken: number;
  #taken = 0;

  constructor(maxTaken: number) {
    this.#maxTaken = maxTaken;
  }

  /** How many are being gathered. */
  get taken(): number {
    return this.#taken;
  }

  /** Takes a slot; what it returns gives it back. Fails with `rate_limited` when all are taken. */
  take(): () => void {
    if (this.#taken >= this.#maxTaken) {
      throw new AppError(
        "rate_limited",
        `${String(this.#maxTaken)} answers are being gathered (DYNAMOS_MAX_GATHERED_REQUESTS). Try again later, or ask the agents directly.`,
        { details: { retryAfterSeconds: RETRY_AFTER_SECONDS, limit: this.#maxTaken } },
      );
    }
    this.#taken++;
    return () => void this.#taken--;
  }
}
