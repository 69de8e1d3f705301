/**
 * A stream as frames (decision 5), below the level of Arrow: the same code writes and checks streams on gRPC and on the
 * bus. Its parts:
 *
 * - {@link FrameWriter} cuts batches and attachments into pieces and numbers the frames;
 * - {@link FrameOrder} judges a frame's place: next, duplicate, of an old attempt, of a newer one, or a gap;
 * - {@link StreamCheck} proves at the end that a stream is whole;
 * - {@link FrameReader} puts the pieces together again.
 *
 * `record-batches.ts` reads and writes the Arrow inside; `frame-recoding.ts` compresses chunks on their way.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { crc32 } from "node:zlib";
import { AppError, fromFailure, toFailure } from "../errors.ts";
import { chunkContent, type ChunkContent } from "./chunk-compression.ts";
import {
  FailureSchema,
  FrameSchema,
  type ChunkSchema,
  type End,
  type Failure as FailureMessage,
  type Frame,
  type Start,
  type StartSchema,
} from "./gen/dynamos/v1/stream_pb.ts";

/** Bytes of one chunk or attachment frame, also before compression: a fair size on loopback gRPC, and far below a bus message's limit. */
export const CHUNK_BYTES = 256 * 1024;

/** Default limit of a reassembled batch or attachment: what one reader may hold at a time. */
export const MAX_BATCH_BYTES = 32 * 1024 * 1024;

/** Whose stream it is, and of which execution. */
export interface StreamIdentity {
  readonly provider: string;
  readonly requestId: string;
  readonly attempt: number;
}

/** A document beside the rows. */
export interface AttachmentContent {
  readonly name: string;
  readonly mediaType: string;
  readonly data: Uint8Array;
}

/** How the batches came that were one compressed chunk each, as long as their bytes are there: who passes one on need not compress it again. */
const CAME_AS = new WeakMap<Uint8Array, ChunkContent>();

/** Makes the frames of one stream, in order. The caller sends each before it asks for the next. */
export class FrameWriter {
  readonly #identity: StreamIdentity;
  #sequence = 0n;
  #rows = 0n;
  #batches = 0n;
  #checksum = 0;

  constructor(identity: StreamIdentity) {
    this.#identity = identity;
  }

  /** The first frame. */
  start(start: MessageInitShape<typeof StartSchema>): Frame {
    return this.#frame({ case: "start", value: start });
  }

  /** One batch (Arrow IPC bytes) as frames of at most {@link CHUNK_BYTES}; the data are views of `bytes`. */
  *batch(bytes: Uint8Array, rows: number): Generator<Frame> {
    for (const { data, more } of pieces(bytes)) {
      yield this.#chunk({ data, more });
    }
    this.#count(rows);
  }

  /** As {@link batch}, of bytes as {@link FrameReader} gave them: compressed where they came so. */
  *unchangedBatch(bytes: Uint8Array, rows: number): Generator<Frame> {
    const came = CAME_AS.get(bytes);
    if (came === undefined) {
      yield* this.batch(bytes, rows);
      return;
    }
    yield this.#chunk({ ...came, more: false });
    this.#count(rows);
  }

  /** One attachment as frames. */
  *attachment({ name, mediaType, data: whole }: AttachmentContent): Generator<Frame> {
    for (const { data, more } of pieces(whole)) {
      yield this.#frame({ case: "attachment", value: { name, mediaType, data, more } });
    }
  }

  /** The last frame of a stream that is whole. */
  end(notes: Readonly<Record<string, unknown>> = {}): Frame {
    const { rows, batches } = this.counts;
    const notesJson = Object.keys(notes).length === 0 ? "" : JSON.stringify(notes);
    return this.#frame({ case: "end", value: { rows, batches, checksum: this.#checksum, notesJson } });
  }

  /** The last frame of a stream that is not. */
  failure(thrown: unknown): Frame {
    return this.#frame({ case: "failure", value: toFailureMessage(thrown) });
  }

  /** What was written so far. */
  get counts(): { readonly rows: bigint; readonly batches: bigint } {
    return { rows: this.#rows, batches: this.#batches };
  }

  #chunk(value: MessageInitShape<typeof ChunkSchema> & { readonly data: Uint8Array }): Frame {
    this.#checksum = crc32(value.data, this.#checksum);
    return this.#frame({ case: "chunk", value });
  }

  #count(rows: number): void {
    this.#rows += BigInt(rows);
    this.#batches += 1n;
  }

  #frame(body: NonNullable<MessageInitShape<typeof FrameSchema>["body"]>): Frame {
    return create(FrameSchema, { ...this.#identity, sequence: this.#sequence++, body });
  }
}

/** What {@link FrameOrder} says of a frame. */
export type FramePlace =
  /** The one that was expected. */
  | "next"
  /** Seen already (a redelivery): to be dropped. */
  | "duplicate"
  /** Of an older attempt than one seen: to be dropped. */
  | "stale"
  /** The first frame of a newer attempt: what the older one brought no longer counts. */
  | "newAttempt";

