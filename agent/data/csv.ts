/**
 * A reader of delimited text (RFC 4180) that refuses what it would have to guess.
 *
 * Wider than the RFC: any delimiter; a line ends with LF, CRLF, CR or CRCRLF (CRLF that was converted once more); a UTF-8
 * byte-order mark is skipped. As strict: a quote inside an unquoted field and text behind a closing quote are faults.
 * Places count physical lines and characters from 1, also inside quoted fields.
 */
import { isUtf8 } from "node:buffer";
import { createReadStream } from "node:fs";
import { AppError } from "../../lib/errors.ts";

/** One record. The reader overwrites it with the next: valid during the callback only. */
export interface CsvRecord {
  readonly fieldCount: number;
  /** At least `fieldCount` long; what stands behind is left over. */
  readonly texts: readonly string[];
  /** Whether the field stood in quotes: tells `""` (empty text) from nothing. */
  readonly quoted: readonly boolean[];
  /** Where each field begins. */
  readonly lines: readonly number[];
  readonly columns: readonly number[];
  /** Whether the record is an empty line. */
  readonly blank: boolean;
}

/** What the reader is told. */
export interface CsvOptions {
  /** One character that is neither a quote nor a line end. */
  readonly delimiter: string;
  /** A longer record is refused: most often a quote that was never closed. Default 1 Mi characters. */
  readonly maxRecordCharacters?: number;
  /** The name to give in places; default: the path. */
  readonly fileName?: string;
  readonly signal?: AbortSignal;
  /** Sees all bytes as they are read, for hashing and progress. */
  readonly onBytes?: (bytes: Buffer) => void;
}

/**
 * Reads a file and calls `onRecord` for each record, the header included; other work gets its turn every 64 KiB. Throws
 * `data_invalid` with file, line and column, `not_found` for a file that cannot be opened, or what `onRecord` throws.
 */
export async function readCsvFile(
  path: string,
  options: CsvOptions,
  onRecord: (record: CsvRecord) => void,
): Promise<void> {
  const parser = new CsvParser({ ...options, fileName: options.fileName ?? path }, onRecord);
  const stream = createReadStream(path, options.signal ? { signal: options.signal } : {});
  try {
    for await (const bytes of stream as AsyncIterable<Buffer>) {
      options.onBytes?.(bytes);
      parser.push(bytes);
    }
  } catch (error) {
    throw isOpenFailure(error)
      ? new AppError("not_found", `The data file ${path} cannot be read (${error.code}).`, {
          place: { file: path },
          cause: error,
        })
      : error;
  }
  parser.end();
}

/** The parser itself: bytes in by {@link push}, records out by callback. */
export class CsvParser {
  readonly #options: Required<Pick<CsvOptions, "delimiter" | "maxRecordCharacters">> & { fileName: string };
  readonly #onRecord: (record: CsvRecord) => void;
  readonly #delimiter: number;
  readonly #texts: string[] = [];
  readonly #quoted: boolean[] = [];
  readonly #lines: number[] = [];
  readonly #columns: number[] = [];
  /** Bytes of a character that is not complete yet. */
  #bytes: Buffer = Buffer.alloc(0);
  /** Text from the beginning of the current record. */
  #text = "";
  /** Physical line on which the current record begins. */
  #line = 1;
  #started = false;

  constructor(options: CsvOptions & { readonly fileName: string }, onRecord: (record: CsvRecord) => void) {
    const { delimiter, fileName, maxRecordCharacters = 1 << 20 } = options;
    if (delimiter.length !== 1 || '"\r\n'.includes(delimiter)) {
      throw new AppError(
        "configuration_invalid",
        `The delimiter ${JSON.stringify(delimiter)} cannot delimit fields: use one character that is neither a quote nor a line end.`,
      );
    }
    this.#options = { delimiter, fileName, maxRecordCharacters };
    this.#delimiter = delimiter.charCodeAt(0);
    this.#onRecord = onRecord;
  }

  /** Takes the next bytes. */
  push(bytes: Buffer): void {
    const all = this.#bytes.length === 0 ? bytes : Buffer.concat([this.#bytes, bytes]);
    if (!this.#started && all.length < 4) {
      this.#bytes = all;
      return;
    }
    const complete = all.length - incompleteTail(all);
    this.#bytes = Buffer.from(all.subarray(complete));
    this.#take(all.subarray(0, complete), false);
  }

