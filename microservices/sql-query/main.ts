/** sql-query: the first element of a data provider's chain. It runs the question's query over what the grant makes exist. */
import { mkdir } from "node:fs/promises";
import { systemClock } from "../../lib/clock.ts";
import { runMicroservice } from "../../sdk/typescript/microservice.ts";
import { SqlQuerySettings } from "./config.ts";
import { runQuery } from "./query.ts";
import { DEFAULT_QUERY_LIMITS } from "./query-protocol.ts";
import { openWorld } from "./world.ts";

void runMicroservice({
  name: "sql-query",
  handle: async function* (_inputs, { data, grant, request, signal, settings }) {
    const set = settings(SqlQuerySettings);
    await mkdir(set.DYNAMOS_WORLD_FOLDER, { recursive: true });
    const sources = Object.entries(data).map(([name, { path, contentHash }]) => ({ name, path, contentHash }));
    const world = await openWorld(grant.dataSets, sources, {
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
