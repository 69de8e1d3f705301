/**
 * Text columns in Arrow's dictionary encoding: each batch has its own dictionary of the texts in it, and four bytes per row.
 * https://arrow.apache.org/docs/format/Columnar.html#dictionary-encoded-layout
 *
 * A dictionary per batch keeps batches independent of each other, and bounds it by the batch. Where texts hardly repeat, they are no
 * longer looked up: every row then brings its own entry, which costs four bytes more than plain text, and no time.
 */
import { DataType, Dictionary, Int32, makeData, Utf8, Vector, type Data, type Int } from "apache-arrow";
import { columnBuilder, misfit, TextColumn, type ColumnBuilder } from "./column-builder.ts";
import type { CellValue, FieldSpec } from "./field-types.ts";
import { Validity } from "./validity.ts";

/** Fewer rows are sent plain: a dictionary costs some 300 bytes beside its texts. */
const MIN_ROWS = 64;
/** A dictionary pays when its texts appear so many times on average. */
const MIN_REPEATS = 2;
/** With more than so many, or so long ones together, texts of earlier batches are forgotten: they may not come again. */
const MOST_TEXTS_KEPT = 4096;
const MOST_CHARACTERS_KEPT = 256 * 1024;
/** Batches in which nothing is looked up after one whose texts did not repeat. */
const BATCHES_WITHOUT_LOOKUP = 8;

/** The type of such a column; `id` tells the dictionaries of a schema apart. */
export function textDictionary(id: number): Dictionary<Utf8, Int32> {
  return new Dictionary(new Utf8(), new Int32(), id);
}

/** A builder for a field whose Arrow type is known: with a dictionary where that is one of ours. */
export function columnBuilderOf(type: DataType, field: FieldSpec, capacity: number): ColumnBuilder {
  return isTextDictionary(type) ? new DictionaryColumn(field, type, capacity) : columnBuilder(field, capacity);
}

/** Whether a type is that of {@link textDictionary}, with any id. */
export function isTextDictionary(type: DataType): type is Dictionary<Utf8, Int32> {
  return (
    DataType.isDictionary(type) &&
    DataType.isUtf8(type.dictionary as DataType) &&
    DataType.isInt(type.indices as DataType) &&
    (type.indices as Int).bitWidth === 32 &&
    (type.indices as Int).isSigned
  );
}

/** Columns of one text in every row, by their number of rows. They share their buffers, which nobody writes to. */
export function constantText(type: Dictionary<Utf8, Int32>, text: string): (rows: number) => Data {
  const texts = new TextColumn({ name: "", type: { kind: "text" }, nullable: false }, type.dictionary, 1);
  texts.set(0, text);
  const dictionary = new Vector([texts.take(1)]);
  let first = new Int32Array(0);
  return (rows) => {
    if (rows > first.length) first = new Int32Array(rows);
    return makeData({ type, length: rows, nullCount: 0, data: first.subarray(0, rows), dictionary } as never) as Data;
  };
}

/** A text column under construction. */
export class DictionaryColumn implements ColumnBuilder {
  readonly #field: FieldSpec;
  readonly #type: Dictionary<Utf8, Int32>;
  readonly #texts: TextColumn;
  readonly #known = new KnownTexts();
  #entries = 0;
  #indices: Int32Array;
  #validity = new Validity();
  #lastText: string | undefined;
  #lastPlace = 0;
  #batchesWithoutLookup = 0;

  constructor(field: FieldSpec, type: Dictionary<Utf8, Int32>, capacity: number) {
    this.#field = field;
    this.#type = type;
    this.#texts = new TextColumn({ ...field, nullable: false }, type.dictionary, 64);
    this.#indices = new Int32Array(Math.max(8, capacity));
  }

