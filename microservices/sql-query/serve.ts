/** The microservice itself: per request, the world of its grant, and the query in it. */
import { systemClock } from "../../lib/clock.ts";
import { PARTIAL_STATES } from "../../lib/data/field-metadata.ts";
import { runMicroservice } from "../../sdk/typescript/microservice.ts";
import { SqlQuerySettings } from "./config.ts";
import { runQuery, type QueryResult } from "./query.ts";
import { QUERY_REHEARSAL } from "./rehearsal.ts";
import type { StartedProcesses } from "./start-processes.ts";
import { openWorld, WorldMemory } from "./world.ts";

/** Serves the chain's requests with these processes. */
export async function serveQueries(startedProcesses: StartedProcesses): Promise<void> {
  const memory = new WorldMemory();
  await runMicroservice({
    name: "sql-query",
    rehearsal: QUERY_REHEARSAL,
    handle: async function* (_inputs, { data, grant, request, signal, settings, logger }) {
      const set = settings(SqlQuerySettings);
      const processes = startedProcesses();
      const sources = Object.entries(data).map(([name, { path, contentHash }]) => ({ name, path, contentHash }));
      const world = await openWorld(grant.dataSets, sources, {
        cacheFolder: set.DYNAMOS_WORLD_FOLDER,
        clock: systemClock,
        signal,
        memory,
        maxBytes: set.DYNAMOS_WORLDS_MAX_BYTES,
        temporaryBytes: set.DYNAMOS_LOAD_TEMP_BYTES,
      });
      const { algorithm, algorithmColumns, algorithmParameters } = request;
      const isPushed = set.DYNAMOS_PUSHDOWN && algorithm !== undefined && algorithm.trim() !== "";
      const pushed = isPushed ? { pushed: { algorithm, algorithmColumns, algorithmParameters } } : {};
      let result: QueryResult | undefined;
      try {
        result = await runQuery({ sql: request.query, world, signal, ...pushed }, processes);
        logger.debug({ isAggregated: result.schema.metadata.has(PARTIAL_STATES) }, "the query gives its result");
        yield { schema: result.schema };
        for await (const batch of result.batches) yield { batch, isUnchanged: true };
      } finally {
        // A reader may leave at the schema already.
        await result?.close();
        world.release();
      }
    },
  });
}
