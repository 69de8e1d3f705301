/**
 * Answers that can be given again (`Idempotency-Key`): the frames of one run, kept in a file of bounded size, so that a repeat
 * of the request attaches to the run or gets the same answer, and the chain runs once.
 *
 * States: recording (frames go to the file; any number of readers follow it) → whole (ended) or failed; or, when the limit is
 * reached, passing (the file no longer grows; frames go hand to hand to one reader, the first that is there, under its
 * back-pressure, and the others are refused). The limit bounds disk, and how far a run gets ahead of its reader; a reader that
 * takes no passed frame for too long fails the answer.
 */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { open, rm, type FileHandle } from "node:fs/promises";
import { AppError, toAppError } from "../../lib/errors.ts";
import { FrameSchema, type Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";

/** Limits of one answer. */
export interface KeptAnswerLimits {
  /** Largest file. */
  readonly maxBytes: number;
  /** How long a passed frame may wait for its reader. */
  readonly stallMs: number;
  /** Asked before the file grows by so many bytes; false: it does not grow any more. Absent: `maxBytes` alone counts. */
  readonly reserve?: (bytes: number) => boolean;
}

/** The kept frames of one request. */
export class KeptAnswer {
  readonly #path: string;
  #file: FileHandle | undefined;
  readonly #limits: KeptAnswerLimits;
  /** End offset of each kept frame. */
  readonly #ends: number[] = [];
  readonly #waiting = new Set<() => void>();
  #outcome: "open" | "whole" | AppError = "open";
  #overflow: { frame: Frame | undefined; taken: (() => void) | undefined } | undefined;
  /** In the order of their coming. */
  readonly #readers = new Set<symbol>();
  /** Who gets what is passed; from the first frame that it took on, nobody else can have the rest. */
  #owner: symbol | undefined;
  #hasPassed = false;
  #hasLastFrame = false;
  #removed = false;
  #recording: Promise<void> = Promise.resolve();

  private constructor(path: string, limits: KeptAnswerLimits) {
    this.#path = path;
    this.#limits = limits;
  }

  /** A new, empty one. The file is made with the first frame, readable by its owner only; its folder must exist. */
  static atPath(path: string, limits: KeptAnswerLimits): KeptAnswer {
    return new KeptAnswer(path, limits);
  }

  /** Whether the run behind it has ended, well or not. */
  get hasEnded(): boolean {
    return this.#outcome !== "open";
  }

  /** Whether its last frame is there: what the run behind it still does, it does by itself. */
  get hasLastFrame(): boolean {
    return this.#hasLastFrame;
  }

  /** Whether it failed: then a repeat may run again. */
  get hasFailed(): boolean {
    return this.#outcome instanceof AppError;
  }

  /** Whether it outgrew its limit and can no longer be given again. */
  get isPassing(): boolean {
    return this.#overflow !== undefined;
  }

  /**
   * Records what a run yields, to its end or failure. Resolves in either case.
   *
   * @param signal ends the waiting for a reader; the run itself is to listen to it, too.
   */
  record(frames: AsyncIterable<Frame>, signal: AbortSignal): Promise<void> {
    this.#recording = this.#record(frames, signal);
    return this.#recording;
  }

  async #record(frames: AsyncIterable<Frame>, signal: AbortSignal): Promise<void> {
    let outcome: "whole" | AppError = "whole";
    try {
      for await (const frame of frames) await this.#append(frame, signal);
    } catch (error) {
      outcome = toAppError(error);
    }
    if (this.#outcome === "open") this.#outcome = outcome;
    this.#notify();
  }

  /**
   * The frames from the first to the last, following the run where it is still going.
   *
   * @throws AppError the run's failure, at its place; `already_exists` when the answer has outgrown its limit and another
   * reader has it.
   */
  async *read(signal: AbortSignal): AsyncGenerator<Frame, void, undefined> {
    const reader = Symbol();
    this.#readers.add(reader);
    try {
      yield* this.#follow(reader, signal);
    } finally {
      this.#readers.delete(reader);
      if (this.#owner === reader && !this.#hasPassed) this.#owner = undefined;
    }
  }

  async *#follow(reader: symbol, signal: AbortSignal): AsyncGenerator<Frame, void, undefined> {
    let index = 0;
    for (;;) {
      signal.throwIfAborted();
      if (this.#overflow !== undefined && !this.#isOwner(reader)) throw this.#tooLarge();
      if (index < this.#ends.length && !this.#removed) {
        yield await this.#readKept(index);
        index += 1;
        continue;
      }
      const passing = this.#overflow;
      if (passing?.frame !== undefined) {
        const { frame, taken } = passing;
        passing.frame = undefined;
        this.#hasPassed = true;
        // The reader asked for it, so it is taken; waiting for the next question would hold the run after its last frame.
        taken?.();
        yield frame;
        continue;
      }
      if (this.#outcome === "whole") return;
      if (this.#outcome instanceof AppError) throw this.#outcome;
      await this.#change(signal);
    }
  }

  /** Closes and deletes the file. Readers that have not all of it end with `reason`; absent: `cancelled`. */
  async remove(reason = new AppError("cancelled", "The kept answer was removed.")): Promise<void> {
    if (this.#removed) return;
    this.#removed = true;
    if (this.#outcome === "open" || this.#readers.size > 0) this.#outcome = reason;
    this.#overflow?.taken?.();
    this.#notify();
    await this.#recording;
    // Of an answer that went hand to hand there is no file.
    if (this.#file === undefined) return;
    await this.#file.close();
    await rm(this.#path, { force: true });
  }

  #isOwner(reader: symbol): boolean {
    if (!this.#hasPassed) this.#owner ??= this.#readers.values().next().value;
    return this.#owner === reader;
  }

  /** Nothing is kept of an answer that nobody can ask for again, and no more of one that outgrew its limit. */
  get #mayKeep(): boolean {
    return this.#limits.maxBytes > 0 && this.#overflow === undefined;
  }

  #hasRoom(start: number, bytes: number): boolean {
    const { maxBytes, reserve } = this.#limits;
    return start + bytes <= maxBytes && (reserve === undefined || reserve(bytes));
  }

  async #append(frame: Frame, signal: AbortSignal): Promise<void> {
    if (this.#removed) return;
    if (frame.body.case === "end") this.#hasLastFrame = true;
    const bytes = this.#mayKeep ? toBinary(FrameSchema, frame) : undefined;
    const start = this.#ends.at(-1) ?? 0;
    if (bytes !== undefined && this.#hasRoom(start, bytes.length)) {
      this.#file ??= await open(this.#path, "wx+", 0o600);
      await this.#file.write(bytes, 0, bytes.length, start);
      this.#ends.push(start + bytes.length);
      this.#notify();
      return;
    }
    await this.#pass(frame, signal);
  }

  /** Hands a frame to the reader; fails when nobody takes it in time, or with the signal's reason. */
  async #pass(frame: Frame, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    let stopWaiting = (): void => {};
    try {
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(this.#stalled()), this.#limits.stallMs);
        const onAbort = (): void => reject(toAppError(signal.reason));
        signal.addEventListener("abort", onAbort, { once: true });
        stopWaiting = () => {
          clearTimeout(timer);
          signal.removeEventListener("abort", onAbort);
        };
        this.#overflow = { frame, taken: resolve };
        this.#notify();
      });
    } finally {
      stopWaiting();
    }
  }

  async #readKept(index: number): Promise<Frame> {
    const start = this.#ends[index - 1] ?? 0;
    const bytes = new Uint8Array((this.#ends[index] ?? start) - start);
    await this.#file?.read(bytes, 0, bytes.length, start);
    return fromBinary(FrameSchema, bytes);
  }

  #stalled(): AppError {
    const limit = this.#limits.stallMs;
    return new AppError(
      "time_limit_exceeded",
      `The reader of the answer took nothing for ${String(limit)} ms (DYNAMOS_STALL_TIMEOUT_MS): it has stalled.`,
      { details: { limit, setting: "DYNAMOS_STALL_TIMEOUT_MS" } },
    );
  }

  #tooLarge(): AppError {
    const limit = this.#limits.maxBytes;
    return new AppError(
      "already_exists",
      `This request's answer is larger than what is kept for repeating (${String(limit)} bytes, ` +
        "DYNAMOS_KEPT_ANSWER_BYTES; of all answers together DYNAMOS_MAX_KEPT_BYTES). Ask again under a new Idempotency-Key.",
      { details: { limit } },
    );
  }

  #change(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        this.#waiting.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      this.#waiting.add(wake);
      signal.addEventListener("abort", wake, { once: true });
    });
  }

  #notify(): void {
    for (const wake of [...this.#waiting]) wake();
  }
}
