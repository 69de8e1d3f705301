/**
 * A stream as an HTTP answer: JSON, CSV, Arrow, or the picture alone (decision 9). Nothing is sent before the first batch, the
 * end or a failure, so that failures have a status. A later failure ends JSON with `"status":"failed"` and a problem, and
 * breaks the other formats off.
 */
import { csvPieces } from "../../lib/data/batch-writers.ts";
import { END_OF_STREAM } from "../../lib/data/ipc.ts";
import { AppError } from "../../lib/errors.ts";
import { ANSWER_FRAMES_MEDIA_TYPE, answerFrames } from "../../lib/rpc/answer-frames.ts";
import { AnswerStream, jsonAnswer, type AnswerHeading } from "../../lib/rpc/answer-stream.ts";
import { readParts, type StreamPart } from "../../lib/rpc/frames.ts";
import type { Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";

/** A format, by what it is sent as. */
export const ANSWER_MEDIA_TYPES = {
  json: "application/json",
  csv: "text/csv; charset=utf-8",
  arrow: "application/vnd.apache.arrow.stream",
  svg: "image/svg+xml",
  png: "image/png",
  frames: ANSWER_FRAMES_MEDIA_TYPE,
} as const;
export type AnswerFormat = keyof typeof ANSWER_MEDIA_TYPES;

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
  frames: AsyncIterable<Frame>,
  heading: AnswerHeading,
): AsyncGenerator<string | Uint8Array, void, undefined> {
  if (format === "frames") {
    yield* answerFrames(frames, heading);
    return;
  }
  const parts = readParts(frames, heading.provider);
  try {
    yield* piecesIn(format, parts, heading);
  } finally {
    await parts.return(undefined);
  }
}

function piecesIn(
  format: Exclude<AnswerFormat, "frames">,
  parts: AsyncIterable<StreamPart>,
  heading: AnswerHeading,
): AsyncGenerator<string | Uint8Array, unknown, undefined> {
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

async function* csvAnswer(parts: AsyncIterable<StreamPart>): AsyncGenerator<string | Uint8Array, void, undefined> {
  const stream = await AnswerStream.open(parts);
  yield* csvPieces(stream.fields, stream.batches());
}

async function* arrowAnswer(parts: AsyncIterable<StreamPart>): AsyncGenerator<Uint8Array, void, undefined> {
  const stream = await AnswerStream.open(parts);
  yield stream.schemaBytes;
  yield* stream.batchBytes();
  yield END_OF_STREAM;
}

async function* pictureAnswer(
  parts: AsyncIterable<StreamPart>,
  name: string,
): AsyncGenerator<Uint8Array, void, undefined> {
  const stream = await AnswerStream.open(parts);
  for await (const _batch of stream.batchBytes());
  const picture = stream.attachments.get(name);
  if (picture === undefined) {
    throw new AppError("bad_request", 'This answer has no picture: ask for one with "options": {"graph": true}.');
  }
  yield picture.data;
}
