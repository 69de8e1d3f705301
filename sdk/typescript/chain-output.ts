/** What a handler yields, as the frames of one stream. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { AppError } from "../../lib/errors.ts";
import type { AttachmentContent, FrameWriter } from "../../lib/rpc/frames.ts";
import type { Frame, StartSchema } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { batchFrames, schemaBytes, unchangedBatchFrames } from "../../lib/rpc/record-batches.ts";
import type { ChainInput } from "./chain-input.ts";
import type { Notes, Output } from "./handler.ts";

/** What goes out besides the handler's outputs. */
export interface OutputSurroundings {
  readonly writer: FrameWriter;
  /** The first frame, but for the schema. */
  readonly start: MessageInitShape<typeof StartSchema>;
  readonly inputs: readonly ChainInput[];
  /** Attachments that came in and wait to go on; taken from here. */
  readonly attachments: AttachmentContent[];
}

/** The frames of a whole stream, up to End. Throws what the handler and the inputs throw; `internal` for a wrong order. */
export async function* outputFrames(outputs: AsyncIterable<Output>, around: OutputSurroundings): AsyncGenerator<Frame> {
  const { writer, inputs, attachments } = around;
  let isStarted = false;
  let notes: Notes = {};
  for await (const output of outputs) {
    if ("schema" in output === isStarted) {
      throw new AppError("internal", "A handler yields its schema first, and once.");
    }
    if ("schema" in output) {
      yield writer.start({ ...around.start, arrowSchema: schemaBytes(output.schema) });
      isStarted = true;
    } else if ("batch" in output) {
      yield* output.isUnchanged === true
        ? unchangedBatchFrames(writer, output.batch)
        : batchFrames(writer, output.batch);
    } else if ("attachment" in output) yield* writer.attachment(output.attachment);
    else notes = { ...notes, ...output.notes };
    yield* passedOn(writer, attachments);
  }
  if (!isStarted) throw new AppError("internal", "The handler ended without a schema.");
  for (const input of inputs) await input.drain();
  yield* passedOn(writer, attachments);
  const [only, ...others] = inputs;
  const inherited = only !== undefined && others.length === 0 ? await only.notes() : {};
  yield writer.end({ ...inherited, ...notes });
}

function* passedOn(writer: FrameWriter, attachments: AttachmentContent[]): Generator<Frame> {
  for (let next = attachments.shift(); next !== undefined; next = attachments.shift()) yield* writer.attachment(next);
}
