/** Streams of Arrow record batches as frames, and back; `frames.ts` has the part below Arrow. */
import type { RecordBatch, Schema } from "apache-arrow";
import { BatchDecoder, bytesOfUnchanged, encodeBatch, encodeSchema } from "../data/ipc.ts";
import { AppError } from "../errors.ts";
import {
  readParts,
  type AttachmentContent,
  type FrameReaderOptions,
  type FrameWriter,
  type StreamIdentity,
  type StreamPart,
} from "./frames.ts";
import type { Frame, Start } from "./gen/dynamos/v1/stream_pb.ts";

/** What a stream consists of, with its rows decoded. */
export type RecordBatchPart =
  | {
      readonly kind: "start";
      readonly start: Start;
      readonly identity: StreamIdentity;
      /** Absent where rows do not flow yet. */
      readonly schema: Schema | undefined;
    }
  | { readonly kind: "batch"; readonly batch: RecordBatch }
  | ({ readonly kind: "attachment" } & AttachmentContent)
  | Extract<StreamPart, { kind: "end" }>;

/**
 * Reads a whole stream of record batches, one at a time.
 *
 * @param provider who to name when the stream breaks off before its first frame.
 * @throws AppError see `readParts`; also `data_invalid` for malformed Arrow bytes and `job_failed` when rows are missing.
 */
export async function* readRecordBatches(
  frames: AsyncIterable<Frame>,
  provider: string,
  options: FrameReaderOptions = {},
): AsyncGenerator<RecordBatchPart> {
  let decoder: BatchDecoder | undefined;
  let rows = 0n;
  for await (const part of readParts(frames, provider, options)) {
    switch (part.kind) {
      case "start": {
        const bytes = part.start.arrowSchema;
        decoder = bytes.byteLength === 0 ? undefined : new BatchDecoder(bytes);
        yield { ...part, schema: decoder?.schema };
        break;
      }
      case "batch": {
        if (decoder === undefined) throw new AppError("data_invalid", "A batch came in a stream that has no schema.");
        const batch = decoder.decode(aligned(part.bytes));
        rows += BigInt(batch.numRows);
        yield { kind: "batch", batch };
        break;
      }
      case "attachment":
        yield part;
        break;
      case "end":
        if (part.end.rows !== rows) {
          throw new AppError(
            "job_failed",
            `The stream of ${provider} is not whole: ${part.end.rows} rows sent, ${rows} came.`,
          );
        }
        yield part;
        break;
    }
  }
}

/** The frames of one batch. */
export function batchFrames(writer: FrameWriter, batch: RecordBatch): Iterable<Frame> {
  return writer.batch(encodeBatch(batch), batch.numRows);
}

/** The frames of a batch that nobody has changed since it was read: of the bytes that it came in, compressed where they came so. */
export function unchangedBatchFrames(writer: FrameWriter, batch: RecordBatch): Iterable<Frame> {
  return writer.unchangedBatch(bytesOfUnchanged(batch), batch.numRows);
}

/** The bytes of a schema for `Start`. */
export function schemaBytes(schema: Schema): Uint8Array {
  return encodeSchema(schema);
}

/** Arrow buffers want 8-byte alignment; a view into a network message may begin anywhere. */
function aligned(bytes: Uint8Array): Uint8Array {
  return bytes.byteOffset % 8 === 0 ? bytes : new Uint8Array(bytes);
}
