/**
 * The data requests that this process answers, so that a repeat under the same `Idempotency-Key` attaches to the run or is
 * answered again, and the chain runs once (decision 2). Requests are told apart by user and id. An answer is kept for a while
 * after its end, in files, up to a number.
 */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { randomUUID } from "node:crypto";
import { AppError, toAppError } from "../lib/errors.ts";
import type { Frame } from "../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { KeptAnswer } from "./runs/kept-answer.ts";

/** How answers are kept. */
export interface RequestsOptions {
  /** Folder for kept answers; emptied at the start, since what was kept belongs to runs that are gone. */
  readonly folder: string;
  readonly maxBytesPerAnswer: number;
  /** How long a run waits for a reader that takes nothing. */
  readonly stallMs: number;
  /** How long an answer is kept after its end. */
  readonly keepMs: number;
  /** A run that nobody reads is ended after this long. */
  readonly lingerMs: number;
  /** Most answers kept at a time; the oldest that has ended goes first. */
  readonly maxKept: number;
  /** Hears of a kept answer that could not be deleted. */
  readonly report: (error: AppError) => void;
}

/** A request as its caller names it. */
export interface RequestName {
  readonly user: string;
  readonly requestId: string;
  /** Hash of the body: the same name must mean the same question. */
  readonly fingerprint: string;
  /** Whether the caller may ask again under this name; else nothing is kept, and the run ends with its reader. */
  readonly isRepeatable: boolean;
}

/** Starts the run; its frames end when the signal aborts. */
export type StartRun = (signal: AbortSignal) => AsyncIterable<Frame>;

interface Entry {
  readonly fingerprint: string;
  readonly isRepeatable: boolean;
  readonly answer: KeptAnswer;
  readonly abort: AbortController;
  readers: number;
  timer: NodeJS.Timeout | undefined;
}

/** See the file comment. */
export class Requests {
  readonly #options: RequestsOptions;
  readonly #entries = new Map<string, Entry>();

  private constructor(options: RequestsOptions) {
    this.#options = options;
  }

  /** With an empty folder for what will be kept. */
  static async open(options: RequestsOptions): Promise<Requests> {
    await rm(options.folder, { recursive: true, force: true });
    await mkdir(options.folder, { recursive: true, mode: 0o700 });
    return new Requests(options);
  }

  /**
   * The frames of a request's answer: of the run that is going or has ended under this name, else of one that starts now.
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
    if (known !== undefined && !known.answer.hasFailed) return this.#read(key, known, signal);
    if (known !== undefined) this.#discard(key, known);
    // Nothing is awaited before it is entered, so that two at once do not both start.
    const { folder, maxBytesPerAnswer, stallMs } = this.#options;
    const maxBytes = name.isRepeatable ? maxBytesPerAnswer : 0;
    const answer = KeptAnswer.atPath(join(folder, randomUUID()), { maxBytes, stallMs });
    const entry = this.#enter(key, name, answer);
    const { signal: ending } = entry.abort;
    void answer.record(start(ending), ending).then(() => this.#ended(key, entry));
    return this.#read(key, entry, signal);
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
      entry.abort.abort(new AppError("unavailable", "The agent is stopping.", { retryable: true }));
      await this.#forget(key, entry);
    }
  }

  #enter(key: string, { fingerprint, isRepeatable }: RequestName, answer: KeptAnswer): Entry {
    this.#makeRoom();
    const entry: Entry = {
      fingerprint,
      isRepeatable,
      answer,
      abort: new AbortController(),
      readers: 0,
      timer: undefined,
    };
    this.#entries.set(key, entry);
    return entry;
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
        const lingerMs = entry.isRepeatable && !entry.answer.isPassing ? this.#options.lingerMs : 0;
        const reason = new AppError("cancelled", `Nobody has read this answer for ${String(lingerMs)} ms.`);
        this.#setTimer(entry, lingerMs, () => entry.abort.abort(reason));
      }
    }
  }

  #ended(key: string, entry: Entry): void {
    clearTimeout(entry.timer);
    this.#setTimer(entry, entry.isRepeatable ? this.#options.keepMs : 0, () => this.#discard(key, entry));
  }

  #setTimer(entry: Entry, ms: number, act: () => void): void {
    clearTimeout(entry.timer);
    entry.timer = setTimeout(act, ms);
    entry.timer.unref();
  }

  #makeRoom(): void {
    if (this.#entries.size < this.#options.maxKept) return;
    for (const [key, entry] of this.#entries) {
      if (!entry.answer.hasEnded || entry.readers > 0) continue;
      this.#discard(key, entry);
      return;
    }
    throw new AppError(
      "rate_limited",
      `${String(this.#options.maxKept)} requests are being answered. Try again later.`,
      {
        details: { retryAfterSeconds: 5, limit: this.#options.maxKept },
      },
    );
  }

  #discard(key: string, entry: Entry): void {
    this.#forget(key, entry).catch((error: unknown) => this.#options.report(toAppError(error)));
  }

  async #forget(key: string, entry: Entry): Promise<void> {
    clearTimeout(entry.timer);
    if (this.#entries.get(key) === entry) this.#entries.delete(key);
    await entry.answer.remove();
  }
}

function keyOf(user: string, requestId: string): string {
  return JSON.stringify([user, requestId]);
}
