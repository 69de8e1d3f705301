/** What the query's process sends: frames of one byte for the kind, four for the length (little-endian), and the payload. */
import { writeSync } from "node:fs";
import { AppError } from "../../lib/errors.ts";

/** Kinds of frames, in the order in which they come: one schema, batches, then one end or one failure. */
export const FRAME = { schema: 1, batch: 2, end: 3, failure: 4 } as const;

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

/** Writes a frame, and waits for the reader: the descriptor blocks, which is the back-pressure. */
export function writeFrame(kind: number, payload: Uint8Array): void {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt8(kind, 0);
  header.writeUInt32LE(payload.length, 1);
  writeAll(header);
  writeAll(payload);
}

function writeAll(bytes: Uint8Array): void {
  let written = 0;
  while (written < bytes.length) written += writeSync(FRAME_DESCRIPTOR, bytes, written);
}

/** Reads frames; ends where the bytes end. Part of a frame at the end is dropped: its writer was killed. */
export async function* readFrames(source: AsyncIterable<Buffer>): AsyncGenerator<Frame> {
  let pending: Buffer[] = [];
  let pendingBytes = 0;
  let wanted = HEADER_BYTES;
  for await (const bytes of source) {
    pending.push(bytes);
    pendingBytes += bytes.length;
    if (pendingBytes < wanted) continue;
    let all: Buffer = pending.length === 1 ? bytes : Buffer.concat(pending);
    for (;;) {
      wanted = HEADER_BYTES;
      if (all.length < wanted) break;
      const length = all.readUInt32LE(1);
      if (length > MAX_PAYLOAD_BYTES)
        throw new AppError("internal", "The query's process sent something that is no frame.");
      wanted += length;
      if (all.length < wanted) break;
      yield { kind: all.readUInt8(0), payload: new Uint8Array(all.subarray(HEADER_BYTES, wanted)) };
      all = all.subarray(wanted);
    }
    pending = [all];
    pendingBytes = all.length;
  }
}
