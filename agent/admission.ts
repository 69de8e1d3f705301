/**
 * Admission (decision 21): an agent runs a bounded number of chains at once and queues the rest, taking turns between users,
 * up to a limit beyond which a request is refused with `rate_limited` and a time to come back. No user has all the slots or
 * the whole queue, so that heavy requests of one do not hold up light ones of another.
 *
 * Runs that compute over other parties' streams have slots apart from those that read data: a computing run waits for
 * reading runs elsewhere, so sharing slots could make two agents wait for each other.
 */
import { AppError } from "../lib/errors.ts";

/** Limits of one {@link Admission}. */
export interface AdmissionLimits {
  readonly maxRunning: number;
  readonly maxQueued: number;
  /** Of one user. Default: one less than `maxRunning`, at least one. */
  readonly maxRunningPerUser?: number;
  /** Of one user. Default: half of `maxQueued`, at least one. */
  readonly maxQueuedPerUser?: number;
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
  readonly #limits: Required<AdmissionLimits>;
  readonly #onRefused: () => void;
  /** Users in turn order: the first is served next and then goes to the end. */
  readonly #queues = new Map<string, Waiting[]>();
  readonly #runningOf = new Map<string, number>();
  #running = 0;
  #queued = 0;

  /** @param onRefused hears of each refusal. */
  constructor(limits: AdmissionLimits, onRefused: () => void = () => undefined) {
    this.#limits = {
      maxRunningPerUser: Math.max(1, limits.maxRunning - 1),
      maxQueuedPerUser: Math.max(1, Math.floor(limits.maxQueued / 2)),
      ...limits,
    };
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
    // Whoever waits now could not be admitted, so nobody is overtaken.
    if (this.#hasSlotFor(user)) return this.#occupy(user);
    this.#requireRoom(user);
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

  #hasSlotFor(user: string): boolean {
    const { maxRunning, maxRunningPerUser } = this.#limits;
    return this.#running < maxRunning && (this.#runningOf.get(user) ?? 0) < maxRunningPerUser;
  }

  #requireRoom(user: string): void {
    const { maxQueued, maxQueuedPerUser } = this.#limits;
    const own = this.#queues.get(user)?.length ?? 0;
    if (this.#queued < maxQueued && own < maxQueuedPerUser) return;
    this.#onRefused();
    const setting = this.#queued < maxQueued ? "DYNAMOS_MAX_QUEUED_RUNS_PER_USER" : "DYNAMOS_MAX_QUEUED_RUNS";
    throw new AppError(
      "rate_limited",
      `${String(this.#running)} chains run and ${String(this.#queued)} requests wait, ${String(own)} of them this user's, ` +
        `which is the limit (${setting}). Try again later.`,
      { details: { retryAfterSeconds: 5, limit: this.#queued < maxQueued ? maxQueuedPerUser : maxQueued, setting } },
    );
  }

  #occupy(user: string): AdmissionSlot {
    this.#running += 1;
    this.#runningOf.set(user, (this.#runningOf.get(user) ?? 0) + 1);
    let released = false;
    return {
      release: () => {
        if (released) return;
        released = true;
        this.#running -= 1;
        const left = (this.#runningOf.get(user) ?? 1) - 1;
        if (left === 0) this.#runningOf.delete(user);
        else this.#runningOf.set(user, left);
        this.#admitNext();
      },
    };
  }

  /** Whose turn it is, of those who may have another slot. */
  #admitNext(): void {
    for (const [user, queue] of this.#queues) {
      if (!this.#hasSlotFor(user)) continue;
      const waiting = queue.shift();
      this.#queues.delete(user);
      if (queue.length > 0) this.#queues.set(user, queue);
      if (waiting === undefined) return;
      this.#queued -= 1;
      waiting.admit(this.#occupy(user));
      return;
    }
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
