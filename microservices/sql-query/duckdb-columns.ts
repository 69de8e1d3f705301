/**
 * DuckDB's vectors to Arrow columns, buffer by buffer: no value becomes a JavaScript object, but for text beyond twelve bytes, which
 * has a view made (https://duckdb.org/docs/stable/internals/vector.html). A vector's memory is DuckDB's, and gone with its chunk.
 */
import { createRequire } from "node:module";
import type { DuckDBDataChunk, DuckDBType } from "@duckdb/node-api";
import type Bindings from "@duckdb/node-bindings";
import { makeData, type Data, type DataType } from "apache-arrow";
import type { FieldType } from "../../lib/data/field-types.ts";
import { AppError } from "../../lib/errors.ts";

/** The kinds of DuckDB types that a result may have, by `DuckDBTypeId`. */
const INTEGERS: ReadonlySet<number> = new Set([2, 3, 4, 5, 6, 7, 8, 9, 16]);
const [BOOLEAN, HUGEINT, UBIGINT, FLOAT, DOUBLE, TIMESTAMP, DATE, VARCHAR, DECIMAL, TIMESTAMP_TZ, SQLNULL] = [
  1, 16, 9, 10, 11, 12, 13, 17, 19, 31, 36,
];

/** The type that a column of this DuckDB type has; undefined for one of nulls only. Throws `type_mismatch` that names a CAST. */
export function fieldTypeOfDuckdb(type: DuckDBType, column: string): FieldType | undefined {
  const id = type.typeId as number;
  if (INTEGERS.has(id)) return { kind: "integer" };
  if (id === FLOAT || id === DOUBLE) return { kind: "float" };
  if (id === BOOLEAN) return { kind: "boolean" };
  if (id === DATE) return { kind: "date" };
  if (id === TIMESTAMP || id === TIMESTAMP_TZ) return { kind: "timestamp" };
  if (id === VARCHAR) return { kind: "text" };
  if (id === SQLNULL) return undefined;
  if (id === DECIMAL) {
    const { width, scale } = type as unknown as { readonly width: number; readonly scale: number };
    return { kind: "decimal", precision: width, scale };
  }
  throw new AppError(
    "type_mismatch",
    `The column ${column} has the type ${String(type)}, which a result cannot have. Make it text in the query: ` +
      `CAST(… AS VARCHAR) AS ${column}.`,
    { details: { column, cast: "VARCHAR" } },
  );
}

/** Collects rows of chunks into one Arrow column at a time. */
export interface DuckdbColumn {
  /** Takes rows `from` (included) to `to` (excluded) of a chunk. */
  append(chunk: DuckDBDataChunk, from: number, to: number): void;
  /** Bytes that these rows take. */
  bytes(chunk: DuckDBDataChunk, from: number, to: number): number;
  /** What was collected, as `rows` rows; the column then starts anew. */
  take(rows: number): Data;
}

/** The column at this place of a result. */
export function duckdbColumn(place: number, duckdb: DuckDBType, arrow: DataType, name: string): DuckdbColumn {
  const id = duckdb.typeId as number;
  if (id === VARCHAR || id === SQLNULL) return new TextColumn(place, arrow, id === SQLNULL);
  return new FixedColumn(place, arrow, layoutOf(id, duckdb), name);
}

/** How the values of a type stand in a vector, and how they are written into Arrow's 32-bit words. */
interface Layout {
  /** Bytes of a value in the vector. */
  readonly bytes: number;
  /** 32-bit words of a value in Arrow; 0: one bit. */
  readonly words: number;
  /** Writes one value; false where it does not fit. Undefined: the bytes are the same. */
  readonly write?: (from: DataView, at: number, to: Int32Array, place: number) => boolean;
}

const INT64: Layout = { bytes: 8, words: 2 };

function layoutOf(id: number, type: DuckDBType): Layout {
  if (id === DECIMAL) return decimalLayout((type as unknown as { readonly width: number }).width);
  const layout = LAYOUTS.get(id);
  if (layout === undefined) throw new AppError("internal", `There is no way to read DuckDB's type ${String(type)}.`);
  return layout;
}

function decimalLayout(width: number): Layout {
  if (width <= 4)
    return { bytes: 2, words: 4, write: (from, at, to, place) => extend(from.getInt16(at, true), to, place, 4) };
  if (width <= 9)
    return { bytes: 4, words: 4, write: (from, at, to, place) => extend(from.getInt32(at, true), to, place, 4) };
  if (width > 18) return { bytes: 16, words: 4 };
  return {
    bytes: 8,
    words: 4,
    write: (from, at, to, place) => {
      const high = from.getInt32(at + 4, true);
      to[place] = from.getInt32(at, true);
      to[place + 1] = high;
      to[place + 2] = to[place + 3] = high >> 31;
      return true;
    },
  };
}

