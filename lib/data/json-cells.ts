/** The cells of a column as JSON text, straight from the typed buffers: what `JSON.stringify(cellToJson(…))` gives, some ten times sooner. */
import { DataType, type Data, type RecordBatch } from "apache-arrow";
import { isoDate } from "./calendar.ts";
import { columnReader, type ColumnReader } from "./column-reader.ts";
import { cellToJson } from "./field-types.ts";

/** A cell's JSON text; `row` is from 0, and not checked. */
export type JsonCell = (row: number) => string;

/** Dates that are remembered as text; beyond, they are forgotten. */
const REMEMBERED_DATES = 4096;
/** Up to 15 digits a decimal and its double have the same shortest text. */
const MAX_EXACT = 1e15;
const MAX_FRACTION_DIGITS = 3;

/** Writes the column at this place. No such column: `column_unknown`; unsupported type: `type_mismatch`. */
export function jsonCells(batch: RecordBatch, place: number): JsonCell {
  const reader = columnReader(batch, place);
  const data = batch.data.children[place] as Data;
  const cell = presentCells(reader, data);
  if (data.nullCount === 0) return cell;
  const { nullBitmap, offset } = data;
  return (row) => (((nullBitmap[(offset + row) >> 3] ?? 0) >> ((offset + row) & 7)) & 1 ? cell(row) : "null");
}

function presentCells(reader: ColumnReader, data: Data): JsonCell {
  const { type } = reader;
  const general: JsonCell = (row) => JSON.stringify(cellToJson(type, reader.get(row)));
  switch (type.kind) {
    case "integer":
      return data.values instanceof BigInt64Array ? integerCells(data.values, general) : general;
    case "decimal":
      return decimalCells(data.values as Uint32Array, type.scale, general);
    case "date":
      return dateCells(data.values as Int32Array);
    case "text":
      return DataType.isDictionary(data.type) ? dictionaryCells(data.values as Int32Array, general) : general;
    case "float":
    case "boolean":
    case "timestamp":
      return general;
  }
}

/** Without a `bigint` for each, as far as a double holds it. */
function integerCells(values: BigInt64Array, general: JsonCell): JsonCell {
  const words = new Int32Array(values.buffer, values.byteOffset, 2 * values.length);
  return (row) => {
    const number = (words[2 * row + 1] ?? 0) * 2 ** 32 + ((words[2 * row] ?? 0) >>> 0);
    return Number.isSafeInteger(number) ? String(number) : general(row);
  };
}

function decimalCells(words: Uint32Array, scale: number, general: JsonCell): JsonCell {
  if (scale < 0 || scale > MAX_FRACTION_DIGITS) return general;
  const factor = 10 ** scale;
  const fractions = Array.from({ length: factor }, (_, rest) => {
    const digits = String(rest).padStart(scale, "0").replace(/0+$/, "");
    return digits === "" ? "" : `.${digits}`;
  });
  return (row) => {
    const unscaled = smallDecimal(words, 4 * row);
    if (unscaled === undefined) return general(row);
    const magnitude = Math.abs(unscaled);
    const rest = magnitude % factor;
    const text = `${String((magnitude - rest) / factor)}${fractions[rest] ?? ""}`;
    return unscaled < 0 ? `-${text}` : text;
  };
}

/** The unscaled value, if it has at most 15 digits. */
function smallDecimal(words: Uint32Array, at: number): number | undefined {
  const sign = words[at + 3] ?? 0;
  if ((sign !== 0 && sign !== 0xffffffff) || words[at + 2] !== sign) return undefined;
  const high = words[at + 1] ?? 0;
  const number = (sign === 0 ? high : high - 2 ** 32) * 2 ** 32 + (words[at] ?? 0);
  return Math.abs(number) < MAX_EXACT ? number : undefined;
}

function dateCells(days: Int32Array): JsonCell {
  const known = new Map<number, string>();
  return (row) => {
    const day = days[row] ?? 0;
    let text = known.get(day);
    if (text === undefined) {
      if (known.size >= REMEMBERED_DATES) known.clear();
      text = `"${isoDate(day)}"`;
      known.set(day, text);
    }
    return text;
  };
}

/** Each text is written once. */
function dictionaryCells(indices: Int32Array, general: JsonCell): JsonCell {
  const known: string[] = [];
  return (row) => (known[Number(indices[row] ?? 0)] ??= general(row));
}
