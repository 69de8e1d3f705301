/**
 * An agent's answer as the frames of its result, for the front door alone, which writes JSON of them: over HTTP, as the heading (JSON)
 * and then the frames (protobuf), each after its length in four bytes (little-endian). Chunks stay as compressed as they came.
 */
import { create, fromBinary } from "@bufbuild/protobuf";
import { AppError } from "../errors.ts";
import type { AnswerHeading } from "./answer-stream.ts";
import { frameBytes } from "./frame-bytes.ts";
import { MAX_BATCH_BYTES, toFailureMessage } from "./frames.ts";
import { FrameSchema, StartSchema, type Frame } from "./gen/dynamos/v1/stream_pb.ts";

/** What such an answer is sent as. */
export const ANSWER_FRAMES_MEDIA_TYPE = "application/vnd.dynamos.frames";

const LENGTH_BYTES = 4;
/** Of one frame: far more than a chunk. */
const MAX_FRAME_BYTES = MAX_BATCH_BYTES;

/**
 * Writes a result. Nothing comes before its second frame: a failure until then is thrown, a later one is the last frame. Of the
 * first only the schema goes out: grants, question and addresses are the parties' business.
 */
export async function* answerFrames(
  frames: AsyncIterable<Frame>,
  heading: AnswerHeading,
): AsyncGenerator<Uint8Array, void, undefined> {
  let first: Frame | undefined;
  let isOpen = false;
  try {
    for await (const frame of frames) {
      if (first === undefined) {
        first = withSchemaAlone(frame);
        continue;
      }
      if (!isOpen) yield Buffer.concat([framed(Buffer.from(JSON.stringify(heading))), framed(frameBytes(first))]);
      isOpen = true;
      yield framed(frameBytes(frame));
    }
  } catch (error) {
    if (first === undefined || !isOpen) throw error;
    const known = error instanceof AppError ? error.withParty(heading.provider) : error;
    const failure = { ...first, body: { case: "failure" as const, value: toFailureMessage(known) } };
    yield framed(frameBytes(failure));
    return;
  }
  if (!isOpen) throw new AppError("job_failed", `The stream of ${heading.provider} broke off without an end.`);
}

function withSchemaAlone(frame: Frame): Frame {
  if (frame.body.case !== "start") return frame;
  const { arrowSchema } = frame.body.value;
  return { ...frame, body: { case: "start", value: create(StartSchema, { arrowSchema }) } };
}

function framed(bytes: Uint8Array): Uint8Array {
  const whole = Buffer.allocUnsafe(LENGTH_BYTES + bytes.byteLength);
  whole.writeUInt32LE(bytes.byteLength);
  whole.set(bytes, LENGTH_BYTES);
  return whole;
}

/** What {@link answerFrames} wrote. */
export interface ReadAnswer {
  readonly heading: AnswerHeading;
  /** To be iterated once. Ends where the body ends: that the stream is whole only its End says (`readParts`). */
  readonly frames: AsyncGenerator<Frame, void, undefined>;
}

/**
 * Reads a body up to its heading; at most one frame is held.
 *
 * @throws AppError `stream_interrupted` where the body ends before that or, from `frames`, within a frame; `data_invalid` for what no
 * agent writes; and what the body throws.
 */
export async function readAnswerFrames(party: string, body: AsyncIterable<Uint8Array>): Promise<ReadAnswer> {
  const pieces = lengthPrefixed(party, body);
  const head = await pieces.next();
  if (head.done === true) throw brokenOff(party);
  return { heading: parseHeading(head.value), frames: framesOf(pieces) };
}

async function* framesOf(pieces: AsyncGenerator<Uint8Array, void, undefined>): AsyncGenerator<Frame, void, undefined> {
  for await (const bytes of pieces) yield parseFrame(bytes);
}

function parseFrame(bytes: Uint8Array): Frame {
  try {
    return fromBinary(FrameSchema, bytes);
  } catch (cause) {
    throw new AppError("data_invalid", "A frame of an agent's answer cannot be read.", { cause });
  }
}

/** Each piece has memory of its own. */
async function* lengthPrefixed(
  party: string,
  body: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  const head = Buffer.alloc(LENGTH_BYTES);
  let headBytes = 0;
  let piece: Uint8Array | undefined;
  let pieceBytes = 0;
  for await (const bytes of body) {
    for (let at = 0; at < bytes.byteLength;) {
      if (piece === undefined) {
        const taken = bytes.subarray(at, at + LENGTH_BYTES - headBytes);
        head.set(taken, headBytes);
        at += taken.byteLength;
        headBytes += taken.byteLength;
        if (headBytes < LENGTH_BYTES) break;
        piece = new Uint8Array(checkedLength(head.readUInt32LE()));
        pieceBytes = 0;
      }
      const taken = bytes.subarray(at, at + piece.byteLength - pieceBytes);
      piece.set(taken, pieceBytes);
      at += taken.byteLength;
      pieceBytes += taken.byteLength;
      if (pieceBytes < piece.byteLength) break;
      yield piece;
      piece = undefined;
      headBytes = 0;
    }
  }
  if (headBytes > 0) throw brokenOff(party);
}

function checkedLength(bytes: number): number {
  if (bytes > 0 && bytes <= MAX_FRAME_BYTES) return bytes;
  const limit = String(MAX_FRAME_BYTES);
  throw new AppError("data_invalid", `An agent's answer has a frame of ${String(bytes)} bytes; the limit is ${limit}.`);
}

function parseHeading(bytes: Uint8Array): AnswerHeading {
  try {
    return JSON.parse(Buffer.from(bytes).toString("utf8")) as AnswerHeading;
  } catch (cause) {
    throw new AppError("data_invalid", "The heading of an agent's answer is no JSON.", { cause });
  }
}

function brokenOff(party: string): AppError {
  return new AppError("stream_interrupted", `The answer of ${party} broke off.`, { party });
}
