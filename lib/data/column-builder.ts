/** One growing column per type, for {@link file://./batch-builder.ts}. */
import { makeData, type Data, type DataType } from "apache-arrow";
import { AppError } from "../errors.ts";
import { fitsPrecision, writeDecimal } from "./decimal-words.ts";
import { toArrowSchema, type CellValue, type FieldSpec } from "./field-types.ts";
import { bitmapBytes, enlarged, setBit, Validity } from "./validity.ts";

/** A column under construction. Rows are written in order; writing a row again replaces it. */
export interface ColumnBuilder {
  /** Writes one row. `row` is at most the number of rows written before. */
  set(row: number, value: CellValue): void;
  /** Bytes that `rows` rows take. */
  bytes(rows: number): number;
  /** The first `rows` rows; the builder then starts anew with buffers of its own. */
  take(rows: number): Data;
}

/** A builder for this field; `capacity` is a number of rows. */
export function columnBuilder(field: FieldSpec, capacity: number): ColumnBuilder {
  const type = toArrowSchema([field]).fields[0]?.type as DataType;
  switch (field.type.kind) {
    case "integer":
    case "timestamp":
      return new FixedColumn(field, type, capacity, (rows) => new BigInt64Array(rows), 1, writeInt64);
    case "decimal":
      return new FixedColumn(field, type, capacity, (rows) => new BigInt64Array(2 * rows), 2, writeCheckedDecimal);
    case "float":
      return new FixedColumn(field, type, capacity, (rows) => new Float64Array(rows), 1, writeFloat);
    case "date":
      return new FixedColumn(field, type, capacity, (rows) => new Int32Array(rows), 1, writeDays);
    case "boolean":
      return new BooleanColumn(field, type, capacity);
    case "text":
      return new TextColumn(field, type, capacity);
  }
}

type FixedArray = BigInt64Array | Float64Array | Int32Array;

/** Writes a checked value; false when it does not fit the field. */
type WriteValue<A> = (array: A, row: number, value: CellValue, field: FieldSpec) => boolean;

const writeInt64: WriteValue<BigInt64Array> = (array, row, value) => {
  if (typeof value !== "bigint") return false;
  array[row] = value;
  // The array keeps the low 64 bits, so reading back shows whether the value had more.
  return array[row] === value;
};

const writeCheckedDecimal: WriteValue<BigInt64Array> = (array, row, value, field) => {
  if (typeof value !== "bigint" || field.type.kind !== "decimal") return false;
  if (!fitsPrecision(value, field.type.precision)) return false;
  writeDecimal(array, row, value);
  return true;
};

const writeFloat: WriteValue<Float64Array> = (array, row, value) => {
  if (typeof value !== "number") return false;
  array[row] = value;
  return true;
};

const writeDays: WriteValue<Int32Array> = (array, row, value) => {
  if (typeof value !== "number") return false;
  array[row] = value;
  return array[row] === value;
};

/** Values of a fixed number of bytes. */
class FixedColumn<A extends FixedArray> implements ColumnBuilder {
  readonly #field: FieldSpec;
  readonly #type: DataType;
  readonly #allocate: (rows: number) => A;
  readonly #entriesPerRow: number;
  readonly #write: WriteValue<A>;
  #capacity: number;
  #values: A;
  #validity: Validity;

  constructor(
    field: FieldSpec,
    type: DataType,
    capacity: number,
    allocate: (rows: number) => A,
    entriesPerRow: number,
    write: WriteValue<A>,
  ) {
    this.#field = field;
    this.#type = type;
    this.#capacity = Math.max(8, capacity);
    this.#allocate = allocate;
    this.#entriesPerRow = entriesPerRow;
    this.#write = write;
    this.#values = allocate(this.#capacity);
    this.#validity = new Validity();
  }

