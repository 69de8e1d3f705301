/** Rows to record batches: columns grow in typed buffers, so that a row costs no object of its own. */
import { makeData, RecordBatch, Struct, type Data, type Schema } from "apache-arrow";
import { AppError } from "../errors.ts";
import { columnBuilder, type ColumnBuilder } from "./column-builder.ts";
import { toArrowSchema, type CellValue, type FieldSpec } from "./field-types.ts";

/** Settings of a {@link BatchBuilder}. */
export interface BatchBuilderOptions {
  /** Rows that fit before the buffers grow; about as many as a batch will have. Default 1024. */
  readonly expectedRows?: number;
  /** Metadata of the schema. */
  readonly metadata?: ReadonlyMap<string, string>;
}

/**
 * Collects rows for one batch at a time. The caller decides by {@link rowCount} and {@link estimatedBytes} when a batch
 * is full; nothing is flushed by itself.
 */
export class BatchBuilder {
  /** The schema of every batch built here. */
  readonly schema: Schema;
  readonly #fields: readonly FieldSpec[];
  readonly #columns: readonly ColumnBuilder[];
  #rowCount = 0;

  /** Fails with `type_mismatch` for a decimal type that Arrow cannot hold. */
  constructor(fields: readonly FieldSpec[], options: BatchBuilderOptions = {}) {
    this.schema = toArrowSchema(fields, options.metadata);
    this.#fields = fields;
    this.#columns = fields.map((field) => columnBuilder(field, options.expectedRows ?? 1024));
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
    const children: Data[] = this.#columns.map((column) => column.take(this.#rowCount));
    const type = new Struct(toArrowSchema(this.#fields).fields);
    const data = makeData({ type, length: this.#rowCount, nullCount: 0, children });
    this.#rowCount = 0;
    return new RecordBatch(this.schema, data);
  }
}