  /** No more bytes: parses what is left. */
  end(): void {
    const rest = this.#bytes;
    this.#bytes = Buffer.alloc(0);
    this.#take(rest, true);
  }

  #take(bytes: Buffer, final: boolean): void {
    if (!this.#started) refuseOtherEncodings(bytes, this.#options.fileName);
    const valid = isUtf8(bytes) ? bytes.length : validPrefixLength(bytes);
    let text = bytes.toString("utf8", 0, valid);
    if (!this.#started && text.startsWith("\uFEFF")) text = text.slice(1);
    this.#started = true;
    this.#text += text;
    const nul = text.includes("\0") ? this.#text.indexOf("\0") : -1;
    if (nul >= 0) {
      throw this.#fault(
        "There is a NUL character: text files have none. Is it UTF-16? Save it as UTF-8.",
        ...this.#placeOf(nul),
      );
    }
    if (valid < bytes.length) {
      throw this.#fault(
        "Here is a byte that is not UTF-8. Is it Windows-1252 or Latin-1? Save the file as UTF-8.",
        ...this.#placeOf(this.#text.length),
      );
    }
    this.#parse(final);
  }

  #parse(final: boolean): void {
    const text = this.#text;
    let at = 0;
    while (at < text.length) {
      const next = this.#parseRecord(text, at, final);
      if (next < 0) break;
      at = next;
    }
    this.#text = at === 0 ? text : text.slice(at);
    if (this.#text.length > this.#options.maxRecordCharacters) {
      throw this.#fault(
        `The record that begins here has more than ${String(this.#options.maxRecordCharacters)} characters. Is a closing quote missing?`,
        this.#line,
        1,
      );
    }
  }

  /** Parses one record from `start`; returns where the next begins, or -1 when its end has not been read yet. */
  #parseRecord(text: string, start: number, final: boolean): number {
    let line = this.#line;
    let lineStart = start;
    let at = start;
    for (let field = 0; ; field++) {
      this.#lines[field] = line;
      this.#columns[field] = at - lineStart + 1;
      if (text.charCodeAt(at) === QUOTE) {
        const end = this.#parseQuoted(text, at, field, final);
        if (end < 0) return -1;
        for (let lineEnd = nextLineEnd(text, at, end); lineEnd > 0; lineEnd = nextLineEnd(text, lineStart, end)) {
          line++;
          lineStart = lineEnd;
        }
        at = end;
      } else {
        const end = this.#unquotedEnd(text, at);
        if (text.charCodeAt(end) === QUOTE) {
          throw this.#fault(
            "A quote stands inside a field that does not begin with one. Put the whole field in quotes and double the quotes in it.",
            line,
            end - lineStart + 1,
          );
        }
        this.#texts[field] = text.slice(at, end);
        this.#quoted[field] = false;
        at = end;
      }
      if (at >= text.length && !final) return -1;
      if (text.charCodeAt(at) === this.#delimiter) {
        at++;
        continue;
      }
      const next = at >= text.length ? at : lineEndAfter(text, at, final);
      if (next < 0) return -1;
      if (next === at && at < text.length) {
        throw this.#fault(
          `Behind a closing quote comes neither the delimiter ${JSON.stringify(this.#options.delimiter)} nor the end of the line.`,
          line,
          at - lineStart + 1,
        );
      }
      this.#emit(field + 1);
      this.#line = line + 1;
      return next;
    }
  }

  /** Parses a quoted field from its opening quote; returns the place behind the closing one, or -1 if it is not there yet. */
  #parseQuoted(text: string, start: number, field: number, final: boolean): number {
    let value = "";
    let from = start + 1;
    for (;;) {
      const quote = text.indexOf('"', from);
      if (quote < 0) {
        if (!final) return -1;
        throw this.#fault(
          "The quote that opens here is never closed.",
          this.#lines[field] ?? 0,
          this.#columns[field] ?? 0,
        );
      }
      if (quote + 1 >= text.length && !final) return -1;
      if (text.charCodeAt(quote + 1) !== QUOTE) {
        this.#texts[field] = value + text.slice(from, quote);
        this.#quoted[field] = true;
        return quote + 1;
      }
      value += text.slice(from, quote + 1);
      from = quote + 2;
    }
  }

  #unquotedEnd(text: string, start: number): number {
    const delimiter = this.#delimiter;
    let at = start;
    for (; at < text.length; at++) {
      const code = text.charCodeAt(at);
      if (code === delimiter || code === LF || code === CR || code === QUOTE) break;
    }
    return at;
  }

  #emit(fieldCount: number): void {
    this.#onRecord({
      fieldCount,
      texts: this.#texts,
      quoted: this.#quoted,
      lines: this.#lines,
      columns: this.#columns,
      blank: fieldCount === 1 && this.#texts[0] === "" && this.#quoted[0] === false,
    });
  }

  /** Line and column of an offset into the text that is not parsed yet. */
  #placeOf(offset: number): [line: number, column: number] {
    let line = this.#line;
    let lineStart = 0;
    for (let end = nextLineEnd(this.#text, 0, offset); end > 0; end = nextLineEnd(this.#text, lineStart, offset)) {
      line++;
      lineStart = end;
    }
    return [line, offset - lineStart + 1];
  }

  #fault(message: string, line: number, column: number): AppError {
    const file = this.#options.fileName;
    return dataFault(message, { file, line, column });
  }
}