const LAYOUTS: ReadonlyMap<number, Layout> = new Map([
  [BOOLEAN, { bytes: 1, words: 0 }],
  [2, { bytes: 1, words: 2, write: (from, at, to, place) => extend(from.getInt8(at), to, place, 2) }],
  [3, { bytes: 2, words: 2, write: (from, at, to, place) => extend(from.getInt16(at, true), to, place, 2) }],
  [4, { bytes: 4, words: 2, write: (from, at, to, place) => extend(from.getInt32(at, true), to, place, 2) }],
  [5, INT64],
  [6, { bytes: 1, words: 2, write: (from, at, to, place) => widen(from.getUint8(at), to, place) }],
  [7, { bytes: 2, words: 2, write: (from, at, to, place) => widen(from.getUint16(at, true), to, place) }],
  [8, { bytes: 4, words: 2, write: (from, at, to, place) => widen(from.getUint32(at, true), to, place) }],
  [
    UBIGINT,
    { bytes: 8, words: 2, write: (from, at, to, place) => copyWord(from, at, to, place) && (to[place + 1] ?? 0) >= 0 },
  ],
  [
    HUGEINT,
    {
      bytes: 16,
      words: 2,
      // The upper half may only repeat the sign.
      write: (from, at, to, place) => {
        copyWord(from, at, to, place);
        const sign = (to[place + 1] ?? 0) >> 31;
        return from.getInt32(at + 8, true) === sign && from.getInt32(at + 12, true) === sign;
      },
    },
  ],
  [FLOAT, { bytes: 4, words: 2, write: (from, at, to, place) => writeDouble(from.getFloat32(at, true), to, place) }],
  [DOUBLE, INT64],
  // The infinities, which Arrow has no form for.
  [
    DATE,
    {
      bytes: 4,
      words: 1,
      write: (from, at, to, place) => Math.abs((to[place] = from.getInt32(at, true))) !== 0x7fffffff,
    },
  ],
  [TIMESTAMP, { bytes: 8, words: 2, write: copyFiniteTimestamp }],
  [TIMESTAMP_TZ, { bytes: 8, words: 2, write: copyFiniteTimestamp }],
] as [number, Layout][]);

function extend(value: number, to: Int32Array, place: number, words: number): boolean {
  to[place] = value;
  to.fill(value >> 31, place + 1, place + words);
  return true;
}

function widen(value: number, to: Int32Array, place: number): boolean {
  to[place] = value;
  to[place + 1] = 0;
  return true;
}

function copyWord(from: DataView, at: number, to: Int32Array, place: number): boolean {
  to[place] = from.getInt32(at, true);
  to[place + 1] = from.getInt32(at + 4, true);
  return true;
}

function copyFiniteTimestamp(from: DataView, at: number, to: Int32Array, place: number): boolean {
  copyWord(from, at, to, place);
  const [low = 0, high = 0] = [to[place], to[place + 1]];
  return !((low === -1 && high === 0x7fffffff) || (low === 1 && high === -0x80000000));
}

const DOUBLE_WORDS = new Int32Array(2);
const DOUBLE_VALUE = new Float64Array(DOUBLE_WORDS.buffer);

function writeDouble(value: number, to: Int32Array, place: number): boolean {
  DOUBLE_VALUE[0] = value;
  to.set(DOUBLE_WORDS, place);
  return true;
}

/** Which rows have a value, one byte each until the batch is complete. */
class Validity {
  #valid: Uint8Array = new Uint8Array(4096).fill(1);
  #nulls = 0;

