/**
 * A frame's bytes, without the copies that protobuf-es makes of a nested message's content: a chunk is copied once, into
 * place. Every chunk passes here on every hop; the copies' memory was most of the garbage collector's work
 * (`npm run bench -- ceilings`).
 */
import { create, toBinary } from "@bufbuild/protobuf";
import { ChunkSchema, FrameSchema, type Frame } from "./gen/dynamos/v1/stream_pb.ts";

const LENGTH_DELIMITED = 2;
const CHUNK_TAG = (FrameSchema.field.chunk.number << 3) | LENGTH_DELIMITED;
const DATA_TAG = (ChunkSchema.field.data.number << 3) | LENGTH_DELIMITED;
const NOTHING = Buffer.alloc(0);

/**
 * The same message as `toBinary(FrameSchema, frame)`.
 *
 * @param target makes room for so many bytes of a frame with a chunk; absent: memory of its own.
 */
export function frameBytes(frame: Frame, target?: (bytes: number) => Uint8Array): Uint8Array {
  if (frame.body.case !== "chunk" || frame.body.value.data.byteLength === 0) return toBinary(FrameSchema, frame);
  const { data, ...others } = frame.body.value;
  const { provider, requestId, attempt, sequence } = frame;
  const head = toBinary(FrameSchema, create(FrameSchema, { provider, requestId, attempt, sequence }));
  const dataLength = varint(data.byteLength);
  const rest = toBinary(ChunkSchema, { ...others, data: NOTHING });
  const chunkLength = varint(1 + dataLength.byteLength + data.byteLength + rest.byteLength);
  const parts = [head, Buffer.of(CHUNK_TAG), chunkLength, Buffer.of(DATA_TAG), dataLength, data, rest];
  return target === undefined ? Buffer.concat(parts) : joined(parts, target);
}

function joined(parts: readonly Uint8Array[], target: (bytes: number) => Uint8Array): Uint8Array {
  const whole = target(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.byteLength;
  }
  return whole;
}

/** A length in base 128, the least significant group first (protobuf's encoding guide). */
function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (; value > 0x7f; value >>>= 7) bytes.push((value & 0x7f) | 0x80);
  return Buffer.from([...bytes, value]);
}

/** What stands before the content of a field of bytes, text or message: its tag, and how long the content is. */
export function lengthDelimited(fieldNumber: number, bytes: number): readonly [Buffer, Buffer] {
  return [varint((fieldNumber << 3) | LENGTH_DELIMITED), varint(bytes)];
}
