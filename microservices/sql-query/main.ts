/** sql-query: the first element of a data provider's chain. It runs the question's query over what the grant makes exist. */
import { mkdir } from "node:fs/promises";
import { systemClock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import { runMicroservice } from "../../sdk/typescript/microservice.ts";
import { SqlQuerySettings } from "./config.ts";
import { runQuery } from "./query.ts";
import { DEFAULT_QUERY_LIMITS } from "./query-protocol.ts";
import { openWorld, type DataSetSource } from "./world.ts";

await runMicroservice({
  name: "sql-query",
  handle: async function* (_inputs, { grant, request, signal, settings }) {
    const set = settings(SqlQuerySettings);
    await mkdir(set.DYNAMOS_WORLD_FOLDER, { recursive: true });
    const world = await openWorld(grant.dataSets, parseSources(set.DYNAMOS_DATA), {
      cacheFolder: set.DYNAMOS_WORLD_FOLDER,
      clock: systemClock,
      signal,
    });
    const limits = {
      ...DEFAULT_QUERY_LIMITS,
      timeMs: set.DYNAMOS_QUERY_TIME_LIMIT_MS,
      rows: set.DYNAMOS_QUERY_MAX_ROWS,
      bytes: set.DYNAMOS_QUERY_MAX_BYTES,
      memoryBytes: set.DYNAMOS_QUERY_MEMORY_BYTES,
      temporaryBytes: set.DYNAMOS_QUERY_TEMP_BYTES,
    };
    const temporaryFolder = set.DYNAMOS_WORLD_FOLDER;
    try {
      const result = await runQuery({ sql: request.query, world, limits, signal, temporaryFolder });
      yield { schema: result.schema };
      for await (const batch of result.batches) yield { batch };
    } finally {
      world.release();
    }
  },
});

function parseSources(json: string): DataSetSource[] {
  const sources: unknown = JSON.parse(json);
  if (typeof sources !== "object" || sources === null) {
    throw new AppError("configuration_invalid", "DYNAMOS_DATA is not a JSON object.");
  }
  return Object.entries(sources as Record<string, Omit<DataSetSource, "name">>).map(([name, source]) => ({
    name,
    ...source,
  }));
}