  append(vector: Bindings.Vector, rows: number, from: number, to: number, at: number): Uint8Array | undefined {
    while (at + to - from > this.#valid.length) this.#valid = grown(this.#valid, 1);
    const bits = bindings().vector_get_validity(vector, 8 * Math.ceil(rows / 64)) as Uint8Array | null;
    if (!bits) return undefined;
    for (let row = from; row < to; row++) {
      if (((bits[row >> 3] ?? 0) >> (row & 7)) & 1) continue;
      this.#valid[at + row - from] = 0;
      this.#nulls++;
    }
    return this.#valid;
  }

  allNull(count: number, at: number): void {
    while (at + count > this.#valid.length) this.#valid = grown(this.#valid, 1);
    this.#valid.fill(0, at, at + count);
    this.#nulls += count;
  }

  take(rows: number): { nullCount: number; nullBitmap?: Uint8Array } {
    if (this.#nulls === 0) return { nullCount: 0 };
    const nullBitmap = packed(this.#valid, rows);
    const nullCount = this.#nulls;
    this.#nulls = 0;
    this.#valid.fill(1);
    return { nullCount, nullBitmap };
  }
}

function packed(bytes: Uint8Array, rows: number): Uint8Array {
  const bits = new Uint8Array(((rows + 63) >> 6) << 3);
  for (let row = 0; row < rows; row++) if (bytes[row]) bits[row >> 3] = (bits[row >> 3] ?? 0) | (1 << (row & 7));
  return bits;
}

function grown(bytes: Uint8Array, fill: number): Uint8Array {
  const larger = new Uint8Array(2 * bytes.length).fill(fill);
  larger.set(bytes);
  return larger;
}

class FixedColumn implements DuckdbColumn {
  readonly #place: number;
  readonly #type: DataType;
  readonly #layout: Layout;
  readonly #name: string;
  readonly #validity = new Validity();
  #words: Int32Array;
  #flags: Uint8Array = new Uint8Array(0);
  #rows = 0;

  constructor(place: number, type: DataType, layout: Layout, name: string) {
    this.#place = place;
    this.#type = type;
    this.#layout = layout;
    this.#name = name;
    this.#words = new Int32Array(4096 * layout.words);
  }

  append(chunk: DuckDBDataChunk, from: number, to: number): void {
    const { bytes, words, write } = this.#layout;
    const vector = vectorOf(chunk, this.#place);
    const data = bindings().vector_get_data(vector, chunk.rowCount * bytes);
    const valid = this.#validity.append(vector, chunk.rowCount, from, to, this.#rows);
    const end = this.#rows + to - from;
    this.#reach(end);
    if (words === 0) this.#flags.set(data.subarray(from, to), this.#rows);
    else if (write === undefined) {
      new Uint8Array(this.#words.buffer).set(data.subarray(from * bytes, to * bytes), this.#rows * bytes);
    } else {
      const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
      for (let row = from; row < to; row++) {
        const at = this.#rows + row - from;
        const isValue = valid === undefined || valid[at] === 1;
        if (isValue && !write(view, row * bytes, this.#words, at * words)) throw misfit(this.#name);
      }
    }
    if (valid !== undefined) this.#clearNulls(valid, end);
    this.#rows = end;
  }

  /** Where a row has no value, DuckDB may have left one that nobody asked for. */
  #clearNulls(valid: Uint8Array, end: number): void {
    const { words } = this.#layout;
    for (let at = this.#rows; at < end; at++) {
      if (valid[at] === 1) continue;
      if (words === 0) this.#flags[at] = 0;
      else this.#words.fill(0, at * words, (at + 1) * words);
    }
  }

  bytes(_chunk: DuckDBDataChunk, from: number, to: number): number {
    return (to - from) * Math.max(1, 4 * this.#layout.words);
  }

  take(rows: number): Data {
    const validity = this.#validity.take(rows);
    const { words } = this.#layout;
    const used = this.#words.slice(0, rows * words);
    const data = words === 0 ? packed(this.#flags, rows) : typed(used, this.#type);
    this.#rows = 0;
    return makeData({ type: this.#type, length: rows, ...validity, data } as never) as Data;
  }

  #reach(rows: number): void {
    const { words } = this.#layout;
    if (words === 0) {
      while (rows > this.#flags.length)
        this.#flags = grown(this.#flags.length === 0 ? new Uint8Array(2048) : this.#flags, 0);
    }
    while (rows * words > this.#words.length) {
      const larger = new Int32Array(2 * this.#words.length);
      larger.set(this.#words);
      this.#words = larger;
    }
  }
}

/** The words as the array that apache-arrow keeps this type in. */
function typed(words: Int32Array, type: DataType): unknown {
  const { ArrayType } = type as unknown as { readonly ArrayType: new (buffer: ArrayBufferLike) => unknown };
  return new ArrayType(words.buffer);
}

/** Text stands in a vector as its length, and twelve bytes that are the text or, if it is longer, four of it and a pointer. */
const TEXT_BYTES = 16;
const INLINED = 12;

class TextColumn implements DuckdbColumn {
  readonly #place: number;
  readonly #type: DataType;
  readonly #isNull: boolean;
  readonly #validity = new Validity();
  #offsets = new Int32Array(4097);
  #values: Uint8Array = new Uint8Array(64 * 1024);
  #rows = 0;

  constructor(place: number, type: DataType, isNull: boolean) {
    this.#place = place;
    this.#type = type;
    this.#isNull = isNull;
  }

  append(chunk: DuckDBDataChunk, from: number, to: number): void {
    while (this.#rows + to - from >= this.#offsets.length) {
      const larger = new Int32Array(2 * this.#offsets.length);
      larger.set(this.#offsets);
      this.#offsets = larger;
    }
    if (this.#isNull) {
      this.#validity.allNull(to - from, this.#rows);
      this.#rows += to - from;
      return;
    }
    const vector = vectorOf(chunk, this.#place);
    const data = bindings().vector_get_data(vector, chunk.rowCount * TEXT_BYTES);
    const valid = this.#validity.append(vector, chunk.rowCount, from, to, this.#rows);
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    let end = this.#offsets[this.#rows] ?? 0;
    // Texts that stand one after another in DuckDB's memory, as they nearly always do, are copied at once.
    let [run, runBytes, next] = [-1, 0, -1];
    const finishRun = (): void => {
      if (run >= 0) this.#copy(data, run, runBytes, end - runBytes);
      run = -1;
    };
    for (let row = from; row < to; row++) {
      const at = row * TEXT_BYTES;
      const isValue = valid === undefined || valid[this.#rows] === 1;
      const length = isValue ? view.getUint32(at, true) : 0;
      if (length > INLINED) {
        const pointer = view.getUint32(at + 8, true) + view.getUint32(at + 12, true) * 2 ** 32;
        if (run < 0 || pointer !== next) {
          finishRun();
          [run, runBytes] = [at + 8, 0];
        }
        runBytes += length;
        next = pointer + length;
      } else {
        finishRun();
        this.#copyInlined(data, at + 4, length, end);
      }
      end += length;
      this.#offsets[++this.#rows] = end;
    }
    finishRun();
  }

  bytes(chunk: DuckDBDataChunk, from: number, to: number): number {
    if (this.#isNull) return 4 * (to - from);
    const vector = vectorOf(chunk, this.#place);
    const data = bindings().vector_get_data(vector, chunk.rowCount * TEXT_BYTES);
    const bits = bindings().vector_get_validity(vector, 8 * Math.ceil(chunk.rowCount / 64)) as Uint8Array | null;
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    let bytes = 4 * (to - from);
    for (let row = from; row < to; row++) {
      if (!bits || ((bits[row >> 3] ?? 0) >> (row & 7)) & 1) bytes += view.getUint32(row * TEXT_BYTES, true);
    }
    return bytes;
  }

  take(rows: number): Data {
    const end = this.#offsets[rows] ?? 0;
    const valueOffsets = this.#offsets.slice(0, rows + 1);
    const data = this.#values.slice(0, end);
    const validity = this.#validity.take(rows);
    this.#offsets.fill(0);
    this.#rows = 0;
    return makeData({ type: this.#type, length: rows, ...validity, valueOffsets, data } as never) as Data;
  }

  /** Copies what the pointer at this place of the vector points to. */
  #copy(data: Uint8Array, pointer: number, length: number, end: number): void {
    while (end + length > this.#values.length) this.#values = grown(this.#values, 0);
    const buffer = data.buffer as ArrayBuffer;
    this.#values.set(bindings().get_data_from_pointer(buffer, data.byteOffset + pointer, length), end);
  }

  #copyInlined(data: Uint8Array, at: number, length: number, end: number): void {
    while (end + length > this.#values.length) this.#values = grown(this.#values, 0);
    const values = this.#values;
    for (let byte = 0; byte < length; byte++) values[end + byte] = data[at + byte] ?? 0;
  }
}

function misfit(column: string): AppError {
  return new AppError(
    "type_mismatch",
    `A value of the column ${column} is larger than a result can hold. Make it another type in the query: ` +
      `CAST(… AS DOUBLE) AS ${column}, or CAST(… AS VARCHAR) AS ${column}.`,
    { details: { column, cast: "DOUBLE" } },
  );
}

function vectorOf(chunk: DuckDBDataChunk, place: number): Bindings.Vector {
  return bindings().data_chunk_get_vector((chunk as unknown as { readonly chunk: Bindings.DataChunk }).chunk, place);
}

let loaded: typeof Bindings | undefined;

/** What the library itself is built on: its own classes make an object of each value. */
function bindings(): typeof Bindings {
  if (loaded === undefined) {
    const ofLibrary = createRequire(createRequire(import.meta.url).resolve("@duckdb/node-api"));
    loaded = ofLibrary("@duckdb/node-bindings") as typeof Bindings;
  }
  return loaded;
}
