/**
 * Admission (decision 21): an agent runs a bounded number of chains at once and queues the rest, taking turns between users,
 * up to a limit beyond which a request is refused with `rate_limited` and a time to come back.
 *
 * Runs that compute over other parties' streams have slots apart from those that read data: a computing run waits for
 * reading runs elsewhere, so sharing slots could make two agents wait for each other.
 */
import { AppError } from "../lib/errors.ts";

/** Limits of one {@link Admission}. */
export interface AdmissionLimits {
  readonly maxRunning: number;
  readonly maxQueued: number;
}

/** A place among the running; give it back exactly once (more often is harmless). */
export interface AdmissionSlot {
  release(): void;
}

interface Waiting {
  readonly admit: (slot: AdmissionSlot) => void;
}

/** Slots with a fair queue: users take turns, each user's requests in their order. */
export class Admission {
  readonly #limits: AdmissionLimits;
  readonly #onRefused: () => void;
  /** Users in turn order: the first is served next and then goes to the end. */
  readonly #queues = new Map<string, Waiting[]>();
  #running = 0;
  #queued = 0;

  /** @param onRefused hears of each refusal. */
  constructor(limits: AdmissionLimits, onRefused: () => void = () => undefined) {
    this.#limits = limits;
    this.#onRefused = onRefused;
  }

  /** Requests that run and that wait now. */
  get load(): { readonly running: number; readonly queued: number } {
    return { running: this.#running, queued: this.#queued };
  }

  /**
   * Waits for a slot.
   *
   * @param user who takes turns with others.
   * @param signal gives the place in the queue up.
   * @throws AppError `rate_limited` when the queue is full.
   */
  async enter(user: string, signal: AbortSignal): Promise<AdmissionSlot> {
    signal.throwIfAborted();
    if (this.#running < this.#limits.maxRunning && this.#queued === 0) return this.#occupy();
    if (this.#queued >= this.#limits.maxQueued) {
      this.#onRefused();
      throw new AppError(
        "rate_limited",
        `${String(this.#running)} chains run and ${String(this.#queued)} requests wait, which is the limit ` +
          "(DYNAMOS_MAX_QUEUED_RUNS). Try again later.",
        { details: { retryAfterSeconds: 5, limit: this.#limits.maxQueued } },
      );
    }
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        this.#remove(user, waiting);
        reject(
          signal.reason instanceof Error ? signal.reason : new AppError("cancelled", "Gave up waiting for a slot."),
        );
      };
      const waiting: Waiting = {
        admit: (slot) => {
          signal.removeEventListener("abort", leave);
          resolve(slot);
        },
      };
      signal.addEventListener("abort", leave, { once: true });
      const queue = this.#queues.get(user);
      if (queue === undefined) this.#queues.set(user, [waiting]);
      else queue.push(waiting);
      this.#queued += 1;
    });
  }

  #occupy(): AdmissionSlot {
    this.#running += 1;
    let released = false;
    return {
      release: () => {
        if (released) return;
        released = true;
        this.#running -= 1;
        this.#admitNext();
      },
    };
  }

  #admitNext(): void {
    const next = this.#queues.entries().next();
    if (next.done === true) return;
    const [user, queue] = next.value;
    const waiting = queue.shift();
    this.#queues.delete(user);
    if (queue.length > 0) this.#queues.set(user, queue);
    if (waiting === undefined) return;
    this.#queued -= 1;
    waiting.admit(this.#occupy());
  }

  #remove(user: string, waiting: Waiting): void {
    const queue = this.#queues.get(user);
    const index = queue?.indexOf(waiting) ?? -1;
    if (queue === undefined || index < 0) return;
    queue.splice(index, 1);
    if (queue.length === 0) this.#queues.delete(user);
    this.#queued -= 1;
  }
}
