/**
 * The data requests that this process answers, so that a repeat under the same `Idempotency-Key` attaches to the run or is
 * answered again, and the chain runs once (decision 2). Requests are told apart by user and id. An answer is kept for a while
 * after its end, in files, up to a number and a size of all together, and given again only under the decision that it was made
 * under.
 */
import { join } from "node:path";
import { randomUUID } from "node:crypto";
import { AppError, toAppError } from "../lib/errors.ts";
import type { Frame } from "../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { KeptAnswer } from "./runs/kept-answer.ts";

/**
 * A run whose last frame has been read has only to say that it ended, which it does in a moment. Ended sooner, it would be cancelled
 * along its whole chain, at more expense than a small request's own.
 */
const LAST_WORDS_MS = 5_000;

/** How answers are kept. */
export interface RequestsOptions {
  /** An existing folder of this process alone. */
  readonly folder: string;
  readonly maxBytesPerAnswer: number;
  /** Of all kept answers together; beyond it the oldest that has ended goes first, then nothing more is kept. */
  readonly maxBytes: number;
  /** How long a run waits for a reader that takes nothing. */
  readonly stallMs: number;
  /** How long an answer is kept after its end. */
  readonly keepMs: number;
  /** A run that nobody reads is ended after this long. */
  readonly lingerMs: number;
  /** Most answers under way and kept at a time; the oldest that has ended goes first. */
  readonly maxKept: number;
  /** Told when nothing is kept under a name any more. */
  readonly onForgotten: (request: Pick<RequestName, "user" | "requestId">) => void;
  /** Hears of a kept answer that could not be deleted. */
  readonly report: (error: AppError) => void;
}

/** A request as its caller names it. */
export interface RequestName {
  readonly user: string;
  readonly requestId: string;
  /** Hash of the body: the same name must mean the same question. */
  readonly fingerprint: string;
  /** What allows it now. An answer that was made under another decision is not given again. */
  readonly decision: string;
  /** Whether the caller may ask again under this name; else nothing is kept, and the run ends with its reader. */
  readonly isRepeatable: boolean;
}

/** Starts the run; its frames end when the signal aborts. */
export type StartRun = (signal: AbortSignal) => AsyncIterable<Frame>;

interface Entry extends RequestName {
  readonly answer: KeptAnswer;
  readonly abort: AbortController;
  readers: number;
  /** In its file. */
  bytes: number;
  timer: NodeJS.Timeout | undefined;
  /** Kept long enough: the last reader removes it. */
  isExpired: boolean;
}

/** See the file comment. */
export class Requests {
  readonly #options: RequestsOptions;
  /** In the order of their beginning. */
  readonly #entries = new Map<string, Entry>();
  #bytes = 0;

  constructor(options: RequestsOptions) {
    this.#options = options;
  }

