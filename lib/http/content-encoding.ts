/**
 * Compression of HTTP answers (RFC 9110, section 8.4), by what the caller accepts: brotli at its fastest, else gzip at its fastest.
 * `docs/decisions/0023` has the numbers.
 */
import type { IncomingMessage } from "node:http";
import { pipeline, type Readable, type Transform } from "node:stream";
import { constants, createBrotliCompress, createBrotliDecompress, createGunzip, createGzip } from "node:zlib";

/** A content coding; `identity` is none. */
export type ContentEncoding = "br" | "gzip" | "identity";

/** What our own clients send as `accept-encoding`. */
export const ACCEPTED_ENCODINGS = "br, gzip";

const IN_ORDER_OF_CHOICE = ["br", "gzip"] as const;
/** Compressed bytes per piece of output. */
const PIECE_BYTES = 32 * 1024;

/** The coding to answer with, by an `Accept-Encoding` header (RFC 9110, section 12.5.3). Without one: none. */
export function chooseEncoding(accepted: string | string[] | undefined): ContentEncoding {
  const qualities = new Map(
    String(accepted ?? "")
      .split(",")
      .map(entryOf),
  );
  const quality = (coding: string): number => qualities.get(coding) ?? qualities.get("*") ?? 0;
  const best = IN_ORDER_OF_CHOICE.reduce((a, b) => (quality(b) > quality(a) ? b : a));
  // Unless it is named, no coding is acceptable to all, but less wanted than any that is named.
  return quality(best) > 0 && quality(best) >= (qualities.get("identity") ?? 0) ? best : "identity";
}

/** The headers that an answer in this coding has. */
export function encodingHeaders(encoding: ContentEncoding): Record<string, string> {
  return { vary: "accept-encoding", ...(encoding === "identity" ? {} : { "content-encoding": encoding }) };
}

/**
 * A body in this coding. What was written comes out at once, so that a reader of a slow answer has what there is. A failure of the
 * body breaks the result off, and leaving the result leaves the body.
 */
export function encodedBody(body: Readable, encoding: ContentEncoding): Readable {
  return encoding === "identity" ? body : through(body, compressor(encoding));
}

/** An answer's body as it was before its coding. Fails as the answer does, and for bytes that are not what its head says. */
export function decodedBody(answer: IncomingMessage): Readable {
  const encoding = answer.headers["content-encoding"];
  if (encoding === "br") return through(answer, createBrotliDecompress());
  return encoding === "gzip" ? through(answer, createGunzip()) : answer;
}

function compressor(encoding: "br" | "gzip"): Transform {
  if (encoding === "gzip") {
    return createGzip({ level: constants.Z_BEST_SPEED, flush: constants.Z_SYNC_FLUSH, chunkSize: PIECE_BYTES });
  }
  return createBrotliCompress({
    flush: constants.BROTLI_OPERATION_FLUSH,
    chunkSize: PIECE_BYTES,
    // The window bounds the memory; rows repeat within it.
    params: { [constants.BROTLI_PARAM_QUALITY]: 1, [constants.BROTLI_PARAM_LGWIN]: 18 },
  });
}

function through(body: Readable, transform: Transform): Readable {
  // A failure reaches whoever reads the result.
  return pipeline(body, transform, () => undefined);
}

function entryOf(entry: string): readonly [string, number] {
  const [coding = "", ...parameters] = entry.trim().toLowerCase().split(";");
  const quality = parameters.map((parameter) => /^\s*q=([\d.]+)/.exec(parameter)?.[1]).find(Boolean);
  return [coding.trim(), quality === undefined ? 1 : Number(quality)];
}
