/** A result's stream as whoever writes an answer of it needs it: the rows to iterate first, then what came beside them. */
import type { RecordBatch } from "apache-arrow";
import { jsonRowPieces } from "../data/batch-writers.ts";
import { fieldsOf, type FieldSpec } from "../data/field-types.ts";
import { BatchDecoder } from "../data/ipc.ts";
import { AppError, toAppError, toProblem } from "../errors.ts";
import type { StreamPart } from "./frames.ts";

/** What a JSON answer says before its rows. */
export interface AnswerHeading {
  readonly requestId: string;
  readonly jobName: string;
  readonly archetype: string;
  readonly provider: string;
}

/** See the file comment. */
export class AnswerStream {
  readonly fields: readonly FieldSpec[];
  readonly schemaBytes: Uint8Array;
  /** Complete once the batches have been read. */
  readonly attachments = new Map<string, { readonly mediaType: string; readonly data: Uint8Array }>();
  /** There once the batches have been read. */
  notes: Readonly<Record<string, unknown>> = {};
  rowCount = 0n;
  readonly #decoder: BatchDecoder;
  readonly #parts: AsyncIterator<StreamPart>;
  #ahead: StreamPart | undefined;

  private constructor(schemaBytes: Uint8Array, parts: AsyncIterator<StreamPart>, ahead: StreamPart) {
    this.schemaBytes = schemaBytes;
    this.#decoder = new BatchDecoder(schemaBytes);
    this.fields = fieldsOf(this.#decoder.schema);
    this.#parts = parts;
    this.#ahead = ahead;
  }

  /** Reads up to the part after the start. Fails as the parts do, and with `job_failed` where they end too soon. */
  static async open(parts: AsyncIterable<StreamPart>): Promise<AnswerStream> {
    const iterator = parts[Symbol.asyncIterator]();
    const start = await next(iterator);
    if (start.kind !== "start") throw new AppError("internal", "A stream did not begin with its start.");
    return new AnswerStream(start.start.arrowSchema, iterator, await next(iterator));
  }

  /** The batches as they came, in Arrow's stream format without the schema. */
  async *batchBytes(): AsyncGenerator<Uint8Array, void, undefined> {
    for (;;) {
      const part = this.#ahead ?? (await next(this.#parts));
      this.#ahead = undefined;
      if (part.kind === "batch") yield part.bytes;
      else if (part.kind === "attachment") this.attachments.set(part.name, part);
      else if (part.kind === "end") {
        this.notes = part.notes;
        this.rowCount = part.end.rows;
        return;
      }
    }
  }

  /** The batches, read; also fails with `data_invalid`. */
  async *batches(): AsyncGenerator<RecordBatch, void, undefined> {
    for await (const bytes of this.batchBytes()) yield this.#decoder.decode(bytes);
  }
}

async function next(parts: AsyncIterator<StreamPart>): Promise<StreamPart> {
  const result = await parts.next();
  if (result.done === true) throw new AppError("job_failed", "The stream broke off without an end.");
  return result.value;
}

/**
 * One party's JSON answer in pieces. Nothing comes before the first batch, the end, or a failure, which is thrown; a later failure
 * closes the answer with a status and a problem.
 *
 * @param statusOf the status that a later failure gives the answer; absent: `failed`.
 * @returns the later failure, where there was one: then the answer is valid JSON, but not whole.
 */
export async function* jsonAnswer(
  parts: AsyncIterable<StreamPart>,
  heading: AnswerHeading,
  statusOf: (error: AppError) => string = () => "failed",
): AsyncGenerator<string, AppError | undefined, undefined> {
  const stream = await AnswerStream.open(parts);
  const columns = stream.fields.map(({ name, type }) => ({ name, type: type.kind }));
  yield `${JSON.stringify({ ...heading, columns }).slice(0, -1)},"rows":[`;
  try {
    yield* jsonRowPieces(stream.fields, stream.batches());
  } catch (thrown) {
    const error = toAppError(thrown).withParty(heading.provider);
    yield `],"status":${JSON.stringify(statusOf(error))},"problem":${JSON.stringify(toProblem(error))}}`;
    return error;
  }
  yield `],"rowCount":${String(stream.rowCount)}`;
  for (const [name, value] of Object.entries(stream.notes)) {
    if (name !== "graph") yield `,${JSON.stringify(name)}:${JSON.stringify(value)}`;
  }
  yield* pictureMember(stream);
  const summary = stream.attachments.get("summary.json");
  if (summary !== undefined) yield `,"summary":${Buffer.from(summary.data).toString("utf8")}`;
  yield `,"status":"ok"}`;
  return undefined;
}

function* pictureMember(stream: AnswerStream): Generator<string> {
  const svg = stream.attachments.get("graph.svg");
  const png = stream.attachments.get("graph.png");
  if (svg === undefined && png === undefined) return;
  const described = stream.notes["graph"];
  const graph = {
    ...(typeof described === "object" ? described : {}),
    ...(svg === undefined ? {} : { svg: Buffer.from(svg.data).toString("utf8") }),
    ...(png === undefined ? {} : { png: Buffer.from(png.data).toString("base64") }),
  };
  yield `,"graph":${JSON.stringify(graph)}`;
}
