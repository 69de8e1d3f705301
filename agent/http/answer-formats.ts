/**
 * A stream as an HTTP answer: JSON, CSV, Arrow, or the picture alone (decision 9). Nothing is sent before the first batch, the
 * end or a failure, so that failures have a status. A later failure ends JSON with `"status":"failed"` and a problem, and
 * breaks the other formats off.
 */
import type { RecordBatch } from "apache-arrow";
import { csvPieces, jsonRowPieces } from "../../lib/data/batch-writers.ts";
import { fieldsOf, type FieldSpec } from "../../lib/data/field-types.ts";
import { BatchDecoder, END_OF_STREAM } from "../../lib/data/ipc.ts";
import { AppError, toProblem } from "../../lib/errors.ts";
import type { StreamPart } from "../../lib/rpc/frames.ts";

/** A format, by what it is sent as. */
export const ANSWER_MEDIA_TYPES = {
  json: "application/json",
  csv: "text/csv; charset=utf-8",
  arrow: "application/vnd.apache.arrow.stream",
  svg: "image/svg+xml",
  png: "image/png",
} as const;
export type AnswerFormat = keyof typeof ANSWER_MEDIA_TYPES;

/** What a JSON answer says before its rows. */
export interface AnswerHeading {
  readonly requestId: string;
  readonly jobName: string;
  readonly archetype: string;
  readonly provider: string;
}

/**
 * The format that an `Accept` header asks for; JSON where it asks for nothing in particular.
 *
 * @throws AppError `not_acceptable` that lists the known ones.
 */
export function chooseFormat(accept: string | undefined): AnswerFormat {
  for (const type of acceptedTypes(accept ?? "*/*")) {
    if (type === "*/*" || type === "application/*" || type === "") return "json";
    if (type === "image/*") return "svg";
    if (type === "text/*") return "csv";
    for (const [format, mediaType] of Object.entries(ANSWER_MEDIA_TYPES)) {
      if (mediaType.split(";")[0] === type) return format as AnswerFormat;
    }
  }
  throw new AppError("not_acceptable", "None of the formats asked for can be made.", {
    details: { known: Object.values(ANSWER_MEDIA_TYPES) },
  });
}

/**
 * The pieces of an answer, made as they are asked for; the first comes once the status is known. Leaving them leaves the
 * stream, too.
 */
export async function* answerPieces(
  format: AnswerFormat,
  parts: AsyncGenerator<StreamPart>,
  heading: AnswerHeading,
): AsyncGenerator<string | Uint8Array, void, undefined> {
  try {
    yield* piecesIn(format, parts, heading);
  } finally {
    await parts.return(undefined);
  }
}

function piecesIn(
  format: AnswerFormat,
  parts: AsyncIterable<StreamPart>,
  heading: AnswerHeading,
): AsyncGenerator<string | Uint8Array, void, undefined> {
  switch (format) {
    case "json":
      return jsonAnswer(parts, heading);
    case "csv":
      return csvAnswer(parts);
    case "arrow":
      return arrowAnswer(parts);
    case "svg":
    case "png":
      return pictureAnswer(parts, `graph.${format}`);
  }
}

/** Media types of an Accept header (RFC 9110, section 12.5.1), the most wanted first. */
function acceptedTypes(accept: string): readonly string[] {
  return accept
    .split(",")
    .map((entry) => {
      const [type = "", ...parameters] = entry.trim().toLowerCase().split(";");
      const quality = parameters.map((parameter) => /^\s*q=([\d.]+)/.exec(parameter)?.[1]).find(Boolean);
      return { type: type.trim(), quality: quality === undefined ? 1 : Number(quality) };
    })
    .filter(({ quality }) => quality > 0)
    .sort((left, right) => right.quality - left.quality)
    .map(({ type }) => type);
}

/** A stream taken apart: the rows to iterate first, then what came beside them. */
class OpenedStream {
  readonly fields: readonly FieldSpec[];
  readonly schemaBytes: Uint8Array;
  readonly attachments = new Map<string, { readonly mediaType: string; readonly data: Uint8Array }>();
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

  /** Reads up to the part after the start. */
  static async open(parts: AsyncIterable<StreamPart>): Promise<OpenedStream> {
    const iterator = parts[Symbol.asyncIterator]();
    const start = await next(iterator);
    if (start.kind !== "start") throw new AppError("internal", "A stream did not begin with its start.");
    return new OpenedStream(start.start.arrowSchema, iterator, await next(iterator));
  }

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

  async *batches(): AsyncGenerator<RecordBatch, void, undefined> {
    for await (const bytes of this.batchBytes()) yield this.#decoder.decode(bytes);
  }
}

async function next(parts: AsyncIterator<StreamPart>): Promise<StreamPart> {
  const result = await parts.next();
  if (result.done === true) throw new AppError("job_failed", "The stream broke off without an end.");
  return result.value;
}

async function* jsonAnswer(
  parts: AsyncIterable<StreamPart>,
  heading: AnswerHeading,
): AsyncGenerator<string, void, undefined> {
  const stream = await OpenedStream.open(parts);
  const columns = stream.fields.map(({ name, type }) => ({ name, type: type.kind }));
  yield `${JSON.stringify({ ...heading, columns }).slice(0, -1)},"rows":[`;
  try {
    yield* jsonRowPieces(stream.fields, stream.batches());
  } catch (error) {
    const known = error instanceof AppError ? error.withParty(heading.provider) : error;
    yield `],"status":"failed","problem":${JSON.stringify(toProblem(known))}}`;
    return;
  }
  yield `],"rowCount":${String(stream.rowCount)}`;
  for (const [name, value] of Object.entries(stream.notes)) {
    if (name !== "graph") yield `,${JSON.stringify(name)}:${JSON.stringify(value)}`;
  }
  yield* pictureMember(stream);
  const summary = stream.attachments.get("summary.json");
  if (summary !== undefined) yield `,"summary":${Buffer.from(summary.data).toString("utf8")}`;
  yield `,"status":"ok"}`;
}

function* pictureMember(stream: OpenedStream): Generator<string> {
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

async function* csvAnswer(parts: AsyncIterable<StreamPart>): AsyncGenerator<string | Uint8Array, void, undefined> {
  const stream = await OpenedStream.open(parts);
  yield* csvPieces(stream.fields, stream.batches());
}

async function* arrowAnswer(parts: AsyncIterable<StreamPart>): AsyncGenerator<Uint8Array, void, undefined> {
  const stream = await OpenedStream.open(parts);
  yield stream.schemaBytes;
  yield* stream.batchBytes();
  yield END_OF_STREAM;
}

async function* pictureAnswer(
  parts: AsyncIterable<StreamPart>,
  name: string,
): AsyncGenerator<Uint8Array, void, undefined> {
  const stream = await OpenedStream.open(parts);
  for await (const _batch of stream.batchBytes());
  const picture = stream.attachments.get(name);
  if (picture === undefined) {
    throw new AppError("bad_request", 'This answer has no picture: ask for one with "options": {"graph": true}.');
  }
  yield picture.data;
}
