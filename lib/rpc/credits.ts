/**
 * Flow control of a stream over the bus (decision 7). A sender may have so many chunks unsettled at the receiver as it has
 * credits; the receiver returns them as it settles. One credit is one frame with data: `takesCredit` of `frames.ts`.
 */
import type { Clock } from "../clock.ts";
import { AppError, toAppError } from "../errors.ts";
import { OVER } from "../over.ts";

/** The sender's side. */
export class CreditGate {
  readonly #window: number;
  readonly #stallTimeoutMs: number;
  readonly #clock: Clock;
  #available: number;
  #onReturned: (() => void) | undefined;

  /**
   * @param window chunks that may be unsettled at a time; at least 1.
   * @param stallTimeoutMs how long to wait for the next credit: a receiver slower than that counts as stalled.
   */
  constructor(window: number, stallTimeoutMs: number, clock: Clock) {
    this.#window = Math.max(1, window);
    this.#available = this.#window;
    this.#stallTimeoutMs = stallTimeoutMs;
    this.#clock = clock;
  }

  /** The receiver has settled so many. More than were sent do not widen the window. */
  giveBack(chunks: number): void {
    this.#available = Math.min(this.#window, this.#available + chunks);
    this.#onReturned?.();
  }

  /** Takes one credit, waiting for it. For one caller at a time. Fails with `time_limit_exceeded`, or the signal's reason. */
  async take(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#available === 0) await this.#returned(signal);
    this.#available--;
  }

  async #returned(signal: AbortSignal): Promise<void> {
    const stopSleeping = new AbortController();
    const onAbort = (): void => stopSleeping.abort(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    const returned = new Promise<"returned">((resolve) => (this.#onReturned = () => resolve("returned")));
    const stalled = this.#clock.sleep(this.#stallTimeoutMs, stopSleeping.signal);
    // Once a credit is there, the abandoned sleep rejects.
    stalled.catch(() => undefined);
    try {
      if ((await Promise.race([returned, stalled])) !== "returned") throw this.#stalled();
    } finally {
      this.#onReturned = undefined;
      signal.removeEventListener("abort", onAbort);
      stopSleeping.abort(OVER);
    }
  }

  #stalled(): AppError {
    return new AppError(
      "time_limit_exceeded",
      `The receiver took nothing for ${this.#stallTimeoutMs} ms (DYNAMOS_STALL_TIMEOUT_MS): it has stalled.`,
      { details: { limit: this.#stallTimeoutMs } },
    );
  }
}

/** How a receiver returns credits. */
export interface CreditReturnOptions {
  /** Credits that are collected before a message goes out; a smaller rest goes out after {@link flushMs}. */
  readonly batch: number;
  /** Default 20. */
  readonly flushMs?: number;
  /** Sends one credit message. Where the sender's queue has gone (`not_found`), the sender has ended: nothing is owed then. */
  readonly send: (chunks: number) => Promise<void>;
  /** Called once when sending fails otherwise: the sender would wait for ever. */
  readonly onError: (error: AppError) => void;
}

/** The receiver's side: gathers settled chunks into few messages. */
export class CreditReturn {
  readonly #options: CreditReturnOptions;
  #settled = 0;
  #timer: NodeJS.Timeout | undefined;
  #sending: Promise<void> = Promise.resolve();
  #isOver = false;

  constructor(options: CreditReturnOptions) {
    this.#options = options;
  }

  /** One chunk has been settled. */
  settle(): void {
    this.#settled++;
    if (this.#settled >= this.#options.batch) this.#flush();
    else this.#timer ??= setTimeout(() => this.#flush(), this.#options.flushMs ?? 20);
  }

  /** Nothing more is returned; resolves when no message is under way. */
  async close(): Promise<void> {
    this.#isOver = true;
    clearTimeout(this.#timer);
    await this.#sending;
  }

  #flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const chunks = this.#settled;
    if (this.#isOver || chunks === 0) return;
    this.#settled = 0;
    this.#sending = this.#sending.then(() => this.#send(chunks));
  }

  async #send(chunks: number): Promise<void> {
    if (this.#isOver) return;
    try {
      await this.#options.send(chunks);
    } catch (error) {
      this.#isOver = true;
      const failure = toAppError(error);
      if (failure.code !== "not_found") this.#options.onError(failure);
    }
  }
}
