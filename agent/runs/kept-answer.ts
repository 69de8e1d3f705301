/**
 * Answers that can be given again (`Idempotency-Key`): the frames of one run, kept in a file of bounded size, so that a repeat
 * of the request attaches to the run or gets the same answer, and the chain runs once.
 *
 * States: recording (frames go to the file; any number of readers follow it) → whole (ended) or failed; or, when the limit is
 * reached, passing (the file no longer grows; frames go hand to hand to the first reader, under its back-pressure, and further
 * readers are refused). The limit bounds disk, and how far a run gets ahead of its reader.
 */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { open, rm, type FileHandle } from "node:fs/promises";
import { AppError, toAppError } from "../../lib/errors.ts";
import { FrameSchema, type Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";

/** The kept frames of one request. */
export class KeptAnswer {
  readonly #path: string;
  #file: FileHandle | undefined;
  readonly #maxBytes: number;
  /** End offset of each kept frame. */
  readonly #ends: number[] = [];
  readonly #waiting = new Set<() => void>();
  #outcome: "open" | "whole" | AppError = "open";
  #overflow: { frame: Frame | undefined; taken: (() => void) | undefined } | undefined;
  #readers = 0;
  #removed = false;
  #recording: Promise<void> = Promise.resolve();

  private constructor(path: string, maxBytes: number) {
    this.#path = path;
    this.#maxBytes = maxBytes;
  }

  /** A new, empty one. The file is made with the first frame, readable by its owner only; its folder must exist. */
  static atPath(path: string, maxBytes: number): KeptAnswer {
    return new KeptAnswer(path, maxBytes);
  }

  /** Whether the run behind it has ended, well or not. */
  get hasEnded(): boolean {
    return this.#outcome !== "open";
  }

  /** Whether it failed: then a repeat may run again. */
  get hasFailed(): boolean {
    return this.#outcome instanceof AppError;
  }

  /** Whether it outgrew its limit and can no longer be given again. */
  get isPassing(): boolean {
    return this.#overflow !== undefined;
  }

  /** Records what a run yields, to its end or failure. Resolves in either case. */
  record(frames: AsyncIterable<Frame>): Promise<void> {
    this.#recording = this.#record(frames);
    return this.#recording;
  }

  async #record(frames: AsyncIterable<Frame>): Promise<void> {
    try {
      for await (const frame of frames) await this.#append(frame);
      this.#outcome = "whole";
    } catch (error) {
      this.#outcome = toAppError(error);
    }
    this.#notify();
  }

  /**
   * The frames from the first to the last, following the run where it is still going.
   *
   * @throws AppError the run's failure, at its place; `already_exists` when the answer has outgrown its limit and another
   * reader has it.
   */
  async *read(signal: AbortSignal): AsyncGenerator<Frame, void, undefined> {
    this.#readers += 1;
    const isFirst = this.#readers === 1;
    let index = 0;
    for (;;) {
      signal.throwIfAborted();
      if (this.#overflow !== undefined && !isFirst) throw this.#tooLarge();
      if (index < this.#ends.length) {
        yield await this.#readKept(index);
        index += 1;
        continue;
      }
      const passing = this.#overflow;
      if (passing?.frame !== undefined) {
        const { frame, taken } = passing;
        passing.frame = undefined;
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

  /** Closes and deletes the file. Readers end with `cancelled`. */
  async remove(): Promise<void> {
    if (this.#removed) return;
    this.#removed = true;
    if (this.#outcome === "open") this.#outcome = new AppError("cancelled", "The kept answer was removed.");
    this.#overflow?.taken?.();
    this.#notify();
    await this.#recording;
    await this.#file?.close();
    await rm(this.#path, { force: true });
  }

  async #append(frame: Frame): Promise<void> {
    if (this.#removed) return;
    const bytes = toBinary(FrameSchema, frame);
    const start = this.#ends.at(-1) ?? 0;
    if (this.#overflow === undefined && start + bytes.length <= this.#maxBytes) {
      this.#file ??= await open(this.#path, "wx+", 0o600);
      await this.#file.write(bytes, 0, bytes.length, start);
      this.#ends.push(start + bytes.length);
      this.#notify();
      return;
    }
    await new Promise<void>((resolve) => {
      this.#overflow = { frame, taken: resolve };
      this.#notify();
    });
  }

  async #readKept(index: number): Promise<Frame> {
    const start = this.#ends[index - 1] ?? 0;
    const bytes = new Uint8Array((this.#ends[index] ?? start) - start);
    await this.#file?.read(bytes, 0, bytes.length, start);
    return fromBinary(FrameSchema, bytes);
  }

  #tooLarge(): AppError {
    return new AppError(
      "already_exists",
      `This request's answer is larger than what is kept for repeating (${String(this.#maxBytes)} bytes, ` +
        "DYNAMOS_KEPT_ANSWER_BYTES). Ask again under a new Idempotency-Key.",
      { details: { limit: this.#maxBytes } },
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
