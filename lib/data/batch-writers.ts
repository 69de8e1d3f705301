/**
 * Batches as the bodies of HTTP answers: CSV, JSON rows and Arrow, lazily in pieces. Each generator holds one batch and
 * one piece, asks for the next batch only when its reader asks for the next piece, and ends the source when it is ended.
 */
import { makeData, RecordBatch, Schema, Struct, type Data } from "apache-arrow";
import { AppError } from "../errors.ts";
import { columnReader, type ColumnReader } from "./column-reader.ts";
import { formatCell, toArrowSchema, type CellValue, type FieldSpec, type FieldType } from "./field-types.ts";
import { jsonCells, type JsonCell } from "./json-cells.ts";
import { encodeBatch, encodeSchema, END_OF_STREAM } from "./ipc.ts";

/** Characters after which a piece of text is handed on; a single row may be longer. */
const PIECE_CHARACTERS = 64 * 1024;

/**
 * CSV (RFC 4180): a header line, `,` between fields, CRLF after every line, UTF-8 without a byte-order mark. Null is the
 * empty field and empty text is `""`, so that they stay apart. Formulas for spreadsheets are not defused.
 * Only the columns in `fields` are written; one that a batch lacks fails with `data_invalid`.
 */
export async function* csvPieces(
  fields: readonly FieldSpec[],
  batches: AsyncIterable<RecordBatch>,
): AsyncGenerator<string, void, void> {
  let piece = `${fields.map((field) => csvText(field.name)).join(",")}\r\n`;
  for await (const batch of batches) {
    const readers = readersOf(fields, batch);
    for (let row = 0; row < batch.numRows; row++) {
      piece += `${readers.map((reader) => csvField(reader.type, reader.get(row))).join(",")}\r\n`;
      if (piece.length >= PIECE_CHARACTERS) {
        yield piece;
        piece = "";
      }
    }
  }
  if (piece !== "") yield piece;
}

/**
 * Rows as the elements of a JSON array, `{"column":value,…}`, joined by a comma and a line feed: the caller writes the
 * brackets. Values as `cellToJson` gives them. No rows: no pieces.
 * Only the columns in `fields` are written; one that a batch lacks fails with `data_invalid`.
 */
export async function* jsonRowPieces(
  fields: readonly FieldSpec[],
  batches: AsyncIterable<RecordBatch>,
): AsyncGenerator<string, void, void> {
  const keys = fields.map((field, index) => `${index === 0 ? "" : ","}${JSON.stringify(field.name)}:`);
  let separator = "";
  let piece = "";
  for await (const batch of batches) {
    const cells = placesOf(fields, batch).map((place) => jsonCells(batch, place));
    for (let row = 0; row < batch.numRows; row++) {
      piece += `${separator}{`;
      for (let index = 0; index < cells.length; index++) piece += keys[index] + (cells[index] as JsonCell)(row);
      piece += "}";
      separator = ",\n";
      if (piece.length >= PIECE_CHARACTERS) {
        yield piece;
        piece = "";
      }
    }
  }
  if (piece !== "") yield piece;
}

/**
 * An Arrow IPC stream: schema, one piece per batch, end. The schema is the first batch's, or without any batch that of
 * `fields`. Only the columns in `fields` are written; one that a batch lacks fails with `data_invalid`.
 */
export async function* arrowPieces(
  fields: readonly FieldSpec[],
  batches: AsyncIterable<RecordBatch>,
): AsyncGenerator<Uint8Array, void, void> {
  let schema: Schema | undefined;
  for await (const batch of batches) {
    const places = placesOf(fields, batch);
    if (schema === undefined) {
      const chosen = places.map((place) => batch.schema.fields[place]).filter((field) => field !== undefined);
      schema = new Schema(chosen, batch.schema.metadata);
      yield encodeSchema(schema);
    }
    yield encodeBatch(projected(batch, schema, places));
  }
  if (schema === undefined) yield encodeSchema(toArrowSchema(fields));
  yield END_OF_STREAM;
}

function projected(batch: RecordBatch, schema: Schema, places: readonly number[]): RecordBatch {
  const children = places.map((place) => batch.data.children[place] as Data);
  const type = new Struct(schema.fields);
  return new RecordBatch(schema, makeData({ type, length: batch.numRows, nullCount: 0, children }));
}

function readersOf(fields: readonly FieldSpec[], batch: RecordBatch): readonly ColumnReader[] {
  return placesOf(fields, batch).map((place) => columnReader(batch, place));
}

function placesOf(fields: readonly FieldSpec[], batch: RecordBatch): readonly number[] {
  const names = batch.schema.fields.map((field) => String(field.name));
  return fields.map((field) => {
    const place = names.indexOf(field.name);
    if (place >= 0) return place;
    throw new AppError("data_invalid", `A batch lacks the column "${field.name}". It has: ${names.join(", ")}.`, {
      details: { column: field.name, known: names },
    });
  });
}

function csvField(type: FieldType, value: CellValue): string {
  if (type.kind === "text" && value !== null) return csvText(value as string);
  return formatCell(type, value);
}

function csvText(text: string): string {
  return text === "" || /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
