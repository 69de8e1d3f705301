/**
 * sql-aggregate: joins the streams of several data providers at the third party into one, and keeps each one's name.
 *
 * `joined-schema.ts` finds the schema that takes all of them, `race.ts` reads them side by side.
 */
import {
  makeData,
  RecordBatch,
  Struct,
  type Data,
  type DataType,
  type Dictionary,
  type Field,
  type Int32,
  type Schema,
  type Utf8,
} from "apache-arrow";
import { convertCell } from "../../lib/algorithms/widening.ts";
import { columnReader } from "../../lib/data/column-reader.ts";
import { columnBuilderOf, constantText } from "../../lib/data/dictionary-column.ts";
import type { FieldSpec } from "../../lib/data/field-types.ts";
import { AppError, toAppError } from "../../lib/errors.ts";
import { joinSchemas, type JoinedSchema, type SourceColumn } from "./joined-schema.ts";
import { race, StreamFailed } from "./race.ts";

/** One provider's stream. */
export interface ProviderStream {
  readonly provider: string;
  readonly schema: Schema;
  readonly batches: AsyncIterable<RecordBatch>;
}

/** All of them as one. */
export interface JoinedStream {
  readonly schema: Schema;
  readonly batches: AsyncGenerator<RecordBatch, void, undefined>;
}

/**
 * Joins the streams: a first column with the provider's name, then the columns of all, widened where their types differ. Rows
 * come in whatever order the batches do, at most one batch per provider ahead of the reader. The schemas are checked at
 * once (see {@link joinSchemas}); a failing stream ends all of them with its error, which names its provider.
 */
export function joinStreams(
  inputs: readonly ProviderStream[],
  { signal }: { readonly signal: AbortSignal },
): JoinedStream {
  const joined = joinSchemas(inputs);
  return { schema: joined.schema, batches: joinBatches(inputs, joined, signal) };
}

async function* joinBatches(
  inputs: readonly ProviderStream[],
  joined: JoinedSchema,
  signal: AbortSignal,
): AsyncGenerator<RecordBatch, void, undefined> {
  const converters = inputs.map(({ provider }) => converter(provider, joined));
  try {
    const streams = inputs.map(({ batches }) => batches);
    for await (const { source, item } of race(streams, signal)) {
      yield (converters[source] as (batch: RecordBatch) => RecordBatch)(item);
    }
  } catch (error) {
    throw asPartysError(error, inputs);
  }
}

/** From a provider's batches to joined ones. Columns that need no widening are handed on as they are. */
function converter(provider: string, joined: JoinedSchema): (batch: RecordBatch) => RecordBatch {
  const sources = joined.sources.get(provider) ?? [];
  const [providerField, ...fields] = joined.schema.fields as [Field, ...Field[]];
  const columns = fields.map((field, index) =>
    columnConverter(provider, field, joined.fields[index + 1] as FieldSpec, sources[index] as SourceColumn),
  );
  const names = constantText(providerField.type as Dictionary<Utf8, Int32>, provider);
  const type = new Struct(joined.schema.fields);
  return (batch) => {
    const children = [names(batch.numRows), ...columns.map((convert) => convert(batch))];
    return new RecordBatch(joined.schema, makeData({ type, length: batch.numRows, nullCount: 0, children }));
  };
}

function columnConverter(
  provider: string,
  { type }: Field,
  spec: FieldSpec,
  source: SourceColumn,
): (batch: RecordBatch) => Data {
  const { place, isUnchanged } = source;
  if (isUnchanged) return (batch) => (batch.data.children[place] as Data).clone(type as DataType);
  const builder = columnBuilderOf(type as DataType, spec, 1024);
  return (batch) => {
    const reader = columnReader(batch, place);
    for (let row = 0; row < batch.numRows; row++) builder.set(row, convertIn(provider, spec, source, reader.get(row)));
    return builder.take(batch.numRows);
  };
}

function convertIn(
  provider: string,
  field: FieldSpec,
  { from, to }: SourceColumn,
  value: Parameters<typeof convertCell>[2],
): ReturnType<typeof convertCell> {
  try {
    return convertCell(from, to, value);
  } catch (error) {
    const { code, message } = toAppError(error);
    throw new AppError(code, `The column "${field.name}" of ${provider} cannot be joined: ${message}`, {
      party: provider,
      cause: error,
      details: { column: field.name },
    });
  }
}

function asPartysError(error: unknown, inputs: readonly ProviderStream[]): AppError {
  if (!(error instanceof StreamFailed)) return toAppError(error);
  return toAppError(error.cause).withParty(inputs[error.source]?.provider ?? "");
}