  set(row: number, value: CellValue): void {
    if (value !== null && typeof value !== "string") throw misfit(this.#field);
    if (row >= this.#indices.length) this.#grow();
    if (value === null) {
      this.#validity.setNull(row, this.#field);
      this.#indices[row] = 0;
      return;
    }
    this.#validity.setValid(row);
    this.#indices[row] = this.#placeOf(value);
  }

  bytes(rows: number): number {
    return 4 * rows + this.#texts.bytes(this.#entries) + this.#validity.bytes(rows);
  }

  /** Whether the first `rows` rows are worth a dictionary. */
  pays(rows: number): boolean {
    return rows >= MIN_ROWS && MIN_REPEATS * this.#entries <= rows;
  }

  take(rows: number): Data {
    this.#decideLookup(rows);
    const { indices, validity, texts } = this.#takeParts(rows);
    const dictionary = new Vector([texts]);
    return makeData({ type: this.#type, length: rows, ...validity, data: indices, dictionary } as never) as Data;
  }

  /** As {@link take}, without a dictionary. */
  takePlain(rows: number): Data {
    const { indices, validity, texts } = this.#takeParts(rows);
    const plain = new TextColumn(this.#field, this.#type.dictionary, rows);
    const [bytes, offsets] = [Buffer.from(texts.values), texts.valueOffsets];
    const entries = Array.from({ length: texts.length }, (_, entry) =>
      bytes.toString("utf8", offsets[entry] ?? 0, offsets[entry + 1] ?? 0),
    );
    const { nullBitmap } = validity;
    for (let row = 0; row < rows; row++) {
      const isNull = nullBitmap !== undefined && ((nullBitmap[row >> 3] ?? 0) & (1 << (row & 7))) === 0;
      plain.set(row, isNull ? null : (entries[indices[row] ?? 0] ?? null));
    }
    return plain.take(rows);
  }

  #placeOf(text: string): number {
    if (this.#batchesWithoutLookup > 0) return this.#add(text);
    // Neighbours are often alike.
    if (text === this.#lastText) return this.#lastPlace;
    let place = this.#known.placeOf(text);
    if (place === undefined) {
      place = this.#add(text);
      this.#known.note(text, place);
    }
    this.#lastText = text;
    this.#lastPlace = place;
    return place;
  }

  #add(text: string): number {
    this.#texts.set(this.#entries, text);
    return this.#entries++;
  }

  #decideLookup(rows: number): void {
    if (this.#batchesWithoutLookup > 0) this.#batchesWithoutLookup--;
    else if (MIN_REPEATS * this.#entries > rows && rows >= MIN_ROWS)
      this.#batchesWithoutLookup = BATCHES_WITHOUT_LOOKUP;
  }

  #takeParts(rows: number): { indices: Int32Array; validity: ReturnType<Validity["take"]>; texts: Data<Utf8> } {
    const parts = {
      indices: this.#indices.subarray(0, rows),
      validity: this.#validity.take(rows),
      texts: this.#texts.take(this.#entries) as Data<Utf8>,
    };
    this.#indices = new Int32Array(this.#indices.length);
    this.#known.nextBatch();
    this.#entries = 0;
    this.#lastText = undefined;
    return parts;
  }

  #grow(): void {
    this.#indices = enlargedInt32(this.#indices);
  }
}

/**
 * Places of texts in the batch's dictionary. A text that was in an earlier batch is known by the very string it had there: keeping one
 * anew with each batch would fill V8's heap for old objects with strings that are garbage as soon as they got there.
 */
class KnownTexts {
  readonly #numbers = new Map<string, number>();
  /** By a text's number: its place, and the batch in which it has that. */
  #places: Int32Array = new Int32Array(64);
  #batches: Int32Array = new Int32Array(64);
  #batch = 1;
  #characters = 0;

  /** Its place in this batch, if it has one yet. */
  placeOf(text: string): number | undefined {
    const number = this.#numbers.get(text);
    return number === undefined || this.#batches[number] !== this.#batch ? undefined : this.#places[number];
  }

  /** From now on it has this place. */
  note(text: string, place: number): void {
    let number = this.#numbers.get(text);
    if (number === undefined) {
      number = this.#numbers.size;
      if (number >= this.#places.length) this.#grow();
      this.#numbers.set(text, number);
      this.#characters += text.length;
    }
    this.#batches[number] = this.#batch;
    this.#places[number] = place;
  }

  /** Forgets all places, and the texts once there are many. */
  nextBatch(): void {
    this.#batch += 1;
    if (this.#numbers.size <= MOST_TEXTS_KEPT && this.#characters <= MOST_CHARACTERS_KEPT) return;
    this.#numbers.clear();
    this.#characters = 0;
  }

  #grow(): void {
    this.#places = enlargedInt32(this.#places);
    this.#batches = enlargedInt32(this.#batches);
  }
}

function enlargedInt32(array: Int32Array): Int32Array {
  const larger = new Int32Array(2 * array.length);
  larger.set(array);
  return larger;
}
