/** One stream that comes into a microservice, as its handler sees it. */
import type { RecordBatch, Schema } from "apache-arrow";
import { AppError, toAppError } from "../../lib/errors.ts";
import type { Grant } from "../../lib/model/grant.ts";
import { FrameReader, type AttachmentContent, type StreamIdentity } from "../../lib/rpc/frames.ts";
import type { Frame, Start } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { readRecordBatches, type RecordBatchPart } from "../../lib/rpc/record-batches.ts";
import type { InputStream, Notes } from "./handler.ts";

const BEFORE = "the element before";

/** Reads one stream. First {@link open}; then the handler reads; then {@link drain} proves that it is whole. */
export class ChainInput implements InputStream {
  readonly batches: AsyncIterable<RecordBatch>;
  readonly #parts: AsyncGenerator<RecordBatchPart>;
  readonly #passOn: (attachment: AttachmentContent, from: ChainInput) => void;
  readonly #notes: Promise<Notes>;
  #resolveNotes!: (notes: Notes) => void;
  #rejectNotes!: (error: unknown) => void;
  #identity: StreamIdentity | undefined;
  #start: Start | undefined;
  #schema: Schema | undefined;
  #grant: Grant | undefined;
  #failure: AppError | undefined;
  #rows = 0n;
  #batchCount = 0n;
  #isEnded = false;

  /** @param passOn takes each attachment that comes by. */
  constructor(frames: AsyncIterable<Frame>, passOn: (attachment: AttachmentContent, from: ChainInput) => void) {
    this.#parts = readRecordBatches(this.#identified(frames), BEFORE);
    this.#passOn = passOn;
    this.#notes = new Promise((resolve, reject) => {
      this.#resolveNotes = resolve;
      this.#rejectNotes = reject;
    });
    // Whoever asks for the notes hears of the failure; nobody needs to ask.
    this.#notes.catch(() => undefined);
    this.batches = this.#readBatches();
  }

  /** Reads the first frame. A Failure there is kept as {@link failure}; a stream that breaks off there throws. */
  async open(): Promise<void> {
    try {
      const first = await this.#parts.next();
      if (first.done === true || first.value.kind !== "start") throw new FrameReader().brokenOff(BEFORE);
      this.#start = first.value.start;
      this.#schema = first.value.schema;
    } catch (error) {
      this.#rejectNotes(error);
      if (this.#identity === undefined) throw error;
      this.#failure = toAppError(error);
      this.#isEnded = true;
    }
  }

  /** Gives it the checked grant of its provider. */
  grantedBy(grant: Grant | undefined): void {
    this.#grant = grant;
  }

  /** Whose stream it is, and of which execution. Only after {@link open}. */
  get identity(): StreamIdentity {
    if (this.#identity === undefined) throw new AppError("internal", "The input has not been opened.");
    return this.#identity;
  }

  get provider(): string {
    return this.identity.provider;
  }

  /** Its first frame; absent where it failed at once. */
  get start(): Start | undefined {
    return this.#start;
  }

  get schema(): Schema | undefined {
    return this.#schema;
  }

  get grant(): Grant | undefined {
    return this.#grant;
  }

  get failure(): AppError | undefined {
    return this.#failure;
  }

  notes(): Promise<Notes> {
    return this.#notes;
  }

  /** What was received. */
  get counts(): { readonly rows: bigint; readonly batches: bigint } {
    return { rows: this.#rows, batches: this.#batchCount };
  }

  /** Reads what the handler left, so that a stream that is not whole is noticed. */
  async drain(): Promise<void> {
    while (!this.#isEnded && (await this.#nextBatch()) !== undefined);
  }

  async *#readBatches(): AsyncGenerator<RecordBatch> {
    if (this.#failure !== undefined) throw this.#failure;
    for (let next = await this.#nextBatch(); next !== undefined; next = await this.#nextBatch()) yield next;
  }

  /** The next batch, or undefined after the last. */
  async #nextBatch(): Promise<RecordBatch | undefined> {
    try {
      for await (const part of this.#remaining()) {
        if (part.kind === "attachment") this.#passOn(part, this);
        if (part.kind === "end") this.#resolveNotes(part.notes);
        if (part.kind === "batch") return this.#counted(part.batch);
      }
      this.#isEnded = true;
      return undefined;
    } catch (error) {
      this.#isEnded = true;
      this.#rejectNotes(error);
      throw error;
    }
  }

  /** The parts, with an iterator that a loop may leave and another go on with. */
  #remaining(): AsyncIterable<RecordBatchPart> {
    return { [Symbol.asyncIterator]: () => ({ next: () => this.#parts.next() }) };
  }

  #counted(batch: RecordBatch): RecordBatch {
    this.#rows += BigInt(batch.numRows);
    this.#batchCount += 1n;
    return batch;
  }

  async *#identified(frames: AsyncIterable<Frame>): AsyncGenerator<Frame> {
    for await (const frame of frames) {
      this.#identity ??= { provider: frame.provider, requestId: frame.requestId, attempt: frame.attempt };
      yield frame;
    }
  }
}
