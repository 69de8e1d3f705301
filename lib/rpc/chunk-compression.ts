/**
 * Compression of chunks, each by itself: raw DEFLATE (RFC 1951), because every language has it. `docs/decisions/0023` has the
 * numbers behind the constants.
 */
import { constants, deflateRawSync, inflateRawSync } from "node:zlib";
import { AppError } from "../errors.ts";
import type { Chunk } from "./gen/dynamos/v1/stream_pb.ts";

/** What `Chunk.compression` says; the name is the Compression Streams standard's. */
export const DEFLATE_RAW = "deflate-raw";

/** Initial gRPC metadata of who takes frames: the compressions that it understands, separated by commas. */
export const ACCEPT_COMPRESSION = "dynamos-accept-compression";

/**
 * From how many times fewer bytes on compressing pays. Within a pod it costs about as much processor time as sending and
 * receiving what it saves at 4; on the bus, where every byte is written to a disk and sent twice, much earlier.
 */
export const PAYING_RATIO = { hop: 4, bus: 1.5 } as const;

/** Smaller chunks go as they are: most of a frame of theirs is not data. */
const MIN_BYTES = 512;

/**
 * What is tried of a chunk where one before did not pay: pieces from all over it, since Arrow puts a chunk's columns one behind the other.
 * A whole chunk of noise costs as much as sending it does.
 */
const SAMPLE_PIECES = 8;
const SAMPLE_PIECE_BYTES = 1024;
/** A sample that becomes smaller by less is noise; its short pieces show less than the whole has. */
const LEAST_SAMPLE_RATIO = 1.15;

/** Chunks that are sent as they are after one that did not pay; doubled each time up to the limit. */
const MAX_SKIPPED = 64;

/** What a chunk is compressed with. Level 1 is as small as the others here, within a few per cent, at a third of their time. */
const DEFLATE_OPTIONS = { level: constants.Z_BEST_SPEED, memLevel: 9 };

/** The fields of a chunk that compression changes. */
export type ChunkContent = Pick<Chunk, "data" | "compression" | "uncompressedBytes">;

/** Compresses the chunks of one stream where that pays, and tries ever more seldom where it does not. */
export class ChunkCompressor {
  readonly #payingRatio: number;
  #skip = 0;
  #penalty = 1;

  /** @param payingRatio see {@link PAYING_RATIO}. */
  constructor(payingRatio: number) {
    this.#payingRatio = payingRatio;
  }

  /** The chunk compressed, or undefined where it had better go as it is. */
  compress(data: Uint8Array): ChunkContent | undefined {
    if (data.byteLength < MIN_BYTES) return undefined;
    if (this.#skip > 0) {
      this.#skip--;
      return undefined;
    }
    if (this.#penalty > 1 && isNoise(data)) return this.#notPaid();
    const compressed = deflateRawSync(data, DEFLATE_OPTIONS);
    if (compressed.byteLength * this.#payingRatio > data.byteLength) return this.#notPaid();
    this.#penalty = 1;
    return { data: compressed, compression: DEFLATE_RAW, uncompressedBytes: data.byteLength };
  }

  #notPaid(): undefined {
    this.#skip = this.#penalty;
    this.#penalty = Math.min(MAX_SKIPPED, 2 * this.#penalty);
    return undefined;
  }
}

/** Whether a sample of it does not become smaller; small chunks are never said to be noise. */
function isNoise(data: Uint8Array): boolean {
  const bytes = SAMPLE_PIECES * SAMPLE_PIECE_BYTES;
  if (data.byteLength < 4 * bytes) return false;
  const step = Math.floor((data.byteLength - SAMPLE_PIECE_BYTES) / (SAMPLE_PIECES - 1));
  const sample = Buffer.allocUnsafe(bytes);
  for (let piece = 0; piece < SAMPLE_PIECES; piece += 1) {
    sample.set(data.subarray(piece * step, piece * step + SAMPLE_PIECE_BYTES), piece * SAMPLE_PIECE_BYTES);
  }
  return deflateRawSync(sample, DEFLATE_OPTIONS).byteLength * LEAST_SAMPLE_RATIO > bytes;
}

/**
 * A chunk's content as it was before it was compressed.
 *
 * @param limit most bytes that a compressed chunk may become, whatever it says: no more is ever allocated.
 * @throws AppError `data_invalid` for an unknown compression, a size beyond the limit, and for bytes that are not what they say.
 */
export function chunkContent({ data, compression, uncompressedBytes }: ChunkContent, limit: number): Uint8Array {
  if (compression === "") return data;
  if (compression !== DEFLATE_RAW) {
    throw new AppError(
      "data_invalid",
      `A chunk's compression "${compression}" is not known. Known is: ${DEFLATE_RAW}.`,
    );
  }
  if (uncompressedBytes > limit) {
    throw new AppError(
      "data_invalid",
      `A compressed chunk says that it becomes ${uncompressedBytes} bytes; the limit is ${limit}. Send smaller chunks.`,
      { details: { limit, value: uncompressedBytes } },
    );
  }
  const content = inflated(data, uncompressedBytes);
  if (content.byteLength === uncompressedBytes) return content;
  throw new AppError(
    "data_invalid",
    `A compressed chunk became ${content.byteLength} bytes, but says ${uncompressedBytes}.`,
  );
}

function inflated(data: Uint8Array, bytes: number): Uint8Array {
  try {
    return inflateRawSync(data, { maxOutputLength: Math.max(1, bytes), chunkSize: Math.max(64, bytes + 1) });
  } catch (cause) {
    throw new AppError(
      "data_invalid",
      `A compressed chunk is damaged, or becomes more than the ${bytes} bytes it says.`,
      {
        cause,
      },
    );
  }
}
