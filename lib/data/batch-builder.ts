/** Rows to record batches: columns grow in typed buffers, so that a row costs no object of its own. */
import { Field, makeData, RecordBatch, Schema, Struct, type Data } from "apache-arrow";
import { AppError } from "../errors.ts";
import { columnBuilder, type ColumnBuilder } from "./column-builder.ts";
import { DictionaryColumn, textDictionary } from "./dictionary-column.ts";
import { toArrowSchema, type CellValue, type FieldSpec } from "./field-types.ts";

/** Settings of a {@link BatchBuilder}. */
export interface BatchBuilderOptions {
  /** Rows that fit before the buffers grow; about as many as a batch will have. Default 1024. */
  readonly expectedRows?: number;
  /** Metadata of the schema. */
  readonly metadata?: ReadonlyMap<string, string>;
  /**
   * Text columns get dictionaries where they pay (`dictionary-column.ts`), which the first batch decides. The schema is then
   * known only after it. Default false.
   */
  readonly dictionaries?: boolean;
}

/**
 * Collects rows for one batch at a time. The caller decides by {@link rowCount} and {@link estimatedBytes} when a batch
 * is full; nothing is flushed by itself.
 */
export class BatchBuilder {
  readonly #fields: readonly FieldSpec[];
  readonly #columns: ColumnBuilder[];
  readonly #expectedRows: number;
  #schema: Schema;
  #isDecided: boolean;
  #rowCount = 0;

  /** Fails with `type_mismatch` for a decimal type that Arrow cannot hold. */
  constructor(fields: readonly FieldSpec[], options: BatchBuilderOptions = {}) {
    const { expectedRows = 1024, metadata, dictionaries = false } = options;
    this.#schema = toArrowSchema(fields, metadata);
    this.#fields = fields;
    this.#expectedRows = expectedRows;
    this.#isDecided = !dictionaries;
    this.#columns = fields.map((field, place) =>
      dictionaries && field.type.kind === "text"
        ? new DictionaryColumn(field, textDictionary(place), expectedRows)
        : columnBuilder(field, expectedRows),
    );
  }

  /** The schema of every batch built here. Fails with `internal` before the first batch where dictionaries may be in it. */
  get schema(): Schema {
    if (!this.#isDecided) throw new AppError("internal", "The schema is known once the first batch has been built.");
    return this.#schema;
  }

  /**
   * Adds a row, one value per field in order. Fails with `type_mismatch` when a value does not fit its field (the message
   * names the column, never the value); the row is then not in the batch.
   */
  append(row: readonly CellValue[]): void {
    if (row.length !== this.#columns.length) {
      throw new AppError("type_mismatch", `A row has ${row.length} values for ${this.#columns.length} columns.`);
    }
    // Columns write at the row's index, so a row that fails half-way is overwritten by the next one.
    for (let index = 0; index < row.length; index++) {
      this.#columns[index]?.set(this.#rowCount, row[index] ?? null);
    }
    this.#rowCount++;
  }

  /** Rows since the last {@link build}. */
  get rowCount(): number {
    return this.#rowCount;
  }

  /** About how many bytes the batch has, without the few hundred of its message. */
  get estimatedBytes(): number {
    return this.#columns.reduce((sum, column) => sum + column.bytes(this.#rowCount), 0);
  }

  /** The rows so far as a batch (possibly of no rows); the builder then starts the next one. */
  build(): RecordBatch {
    const rows = this.#rowCount;
    const children: Data[] = this.#isDecided ? this.#columns.map((column) => column.take(rows)) : this.#decide(rows);
    const data = makeData({ type: new Struct(this.#schema.fields), length: rows, nullCount: 0, children });
    this.#rowCount = 0;
    return new RecordBatch(this.#schema, data);
  }

  /** The first batch: its columns show which of them keep their dictionaries. */
  #decide(rows: number): Data[] {
    const children = this.#columns.map((column, place) => {
      if (!(column instanceof DictionaryColumn) || column.pays(rows)) return column.take(rows);
      this.#columns[place] = columnBuilder(this.#fields[place] as FieldSpec, this.#expectedRows);
      return column.takePlain(rows);
    });
    const fields = this.#schema.fields.map(
      ({ name, nullable, metadata }, place) =>
        new Field(name, (children[place] as Data).type, nullable, new Map(metadata)),
    );
    this.#schema = new Schema(fields, this.#schema.metadata);
    this.#isDecided = true;
    return children;
  }
}