/** The order of one provider's frames, by (attempt, sequence). */
export class FrameOrder {
  #attempt = 0;
  #next = 0n;

  /** The attempt seen last; 0 before the first frame. */
  get attempt(): number {
    return this.#attempt;
  }

  /**
   * Judges a frame, and counts it as seen. A failure has no place of its own: it is `next` whenever its attempt is.
   *
   * @throws AppError `job_failed` for a gap: frames were lost on the way.
   */
  judge(frame: Frame): FramePlace {
    if (frame.attempt < this.#attempt) return "stale";
    const isNewAttempt = this.#attempt !== 0 && frame.attempt > this.#attempt;
    if (isNewAttempt) this.#next = 0n;
    if (frame.body.case !== "failure" && frame.sequence < this.#next) return "duplicate";
    if (frame.body.case !== "failure" && frame.sequence > this.#next) {
      throw broken(frame.provider, `frame ${this.#next} is missing: frame ${frame.sequence} came instead`);
    }
    this.#attempt = frame.attempt;
    this.#next = frame.body.case === "failure" ? this.#next : frame.sequence + 1n;
    return isNewAttempt ? "newAttempt" : "next";
  }
}

/**
 * Checks that frames make a whole stream: Start first, no gap, nothing after End, and the counts and checksum of End. Keeps
 * no data, for those who only hand frames on.
 */
export class StreamCheck {
  readonly #order = new FrameOrder();
  #state: "before" | "open" | "ended" = "before";
  #inside: "chunk" | "attachment" | undefined;
  #batches = 0n;
  #checksum = 0;

  /** Whether End was seen: only then is the stream whole. */
  get isEnded(): boolean {
    return this.#state === "ended";
  }

  /** CRC-32 of the chunks that were taken so far, as they came. */
  get checksum(): number {
    return this.#checksum;
  }

  /**
   * Takes the next frame.
   *
   * @returns whether it counts; duplicates and frames of an older attempt do not.
   * @throws AppError that a Failure frame carries; `job_failed` for a gap, a wrong order, count or checksum, or a newer attempt
   * in the middle (a new attempt is a new stream).
   */
  check(frame: Frame): boolean {
    const place = this.#order.judge(frame);
    if (place === "duplicate" || place === "stale") return false;
    const { provider, body } = frame;
    if (place === "newAttempt") throw broken(provider, `attempt ${frame.attempt} began inside another`);
    if (body.case === "failure") throw fromFailureMessage(body.value);
    this.#checkState(frame);
    if (body.case === "start") this.#state = "open";
    if (body.case === "chunk") this.#checksum = crc32(body.value.data, this.#checksum);
    if (body.case === "chunk" && !body.value.more) this.#batches += 1n;
    if (body.case === "chunk" || body.case === "attachment") this.#inside = body.value.more ? body.case : undefined;
    if (body.case === "end") this.#checkEnd(provider, body.value);
    return true;
  }

  /** The error of a stream that stopped before its End. */
  brokenOff(provider: string): AppError {
    return broken(provider, "it stopped without an end frame");
  }

  #checkState({ provider, sequence, body }: Frame): void {
    const isStart = body.case === "start";
    if (body.case === undefined || (this.#state === "before" ? !isStart : isStart || this.#state === "ended")) {
      throw broken(provider, `frame ${sequence} (${body.case ?? "of an unknown kind"}) does not belong there`);
    }
    if (this.#inside !== undefined && body.case !== this.#inside) {
      throw broken(provider, `frame ${sequence} (${body.case}) came in the middle of a ${this.#inside}`);
    }
  }

  #checkEnd(provider: string, end: End): void {
    if (end.batches !== this.#batches) {
      throw broken(provider, `it says ${end.batches} batches, and ${this.#batches} came`);
    }
    if (end.checksum !== this.#checksum) throw broken(provider, "its checksum does not fit its data");
    this.#state = "ended";
  }
}

/** What a stream consists of once its pieces are together. */
export type StreamPart =
  | { readonly kind: "start"; readonly start: Start; readonly identity: StreamIdentity }
  | { readonly kind: "batch"; readonly bytes: Uint8Array }
  | ({ readonly kind: "attachment" } & AttachmentContent)
  | { readonly kind: "end"; readonly end: End; readonly notes: Readonly<Record<string, unknown>> };

/** Limits of a {@link FrameReader}. */
export interface FrameReaderOptions {
  /** Largest batch or attachment in bytes; default {@link MAX_BATCH_BYTES}. */
  readonly maxBatchBytes?: number;
}

/** Reads one stream, frame by frame. */
export class FrameReader {
  readonly #maxBatchBytes: number;
  readonly #check = new StreamCheck();
  #pieces: Uint8Array[] = [];
  #pieceBytes = 0;

  constructor(options: FrameReaderOptions = {}) {
    this.#maxBatchBytes = options.maxBatchBytes ?? MAX_BATCH_BYTES;
  }

  /** Whether End was seen: only then is the stream whole. */
  get isEnded(): boolean {
    return this.#check.isEnded;
  }

  /**
   * Takes the next frame.
   *
   * @returns the part that it completes, if it does.
   * @throws AppError as {@link StreamCheck.check}, `batch_too_large` beyond the limit, and `data_invalid` for a compressed chunk
   * that is not what it says.
   */
  accept(frame: Frame): StreamPart | undefined {
    if (!this.#check.check(frame)) return undefined;
    const { body } = frame;
    switch (body.case) {
      case "start":
        return { kind: "start", start: body.value, identity: identityOf(frame) };
      case "chunk": {
        const { data, compression, uncompressedBytes, more } = body.value;
        const content = chunkContent(body.value, CHUNK_BYTES);
        const bytes = this.#joined({ data: content, more });
        if (bytes === content && compression !== "") CAME_AS.set(bytes, { data, compression, uncompressedBytes });
        return bytes && { kind: "batch", bytes };
      }
      case "attachment": {
        const { name, mediaType } = body.value;
        const data = this.#joined(body.value);
        return data && { kind: "attachment", name, mediaType, data };
      }
      case "end":
        return { kind: "end", end: body.value, notes: parseJsonObject(body.value.notesJson) };
      // StreamCheck throws for these.
      case "failure":
      case undefined:
        return undefined;
    }
  }

  /** The error of a stream that stopped before its End. */
  brokenOff(provider: string): AppError {
    return this.#check.brokenOff(provider);
  }

  /** The whole, once its last piece is there. */
  #joined({ data, more }: { readonly data: Uint8Array; readonly more: boolean }): Uint8Array | undefined {
    this.#pieces.push(data);
    this.#pieceBytes += data.byteLength;
    if (this.#pieceBytes > this.#maxBatchBytes) {
      throw new AppError(
        "batch_too_large",
        `A batch or attachment of more than ${this.#maxBatchBytes} bytes; make the rows or the picture smaller.`,
        { details: { limit: this.#maxBatchBytes } },
      );
    }
    if (more) return undefined;
    const whole = this.#pieces.length === 1 ? data : Buffer.concat(this.#pieces, this.#pieceBytes);
    this.#pieces = [];
    this.#pieceBytes = 0;
    return whole;
  }
}

/** Reads a whole stream from any source of frames; see {@link FrameReader}. A source that just ends is `job_failed`. */
export async function* readParts(
  frames: AsyncIterable<Frame>,
  provider: string,
  options: FrameReaderOptions = {},
): AsyncGenerator<StreamPart> {
  const reader = new FrameReader(options);
  for await (const frame of frames) {
    const part = reader.accept(frame);
    if (part !== undefined) yield part;
  }
  if (!reader.isEnded) throw reader.brokenOff(provider);
}

/** Whether a frame counts against credits (decision 7): those with data do, the others are one per stream. */
export function takesCredit(frame: Frame): boolean {
  return frame.body.case === "chunk" || frame.body.case === "attachment";
}

/** The wire form of an error; its place travels among the details. */
export function toFailureMessage(thrown: unknown): FailureMessage {
  const { code, detail, party = "", retryable, place, details } = toFailure(thrown);
  const extra = { ...details, ...(place === undefined ? {} : { place }) };
  const detailsJson = Object.keys(extra).length === 0 ? "" : JSON.stringify(extra);
  return create(FailureSchema, { code, detail, party, retryable, detailsJson });
}

/** The error that a wire form stands for. */
export function fromFailureMessage(message: FailureMessage): AppError {
  const { place, ...details } = parseJsonObject(message.detailsJson);
  return fromFailure({
    code: message.code,
    detail: message.detail,
    retryable: message.retryable,
    details,
    ...(message.party === "" ? {} : { party: message.party }),
    ...(isObject(place) ? { place } : {}),
  });
}

/** A JSON object in a protobuf string field; "" is an empty one. Anything else is `data_invalid`. */
export function parseJsonObject(json: string): Readonly<Record<string, unknown>> {
  if (json === "") return {};
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (cause) {
    throw new AppError("data_invalid", "A JSON field of a message is not JSON.", { cause });
  }
  if (!isObject(value)) throw new AppError("data_invalid", "A JSON field of a message is not an object.");
  return value;
}

function* pieces(whole: Uint8Array): Generator<{ readonly data: Uint8Array; readonly more: boolean }> {
  for (let offset = 0; offset === 0 || offset < whole.byteLength; offset += CHUNK_BYTES) {
    const data = whole.subarray(offset, offset + CHUNK_BYTES);
    yield { data, more: offset + CHUNK_BYTES < whole.byteLength };
  }
}

function identityOf({ provider, requestId, attempt }: Frame): StreamIdentity {
  return { provider, requestId, attempt };
}

function broken(provider: string, why: string): AppError {
  return new AppError("job_failed", `The stream of ${provider} is not whole: ${why}.`);
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