  set(row: number, value: CellValue): void {
    if (row >= this.#capacity) this.#grow();
    if (value === null) {
      this.#validity.setNull(row, this.#field);
      const zero = this.#values instanceof BigInt64Array ? 0n : 0;
      this.#values.fill(zero as never, row * this.#entriesPerRow, (row + 1) * this.#entriesPerRow);
      return;
    }
    if (!this.#write(this.#values, row, value, this.#field)) throw misfit(this.#field);
    this.#validity.setValid(row);
  }

  bytes(rows: number): number {
    return rows * this.#entriesPerRow * this.#values.BYTES_PER_ELEMENT + this.#validity.bytes(rows);
  }

  take(rows: number): Data {
    const values = this.#values.subarray(0, rows * this.#entriesPerRow);
    // apache-arrow keeps decimals as 32-bit words.
    const data = this.#entriesPerRow === 2 ? new Uint32Array(values.buffer, 0, 4 * rows) : values;
    const result = makeData({ type: this.#type, length: rows, ...this.#validity.take(rows), data } as never) as Data;
    this.#values = this.#allocate(this.#capacity);
    return result;
  }

  #grow(): void {
    this.#capacity *= 2;
    const larger = this.#allocate(this.#capacity);
    larger.set(this.#values as never);
    this.#values = larger;
  }
}

/** Values of one bit, the first in the lowest. */
class BooleanColumn implements ColumnBuilder {
  readonly #field: FieldSpec;
  readonly #type: DataType;
  #values: Uint8Array;
  #validity = new Validity();

  constructor(field: FieldSpec, type: DataType, capacity: number) {
    this.#field = field;
    this.#type = type;
    this.#values = new Uint8Array(Math.max(8, bitmapBytes(capacity)));
  }

  set(row: number, value: CellValue): void {
    if (value !== null && typeof value !== "boolean") throw misfit(this.#field);
    if (row >> 3 >= this.#values.length) this.#values = enlarged(this.#values, 2 * this.#values.length);
    if (value === null) this.#validity.setNull(row, this.#field);
    else this.#validity.setValid(row);
    setBit(this.#values, row, value === true);
  }

  bytes(rows: number): number {
    return bitmapBytes(rows) + this.#validity.bytes(rows);
  }

  take(rows: number): Data {
    const data = this.#values.subarray(0, bitmapBytes(rows));
    const result = makeData({ type: this.#type, length: rows, ...this.#validity.take(rows), data } as never) as Data;
    this.#values = new Uint8Array(this.#values.length);
    return result;
  }
}

/** UTF-8 text with 32-bit offsets. Unpaired surrogates, which UTF-8 cannot hold, become U+FFFD. */
export class TextColumn implements ColumnBuilder {
  readonly #field: FieldSpec;
  readonly #type: DataType;
  #offsets: Int32Array;
  #values: Buffer;
  #validity = new Validity();

  constructor(field: FieldSpec, type: DataType, capacity: number) {
    this.#field = field;
    this.#type = type;
    this.#offsets = new Int32Array(Math.max(8, capacity) + 1);
    this.#values = Buffer.alloc(16 * Math.max(8, capacity));
  }

  set(row: number, value: CellValue): void {
    if (value !== null && typeof value !== "string") throw misfit(this.#field);
    if (row + 1 >= this.#offsets.length) this.#growOffsets();
    const start = this.#offsets[row] ?? 0;
    if (value === null) {
      this.#validity.setNull(row, this.#field);
      this.#offsets[row + 1] = start;
      return;
    }
    this.#validity.setValid(row);
    // UTF-8 takes at most three bytes per UTF-16 unit; measuring exactly is only worth it for long text.
    const room = value.length <= 1024 ? 3 * value.length : Buffer.byteLength(value, "utf8");
    if (start + room > this.#values.length) this.#growValues(start + room);
    this.#offsets[row + 1] = start + this.#values.write(value, start, "utf8");
  }

  bytes(rows: number): number {
    return (this.#offsets[rows] ?? 0) + 4 * (rows + 1) + this.#validity.bytes(rows);
  }

  take(rows: number): Data {
    const end = this.#offsets[rows] ?? 0;
    const valueOffsets = this.#offsets.subarray(0, rows + 1);
    // Copied, since the buffer may be far larger than the text and would live as long as the batch.
    const data = new Uint8Array(this.#values.subarray(0, end));
    const validity = this.#validity.take(rows);
    this.#offsets = new Int32Array(this.#offsets.length);
    return makeData({ type: this.#type, length: rows, ...validity, valueOffsets, data } as never) as Data;
  }

  #growOffsets(): void {
    const larger = new Int32Array(2 * this.#offsets.length);
    larger.set(this.#offsets);
    this.#offsets = larger;
  }

  #growValues(needed: number): void {
    if (needed > MAX_TEXT_BYTES) {
      throw new AppError(
        "batch_too_large",
        `The text of column "${this.#field.name}" passes ${MAX_TEXT_BYTES} bytes in one batch. Build smaller batches.`,
        { details: { column: this.#field.name, limit: MAX_TEXT_BYTES } },
      );
    }
    const larger = Buffer.alloc(Math.min(MAX_TEXT_BYTES, Math.max(needed, 2 * this.#values.length)));
    this.#values.copy(larger);
    this.#values = larger;
  }
}

/** Text of one column and batch; 32-bit offsets would allow twice as much. */
const MAX_TEXT_BYTES = 1024 * 1024 * 1024;

/** A value that does not fit its field. */
export function misfit(field: FieldSpec): AppError {
  const { type } = field;
  const wanted = type.kind === "decimal" ? `decimal(${type.precision}, ${type.scale})` : type.kind;
  return new AppError("type_mismatch", `A value of column "${field.name}" does not fit its type ${wanted}.`, {
    details: { column: field.name },
  });
}
