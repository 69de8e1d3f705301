/** The settings of sql-query, set by the agent. `docs/configuration.md` lists them; a test compares. */
import { Type } from "@sinclair/typebox";
import { DEFAULT_LOAD_TEMPORARY_BYTES } from "../../lib/data/duckdb.ts";
import { DEFAULT_WORLDS_BYTES } from "../../lib/data/world-files.ts";
import { ChainConcurrency } from "../../lib/jobs/chain-environment.ts";
import { DEFAULT_QUERY_LIMITS } from "./query-protocol.ts";

/** Names are environment variables. */
export const SqlQuerySettings = Type.Object({
  DYNAMOS_WORLD_FOLDER: Type.String({
    description: "folder for files that hold just what a grant grants, and for sorting",
  }),
  DYNAMOS_CHAIN_CONCURRENCY: ChainConcurrency,
  DYNAMOS_CHAIN_WARM: Type.Boolean({
    default: false,
    description: "started ahead of its request: rehearses before it listens",
  }),
  DYNAMOS_PUSHDOWN: Type.Boolean({
    default: false,
    description: "aggregate in the query where sql-algorithm follows, and the answer is the same",
  }),
  DYNAMOS_QUERY_TIME_LIMIT_MS: Type.Integer({
    default: DEFAULT_QUERY_LIMITS.timeMs,
    minimum: 1,
    description: "longest time for the query",
  }),
  DYNAMOS_QUERY_MAX_ROWS: Type.Integer({
    default: DEFAULT_QUERY_LIMITS.rows,
    minimum: 1,
    description: "most rows of the result",
  }),
  DYNAMOS_QUERY_MAX_BYTES: Type.Integer({
    default: DEFAULT_QUERY_LIMITS.bytes,
    minimum: 1,
    description: "most bytes of the result",
  }),
  DYNAMOS_QUERY_MEMORY_BYTES: Type.Integer({
    default: DEFAULT_QUERY_LIMITS.memoryBytes,
    minimum: 1,
    description: "memory of the query's process",
  }),
  DYNAMOS_QUERY_TEMP_BYTES: Type.Integer({
    default: DEFAULT_QUERY_LIMITS.temporaryBytes,
    minimum: 0,
    description: "most disk that the query may use for sorting",
  }),
  DYNAMOS_WORLDS_MAX_BYTES: Type.Integer({
    default: DEFAULT_WORLDS_BYTES,
    minimum: 0,
    description: "disk for copies of what grants allow of the data; beyond it, copies unused for a minute go",
  }),
  DYNAMOS_LOAD_TEMP_BYTES: Type.Integer({
    default: DEFAULT_LOAD_TEMPORARY_BYTES,
    minimum: 0,
    description: "most disk that DuckDB may use beside such a copy that it makes",
  }),
});
