/**
 * sql-aggregate: joins the streams of several data providers at the third party into one, and keeps each one's name.
 *
 * `joined-schema.ts` finds the schema that takes all of them, `race.ts` reads them side by side.
 */
import { makeData, RecordBatch, Struct, type Data, type Schema } from "apache-arrow";
import { convertCell } from "../../lib/algorithms/widening.ts";
import { BatchBuilder } from "../../lib/data/batch-builder.ts";
import { columnReaders } from "../../lib/data/column-reader.ts";
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
  const columns = joined.fields.slice(1).map((field, i) => ({ field, source: sources[i] as SourceColumn }));
  const changed = columns.filter(({ source }) => !source.isUnchanged);
  const [providerField] = joined.fields as [FieldSpec, ...FieldSpec[]];
  const builder = new BatchBuilder([providerField, ...changed.map(({ field }) => field)]);
  return (batch) => {
    const readers = columnReaders(batch);
    for (let row = 0; row < batch.numRows; row++) {
      const cells = changed.map(({ field, source }) =>
        convertIn(provider, field, source, readers[source.place]?.get(row) ?? null),
      );
      builder.append([provider, ...cells]);
    }
    const [providerData, ...built] = builder.build().data.children as [Data, ...Data[]];
    const children = columns.map(({ source }) =>
      source.isUnchanged ? (batch.data.children[source.place] as Data) : (built.shift() as Data),
    );
    const type = new Struct(joined.schema.fields);
    const data = makeData({ type, length: batch.numRows, nullCount: 0, children: [providerData, ...children] });
    return new RecordBatch(joined.schema, data);
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
