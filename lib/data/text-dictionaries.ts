/** Dictionaries for batches that were made without: for sources that build their columns themselves. */
import { Field, makeData, RecordBatch, Schema, Struct, type Data } from "apache-arrow";
import { columnReader } from "./column-reader.ts";
import { DictionaryColumn, textDictionary } from "./dictionary-column.ts";
import { fieldsOf } from "./field-types.ts";

/** Gives the plain text columns of batches dictionaries where they pay, which the first batch decides (`dictionary-column.ts`). */
export class TextDictionaries {
  /** By place; undefined until the first batch. */
  #columns: ReadonlyMap<number, DictionaryColumn> | undefined;
  #schema: Schema | undefined;

  /** The batch, or one of the same rows; all have the schema of the first. */
  encode(batch: RecordBatch): RecordBatch {
    const columns = this.#columns ?? candidates(batch);
    const encoded = new Map([...columns].map(([place, column]) => [place, encodedColumn(batch, place, column)]));
    if (this.#columns === undefined) {
      for (const [place, { pays }] of encoded) if (!pays) encoded.delete(place);
      this.#columns = new Map([...columns].filter(([place]) => encoded.has(place)));
    }
    const children = batch.data.children.map((child, place) => encoded.get(place)?.data ?? child);
    this.#schema ??= withTypesOf(batch.schema, children);
    const type = new Struct(this.#schema.fields);
    return new RecordBatch(this.#schema, makeData({ type, length: batch.numRows, nullCount: 0, children }));
  }
}

function candidates({ schema, numRows }: RecordBatch): Map<number, DictionaryColumn> {
  const columns = fieldsOf(schema).flatMap((field, place) =>
    field.type.kind === "text"
      ? [[place, new DictionaryColumn(field, textDictionary(place), Math.max(1, numRows))] as const]
      : [],
  );
  return new Map(columns);
}

function encodedColumn(
  batch: RecordBatch,
  place: number,
  column: DictionaryColumn,
): { readonly data: Data; readonly pays: boolean } {
  const reader = columnReader(batch, place);
  for (let row = 0; row < batch.numRows; row++) column.set(row, reader.get(row));
  const pays = column.pays(batch.numRows);
  return { data: column.take(batch.numRows), pays };
}

function withTypesOf(schema: Schema, children: readonly Data[]): Schema {
  const fields = schema.fields.map(
    ({ name, nullable, metadata }, place) => new Field(name, (children[place] as Data).type, nullable, metadata),
  );
  return new Schema(fields, schema.metadata);
}
