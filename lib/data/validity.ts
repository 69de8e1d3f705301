/** Bitmaps of columns under construction: which rows have a value, and the values of booleans. */
import { AppError } from "../errors.ts";
import type { FieldSpec } from "./field-types.ts";

/** Which rows have a value. Costs nothing until the first null. */
export class Validity {
  #bits: Uint8Array | undefined;

  /** Fails with `type_mismatch` where the field may not be null. */
  setNull(row: number, field: FieldSpec): void {
    if (!field.nullable) {
      throw new AppError("type_mismatch", `Column "${field.name}" may not be null, but a row has no value for it.`, {
        details: { column: field.name },
      });
    }
    this.#bits ??= new Uint8Array(bitmapBytes(row + 1)).fill(255);
    this.#reach(row);
    setBit(this.#bits, row, false);
  }

  /** The row has a value. */
  setValid(row: number): void {
    if (this.#bits === undefined) return;
    this.#reach(row);
    setBit(this.#bits, row, true);
  }

  /** Bytes that `rows` rows take. */
  bytes(rows: number): number {
    return this.#bits === undefined ? 0 : bitmapBytes(rows);
  }

  /** The first `rows` rows as `makeData` wants them; starts anew then. */
  take(rows: number): { nullCount: number; nullBitmap?: Uint8Array } {
    const bits = this.#bits;
    this.#bits = undefined;
    if (bits === undefined) return { nullCount: 0 };
    let valid = 0;
    for (let row = 0; row < rows; row++) valid += ((bits[row >> 3] ?? 0) >> (row & 7)) & 1;
    return valid === rows
      ? { nullCount: 0 }
      : { nullCount: rows - valid, nullBitmap: bits.subarray(0, bitmapBytes(rows)) };
  }

  #reach(row: number): void {
    if (this.#bits !== undefined && row >> 3 >= this.#bits.length) {
      this.#bits = enlarged(this.#bits, Math.max(2 * this.#bits.length, bitmapBytes(row + 1)));
    }
  }
}

/** Bytes of a bitmap, padded to eight as Arrow writes it. */
export function bitmapBytes(rows: number): number {
  return ((rows + 63) >> 6) << 3;
}

/** A longer copy, with zeros at its end. */
export function enlarged(bytes: Uint8Array, length: number): Uint8Array {
  const larger = new Uint8Array(length);
  larger.set(bytes);
  return larger;
}

/** Sets one bit, the first being the lowest. */
export function setBit(bits: Uint8Array, index: number, value: boolean): void {
  const byte = index >> 3;
  const mask = 1 << (index & 7);
  bits[byte] = value ? (bits[byte] ?? 0) | mask : (bits[byte] ?? 0) & ~mask;
}
