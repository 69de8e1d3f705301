/**
 * Memory for message bodies, used again once their messages are confirmed. Chunks of 256 KiB that are each made anew cost the garbage
 * collector more than all the rest of publishing them (docs/decisions/0023).
 */
import { CHUNK_BYTES } from "../lib/rpc/frames.ts";

/** A chunk, and what stands around it in a frame. */
const BODY_BYTES = CHUNK_BYTES + 4 * 1024;
/** Smaller bodies do not pay: V8 makes them cheaply. */
const LEAST_BYTES = 16 * 1024;

/** A body that is to be filled. */
export interface PooledBody {
  readonly bytes: Uint8Array;
  /** To be called at most once, when nobody reads or writes the bytes any more. */
  readonly giveBack: () => void;
}

/** See the file comment. Holds as many bodies as were in use at a time. */
export class BodyPool {
  readonly #free: Buffer[] = [];

  /** Room for so many bytes, with whatever was there before. */
  take(bytes: number): PooledBody {
    if (bytes < LEAST_BYTES || bytes > BODY_BYTES) {
      return { bytes: Buffer.allocUnsafe(bytes), giveBack: () => undefined };
    }
    const whole = this.#free.pop() ?? Buffer.allocUnsafeSlow(BODY_BYTES);
    return { bytes: whole.subarray(0, bytes), giveBack: () => void this.#free.push(whole) };
  }
}
