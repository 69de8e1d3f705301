/** Starts the processes for queries as early as can be: before the settings are known to be right, and before there is a question. */
import type { Static } from "@sinclair/typebox";
import type { SqlQuerySettings } from "./config.ts";
import { QueryProcesses } from "./query-processes.ts";
import { DEFAULT_QUERY_LIMITS, REHEARSED_QUERIES } from "./query-protocol.ts";

/** The processes; throws why there are none. */
export type StartedProcesses = () => QueryProcesses;

/** Starts the first process. What fails is thrown when the processes are asked for: there is nobody to tell before. */
export function startQueryProcesses(load: () => Static<typeof SqlQuerySettings>): StartedProcesses {
  try {
    const settings = load();
    const processes = new QueryProcesses({
      limits: {
        ...DEFAULT_QUERY_LIMITS,
        timeMs: settings.DYNAMOS_QUERY_TIME_LIMIT_MS,
        rows: settings.DYNAMOS_QUERY_MAX_ROWS,
        bytes: settings.DYNAMOS_QUERY_MAX_BYTES,
        memoryBytes: settings.DYNAMOS_QUERY_MEMORY_BYTES,
        temporaryBytes: settings.DYNAMOS_QUERY_TEMP_BYTES,
      },
      temporaryFolder: settings.DYNAMOS_WORLD_FOLDER,
      atOnce: settings.DYNAMOS_CHAIN_CONCURRENCY,
      rehearsed: settings.DYNAMOS_CHAIN_WARM ? REHEARSED_QUERIES : 0,
    });
    return () => processes;
  } catch (error) {
    return () => {
      throw error;
    };
  }
}
