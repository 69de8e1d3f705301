/** sql-aggregate: the first element of a third party's chain. It joins the data providers' streams. */
import type { RecordBatch } from "apache-arrow";
import { AppError } from "../../lib/errors.ts";
import { runMicroservice } from "../../sdk/typescript/microservice.ts";
import { ROWS_QUESTION } from "../../sdk/typescript/rehearsal-data.ts";
import { joinStreams, type ProviderStream } from "./aggregate.ts";

void runMicroservice({
  name: "sql-aggregate",
  rehearsal: { requests: [ROWS_QUESTION] },
  handle: async function* (inputs, { signal, minimumGroupSize }) {
    const rows = new Map<string, number>();
    const streams = inputs.flatMap(({ provider, schema, failure, batches }): ProviderStream[] =>
      failure === undefined && schema !== undefined
        ? [{ provider, schema, batches: counted(provider, batches, rows) }]
        : [],
    );
    if (streams.length === 0) {
      throw inputs[0]?.failure ?? new AppError("job_failed", "No data provider sent anything.");
    }
    const joined = joinStreams(streams, { signal });
    yield { schema: joined.schema };
    for await (const batch of joined.batches) yield { batch };
    const providers = inputs.map(({ provider, failure }) =>
      failure === undefined
        ? { name: provider, status: "ok", ...shownRows(rows.get(provider) ?? 0, minimumGroupSize) }
        : { name: provider, status: "failed", code: failure.code, detail: failure.message },
    );
    yield { notes: { providers } };
  },
});

/** The number of a provider's rows, unless it would tell what a withheld group is withheld for (decision 16). */
function shownRows(rows: number, minimumGroupSize: number): { readonly rows?: number } {
  return minimumGroupSize > 1 && rows < minimumGroupSize ? {} : { rows };
}

/** The same batches; their rows are added up under the provider's name. */
async function* counted(
  provider: string,
  batches: AsyncIterable<RecordBatch>,
  rows: Map<string, number>,
): AsyncGenerator<RecordBatch, void, undefined> {
  for await (const batch of batches) {
    rows.set(provider, (rows.get(provider) ?? 0) + batch.numRows);
    yield batch;
  }
}