  /**
   * The frames of a request's answer: of the run that is going or has ended under this name and decision, else of one that
   * starts now. One that is going under another decision is ended with `agreement_gone`.
   *
   * @throws AppError `idempotency_key_reused` when the name stands for another question.
   */
  attachOrStart(name: RequestName, start: StartRun, signal: AbortSignal): AsyncIterable<Frame> {
    const key = keyOf(name.user, name.requestId);
    const known = this.#entries.get(key);
    if (known !== undefined && known.fingerprint !== name.fingerprint) {
      throw new AppError(
        "idempotency_key_reused",
        "This Idempotency-Key was used for another question. Use a new one for each question.",
      );
    }
    const isSameDecision = known?.decision === name.decision;
    if (known !== undefined && isSameDecision && !known.answer.hasFailed) return this.#read(key, known, signal);
    if (known !== undefined) {
      const reason = isSameDecision ? undefined : decidedAnew();
      if (reason !== undefined) known.abort.abort(reason);
      this.#discard(key, known, reason);
    }
    // Nothing is awaited before it is entered, so that two at once do not both start.
    const entry = this.#enter(key, name);
    const { answer } = entry;
    const { signal: ending } = entry.abort;
    void answer.record(start(ending), ending).then(() => this.#ended(key, entry));
    return this.#read(key, entry, signal);
  }

  /** Whether a run or its answer is kept under this name. */
  has({ user, requestId }: Pick<RequestName, "user" | "requestId">): boolean {
    return this.#entries.has(keyOf(user, requestId));
  }

  /** Ends a run that is going; returns whether there was one. */
  cancel(user: string, requestId: string, reason: AppError): boolean {
    const entry = this.#entries.get(keyOf(user, requestId));
    if (entry === undefined || entry.answer.hasEnded) return false;
    entry.abort.abort(reason);
    return true;
  }

  /** Ends all runs and deletes what is kept. */
  async close(): Promise<void> {
    for (const [key, entry] of [...this.#entries]) {
      const reason = new AppError("unavailable", "The agent is stopping.");
      entry.abort.abort(reason);
      await this.#forget(key, entry, reason);
    }
  }

  #enter(key: string, name: RequestName): Entry {
    this.#makeRoom();
    const { folder, maxBytesPerAnswer, stallMs } = this.#options;
    const answer = KeptAnswer.atPath(join(folder, randomUUID()), {
      maxBytes: name.isRepeatable ? maxBytesPerAnswer : 0,
      stallMs,
      reserve: (bytes) => this.#reserve(entry, bytes),
    });
    const entry: Entry = {
      ...name,
      answer,
      abort: new AbortController(),
      readers: 0,
      bytes: 0,
      timer: undefined,
      isExpired: false,
    };
    this.#entries.set(key, entry);
    return entry;
  }

  /** Whether so many bytes more may be kept, of all answers together. */
  #reserve(entry: Entry, bytes: number): boolean {
    while (this.#bytes + bytes > this.#options.maxBytes)
      if (!this.#removeOldest(({ bytes: size }) => size > 0)) return false;
    entry.bytes += bytes;
    this.#bytes += bytes;
    return true;
  }

  async *#read(key: string, entry: Entry, signal: AbortSignal): AsyncGenerator<Frame, void, undefined> {
    entry.readers += 1;
    if (!entry.answer.hasEnded) clearTimeout(entry.timer);
    try {
      yield* entry.answer.read(signal);
    } finally {
      entry.readers -= 1;
      if (entry.readers === 0 && !entry.answer.hasEnded) {
        // What was passed to this reader nobody else can have.
        const readAgainMs = entry.isRepeatable && !entry.answer.isPassing ? this.#options.lingerMs : 0;
        const lingerMs = Math.max(readAgainMs, entry.answer.hasLastFrame ? LAST_WORDS_MS : 0);
        const reason = new AppError("cancelled", `Nobody has read this answer for ${String(lingerMs)} ms.`);
        this.#setTimer(entry, lingerMs, () => entry.abort.abort(reason));
      }
      if (entry.readers === 0 && entry.isExpired) this.#discard(key, entry);
    }
  }

  #ended(key: string, entry: Entry): void {
    this.#setTimer(entry, entry.isRepeatable ? this.#options.keepMs : 0, () => {
      entry.isExpired = true;
      if (entry.readers === 0) this.#discard(key, entry);
    });
  }

  #setTimer(entry: Entry, ms: number, act: () => void): void {
    clearTimeout(entry.timer);
    entry.timer = setTimeout(act, ms);
    entry.timer.unref();
  }

  #makeRoom(): void {
    const { maxKept } = this.#options;
    if (this.#entries.size < maxKept || this.#removeOldest(() => true)) return;
    throw new AppError(
      "rate_limited",
      `${String(maxKept)} requests are being answered, which is the limit (DYNAMOS_MAX_KEPT_ANSWERS). Try again later.`,
      { details: { retryAfterSeconds: 5, limit: maxKept, setting: "DYNAMOS_MAX_KEPT_ANSWERS" } },
    );
  }

  /** Removes the oldest answer that has ended and that nobody reads; returns whether there was one. */
  #removeOldest(isWanted: (entry: Entry) => boolean): boolean {
    for (const [key, entry] of this.#entries) {
      if (!entry.answer.hasEnded || entry.readers > 0 || !isWanted(entry)) continue;
      this.#discard(key, entry);
      return true;
    }
    return false;
  }

  #discard(key: string, entry: Entry, reason?: AppError): void {
    this.#forget(key, entry, reason).catch((error: unknown) => this.#options.report(toAppError(error)));
  }

  async #forget(key: string, entry: Entry, reason?: AppError): Promise<void> {
    clearTimeout(entry.timer);
    if (this.#entries.get(key) === entry) this.#entries.delete(key);
    if (entry.isRepeatable && !this.#entries.has(key)) this.#options.onForgotten(entry);
    this.#bytes -= entry.bytes;
    entry.bytes = 0;
    await entry.answer.remove(reason);
  }
}

function decidedAnew(): AppError {
  return new AppError(
    "agreement_gone",
    "The agreement changed: the request was asked again, and runs under what it allows now.",
  );
}

function keyOf(user: string, requestId: string): string {
  return JSON.stringify([user, requestId]);
}
