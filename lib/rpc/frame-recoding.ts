/** The chunks of a stream as their receiver takes them: compressed where it understands that and it pays, else as they are. */
import { crc32 } from "node:zlib";
import { ChunkCompressor, chunkContent, type ChunkContent } from "./chunk-compression.ts";
import { CHUNK_BYTES } from "./frames.ts";
import type { Chunk, Frame } from "./gen/dynamos/v1/stream_pb.ts";

/**
 * Changes the frames of one stream, in order. End's checksum is over the chunks as they travel, so it changes with them; one that
 * did not fit stays wrong, so that the next who checks finds the fault.
 */
export class FrameRecoder {
  readonly #compressor: ChunkCompressor;
  #checksumIn = 0;
  #checksumOut = 0;
  #isChanged = false;

  /** @param payingRatio see `PAYING_RATIO`. */
  constructor(payingRatio: number) {
    this.#compressor = new ChunkCompressor(payingRatio);
  }

  /**
   * The frame to send instead.
   *
   * @param mayCompress whether the receiver understands compressed chunks.
   * @param checksum CRC-32 of the chunks up to this one as they came, where the caller has it (`StreamCheck`): it is not reckoned again.
   * @throws AppError `data_invalid` for a compressed chunk that cannot be read, where it must be.
   */
  recode(frame: Frame, mayCompress: boolean, checksum?: number): Frame {
    const { body } = frame;
    if (body.case === "chunk") {
      const content = this.#content(body.value, mayCompress);
      this.#count(body.value.data, content?.data, checksum);
      return content === undefined
        ? frame
        : { ...frame, body: { case: "chunk", value: { ...body.value, ...content } } };
    }
    if (body.case === "end" && this.#isChanged && body.value.checksum === this.#checksumIn) {
      return { ...frame, body: { case: "end", value: { ...body.value, checksum: this.#checksumOut } } };
    }
    return frame;
  }

  /** What takes the chunk's place, if anything. */
  #content(chunk: Chunk, mayCompress: boolean): ChunkContent | undefined {
    if (chunk.compression === "") return mayCompress ? this.#compressor.compress(chunk.data) : undefined;
    if (mayCompress) return undefined;
    return { data: chunkContent(chunk, CHUNK_BYTES), compression: "", uncompressedBytes: 0 };
  }

  #count(before: Uint8Array, after: Uint8Array | undefined, known: number | undefined): void {
    const checksumIn = known ?? crc32(before, this.#checksumIn);
    this.#isChanged ||= after !== undefined;
    this.#checksumOut = this.#isChanged ? crc32(after ?? before, this.#checksumOut) : checksumIn;
    this.#checksumIn = checksumIn;
  }
}