/** A `data_invalid` with its place, which the message names too. Messages never carry cell values: they may be personal. */
export function dataFault(message: string, place: { file: string; line: number; column: number }): AppError {
  const where = `${place.file}, line ${String(place.line)}, column ${String(place.column)}`;
  return new AppError("data_invalid", `${where}: ${message}`, { place });
}

const QUOTE = 34;
const LF = 10;
const CR = 13;

/** Where the line end at `at` is over; `at` itself if there is none; -1 if that cannot be told before more is read. */
function lineEndAfter(text: string, at: number, final: boolean): number {
  const code = text.charCodeAt(at);
  if (code === LF) return at + 1;
  if (code !== CR) return at;
  if (at + 1 >= text.length) return final ? at + 1 : -1;
  if (text.charCodeAt(at + 1) === LF) return at + 2;
  if (text.charCodeAt(at + 1) !== CR) return at + 1;
  if (at + 2 >= text.length) return final ? at + 1 : -1;
  return text.charCodeAt(at + 2) === LF ? at + 3 : at + 1;
}

/** The place behind the first line end in [from, to), or 0 if there is none. */
function nextLineEnd(text: string, from: number, to: number): number {
  for (let at = from; at < to; at++) {
    const code = text.charCodeAt(at);
    if (code === LF || code === CR) return lineEndAfter(text, at, true);
  }
  return 0;
}

/** How many bytes at the end are the beginning of a character whose other bytes are not there yet. */
function incompleteTail(bytes: Buffer): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back] ?? 0;
    if (byte < 0x80) return 0;
    if (byte < 0xc0) continue;
    const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
    return length > back ? back : 0;
  }
  return 0;
}

/** The longest prefix that is UTF-8, by bisection: what is valid up to a character's end stays so. */
function validPrefixLength(bytes: Buffer): number {
  let [valid, invalid] = [0, bytes.length];
  while (invalid - valid > 1) {
    const middle = (valid + invalid) >>> 1;
    const prefix = bytes.subarray(0, middle);
    if (isUtf8(prefix.subarray(0, middle - incompleteTail(prefix)))) valid = middle;
    else invalid = middle;
  }
  const prefix = bytes.subarray(0, valid);
  return valid - incompleteTail(prefix);
}

function refuseOtherEncodings(bytes: Buffer, file: string): void {
  const mark = bytes.length >= 2 ? bytes.readUInt16BE(0) : 0;
  if (mark !== 0xfffe && mark !== 0xfeff) return;
  throw dataFault("The file's byte-order mark says UTF-16 (or UTF-32). Save it as UTF-8.", {
    file,
    line: 1,
    column: 1,
  });
}

function isOpenFailure(error: unknown): error is NodeJS.ErrnoException & { code: string } {
  return (
    error instanceof Error &&
    ["ENOENT", "EACCES", "EISDIR", "EPERM", "ENOTDIR"].includes(String((error as NodeJS.ErrnoException).code))
  );
}
