/** What goes to and comes from a query's process: frames of one byte for the kind, four for the length (little-endian), and the payload. */
import { readSync, writeSync } from "node:fs";
import { AppError } from "../../lib/errors.ts";

/**
 * Kinds of frames: requests go in. What comes out is `ready` once, then for each request one schema, batches, and one end; or a
 * failure, which is the last.
 */
export const FRAME = { schema: 1, batch: 2, end: 3, failure: 4, request: 5, ready: 6 } as const;

/** The descriptor that the query's process writes frames to. */
export const FRAME_DESCRIPTOR = 3;

/** A frame. */
export interface Frame {
  readonly kind: number;
  readonly payload: Uint8Array;
}

const HEADER_BYTES = 5;
/** Far above any batch; beyond it the bytes cannot be ours. */
const MAX_PAYLOAD_BYTES = 64 * 1024 * 1024;

/** Takes a frame to its reader; `isLastBatch`: only the end is to follow, soon. */
export type WriteFrame = (kind: number, payload: Uint8Array, isLastBatch?: boolean) => void;

const NOTHING = new Uint8Array();
/** A frame of at most so many bytes is written in one piece: each write wakes its reader. */
const ONE_PIECE_BYTES = 64 * 1024;

/**
 * Writes frames, and waits for their reader: the descriptor blocks, which is the back-pressure. A schema waits for the frame behind
 * it, which is ready as well (`result-stream.ts`), and a small last batch for the end.
 */
export function frameWriter(): WriteFrame {
  let held: Uint8Array = NOTHING;
  return (kind, payload, isLastBatch = false) => {
    const waiting = held;
    held = NOTHING;
    if (kind === FRAME.schema || (isLastBatch && waiting.length + payload.length <= ONE_PIECE_BYTES)) {
      held = Buffer.concat([waiting, header(kind, payload.length), payload]);
    } else if (waiting.length + payload.length <= ONE_PIECE_BYTES) {
      writeAll(Buffer.concat([waiting, header(kind, payload.length), payload]));
    } else {
      writeAll(Buffer.concat([waiting, header(kind, payload.length)]));
      writeAll(payload);
    }
  };
}

/** A frame in one piece, for small ones. */
export function frameBytes(kind: number, payload: Uint8Array): Uint8Array {
  return Buffer.concat([header(kind, payload.length), payload]);
}

/** Waits for the next request on standard input; undefined at its end. */
export function readRequest(): Buffer | undefined {
  const head = readExactly(HEADER_BYTES);
  return head && readExactly(head.readUInt32LE(1));
}

const STANDARD_INPUT = 0;

function readExactly(length: number): Buffer | undefined {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length;) {
    const read = readSync(STANDARD_INPUT, bytes, at, length - at, null);
    if (read === 0) return undefined;
    at += read;
  }
  return bytes;
}

function header(kind: number, length: number): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES);
  bytes.writeUInt8(kind, 0);
  bytes.writeUInt32LE(length, 1);
  return bytes;
}

function writeAll(bytes: Uint8Array): void {
  let written = 0;
  while (written < bytes.length) written += writeSync(FRAME_DESCRIPTOR, bytes, written);
}

/** Reads frames; ends where the bytes end. Part of a frame at the end is dropped: its writer was killed. */
export async function* readFrames(source: AsyncIterable<Buffer>): AsyncGenerator<Frame> {
  const head = Buffer.alloc(HEADER_BYTES);
  let headBytes = 0;
  let payload: Uint8Array | undefined;
  let payloadBytes = 0;
  for await (const bytes of source) {
    let at = 0;
    while (at < bytes.length) {
      if (payload === undefined) {
        const copied = bytes.copy(head, headBytes, at);
        at += copied;
        headBytes += copied;
        if (headBytes < HEADER_BYTES) break;
        payload = new Uint8Array(payloadLength(head));
        payloadBytes = 0;
      }
      // Straight into its place: a batch is copied once.
      const copied = bytes.copy(payload, payloadBytes, at);
      at += copied;
      payloadBytes += copied;
      if (payloadBytes < payload.length) break;
      yield { kind: head.readUInt8(0), payload };
      payload = undefined;
      headBytes = 0;
    }
  }
}

function payloadLength(head: Buffer): number {
  const length = head.readUInt32LE(1);
  if (length > MAX_PAYLOAD_BYTES)
    throw new AppError("internal", "The query's process sent something that is no frame.");
  return length;
}
