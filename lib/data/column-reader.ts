/** Values out of record batches, straight from the typed buffers (`Vector.get` is several times slower). */
import { DataType, TimeUnit, type Data, type Dictionary, type RecordBatch, type Timestamp } from "apache-arrow";
import { AppError } from "../errors.ts";
import { readDecimal } from "./decimal-words.ts";
import { fieldsOf, type CellValue, type FieldSpec, type FieldType } from "./field-types.ts";

/** Reads one column of one batch. It holds the batch, not a copy of it. */
export interface ColumnReader {
  readonly name: string;
  readonly type: FieldType;
  /** The value in this row (from 0); null where there is none. Rows outside the batch are not checked. */
  get(row: number): CellValue;
}

/** The reader of the column at this place. No such column: `column_unknown`; unsupported type: `type_mismatch`. */
export function columnReader(batch: RecordBatch, index: number): ColumnReader {
  const field = fieldsOf(batch.schema)[index];
  const data = batch.data.children[index];
  if (field === undefined || data === undefined) {
    throw new AppError("column_unknown", `There is no column at place ${index}: the batch has ${batch.numCols}.`);
  }
  return readerOf(field, data);
}

/** Readers of all columns, in order. */
export function columnReaders(batch: RecordBatch): readonly ColumnReader[] {
  const { children } = batch.data;
  return fieldsOf(batch.schema).map((field, index) => readerOf(field, children[index] as Data));
}

type Get = (row: number) => CellValue;

function readerOf(field: FieldSpec, data: Data): ColumnReader {
  const get = valueGetter(field.type, data);
  return { name: field.name, type: field.type, get: data.nullCount > 0 ? withNulls(data, get) : get };
}

function withNulls(data: Data, get: Get): Get {
  const { nullBitmap, offset } = data;
  return (row) => {
    const bit = offset + row;
    return ((nullBitmap[bit >> 3] ?? 0) >> (bit & 7)) & 1 ? get(row) : null;
  };
}

function valueGetter(type: FieldType, data: Data): Get {
  switch (type.kind) {
    case "integer":
      return integerGetter(data.values as BigInt64Array | Int32Array);
    case "decimal": {
      const words = bigWords(data.values as Uint32Array);
      return (row) => readDecimal(words, row);
    }
    case "float":
    case "date": {
      const values = data.values as Float64Array | Int32Array;
      return (row) => values[row] ?? 0;
    }
    case "boolean": {
      const values = data.values as Uint8Array;
      const { offset } = data;
      return (row) => (((values[(offset + row) >> 3] ?? 0) >> ((offset + row) & 7)) & 1) === 1;
    }
    case "text":
      return DataType.isDictionary(data.type) ? dictionaryGetter(data) : textGetter(data);
    case "timestamp":
      return timestampGetter(data);
  }
}

function integerGetter(values: BigInt64Array | Int32Array): Get {
  if (values instanceof BigInt64Array) return (row) => values[row] ?? 0n;
  return (row) => BigInt(values[row] ?? 0);
}

function timestampGetter(data: Data): Get {
  const values = data.values as BigInt64Array;
  const factor = MICROSECONDS_PER_UNIT.get((data.type as Timestamp).unit) ?? 1n;
  return factor === 1n ? (row) => values[row] ?? 0n : (row) => (values[row] ?? 0n) * factor;
}

const MICROSECONDS_PER_UNIT: ReadonlyMap<TimeUnit, bigint> = new Map([
  [TimeUnit.SECOND, 1_000_000n],
  [TimeUnit.MILLISECOND, 1000n],
  [TimeUnit.MICROSECOND, 1n],
]);

function textGetter(data: Data): Get {
  const values = data.values as Uint8Array;
  const bytes = Buffer.from(values.buffer, values.byteOffset, values.byteLength);
  const offsets = data.valueOffsets as Int32Array | BigInt64Array;
  if (offsets instanceof BigInt64Array) {
    return (row) => bytes.toString("utf8", Number(offsets[row] ?? 0n), Number(offsets[row + 1] ?? 0n));
  }
  return (row) => bytes.toString("utf8", offsets[row] ?? 0, offsets[row + 1] ?? 0);
}

/** Dictionary-encoded text is decoded once per distinct value, when it is first met. */
function dictionaryGetter(data: Data): Get {
  const indices = data.values as Int32Array;
  const chunks = (data.dictionary?.data ?? []) as readonly Data[];
  const dictionary = (data.type as Dictionary).dictionary as DataType;
  const readers = chunks.map((chunk) =>
    readerOf({ name: "", type: { kind: "text" }, nullable: true }, chunk.clone(dictionary)),
  );
  const decoded: CellValue[] = [];
  return (row) => {
    const index = Number(indices[row] ?? 0);
    return (decoded[index] ??= valueInChunks(chunks, readers, index));
  };
}

function valueInChunks(chunks: readonly Data[], readers: readonly ColumnReader[], index: number): CellValue {
  let rest = index;
  for (const [place, chunk] of chunks.entries()) {
    if (rest < chunk.length) return readers[place]?.get(rest) ?? null;
    rest -= chunk.length;
  }
  throw new AppError("data_invalid", `A dictionary has ${index - rest} entries, but entry ${index} is referred to.`);
}

/** Decimal words as pairs of 64 bits; a foreign buffer that is not aligned to eight bytes is copied. */
function bigWords(words: Uint32Array): BigInt64Array {
  const aligned = words.byteOffset % 8 === 0 ? words : words.slice();
  return new BigInt64Array(aligned.buffer, aligned.byteOffset, aligned.length >> 1);
}
