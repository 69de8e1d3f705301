/** The agent's settings. `docs/configuration.md` lists them; a test compares. */
import { Type, type Static } from "@sinclair/typebox";
import { DEFAULT_SPILLED_BYTES } from "../lib/algorithms/spilling-values.ts";
import { DEFAULT_LOAD_TEMPORARY_BYTES } from "../lib/data/duckdb.ts";
import { DEFAULT_WORLDS_BYTES } from "../lib/data/world-files.ts";
import { ChainLifetime } from "../lib/model/chain-lifetime.ts";
import { MetricsSetting } from "../lib/telemetry/metrics.ts";
import { TlsSettings } from "../lib/tls/settings.ts";
import { DEFAULT_LOAD_BYTES } from "./data/load.ts";

/** Names are environment variables. */
export const AgentSettings = Type.Object({
  DYNAMOS_STEWARD: Type.String({
    pattern: "^[A-Za-z][A-Za-z0-9]*$",
    description: "name of this data steward or third party",
  }),
  DYNAMOS_STORE: Type.String({ description: "knowledge store, for example sqlite:/path/store.db" }),
  DYNAMOS_BUS: Type.String({ description: "message bus, for example embedded:/path/bus.db" }),
  DYNAMOS_CHAIN_BUS: Type.Optional(
    Type.String({ description: "message bus for the chains' sidecars, where it is another URL than the agent's own" }),
  ),
  DYNAMOS_JOBS: Type.String({ description: "job runner, for example local:/path/jobs" }),
  DYNAMOS_POD_NAME: Type.Optional(
    Type.String({ description: "this agent's own pod, whose controller owns the chains' Jobs; on a cluster only" }),
  ),
  DYNAMOS_STATE_FOLDER: Type.String({ description: "folder for keys, loaded data and kept answers" }),
  DYNAMOS_ORCHESTRATOR_URL: Type.String({
    description:
      "base URL of the orchestrator, whose keys sign tokens; of several with commas between, one must answer",
  }),
  DYNAMOS_DATA_FILE: Type.Optional(Type.String({ description: "JSON file that says where this steward's data are" })),
  DYNAMOS_HOST: Type.String({ default: "127.0.0.1", description: "address to listen on" }),
  DYNAMOS_PORT: Type.Integer({
    default: 0,
    minimum: 0,
    maximum: 65535,
    description: "port to listen on; 0: any free one",
  }),
  DYNAMOS_ADVERTISED_URL: Type.Optional(
    Type.String({ description: "base URL that users reach this party's agents at; absent: this instance's" }),
  ),
  DYNAMOS_INSTANCE_URL: Type.Optional(
    Type.String({ description: "base URL that other services reach this very instance at; absent: host and port" }),
  ),
  ...TlsSettings,
  DYNAMOS_MAX_RUNS: Type.Integer({ default: 4, minimum: 1, description: "chains that run at once, per role" }),
  DYNAMOS_MAX_QUEUED_RUNS: Type.Integer({
    default: 200,
    minimum: 0,
    description: "requests that wait for a chain; more get 429",
  }),
  DYNAMOS_MAX_RUNS_PER_USER: Type.Optional(
    Type.Integer({ minimum: 1, description: "of these of one user; absent: one less than DYNAMOS_MAX_RUNS" }),
  ),
  DYNAMOS_MAX_QUEUED_RUNS_PER_USER: Type.Optional(
    Type.Integer({ minimum: 1, description: "of one user; absent: half of DYNAMOS_MAX_QUEUED_RUNS" }),
  ),
  DYNAMOS_REQUEST_DEADLINE_MS: Type.Integer({
    default: 600_000,
    minimum: 1000,
    maximum: 1_440_000,
    description: "longest time for one data request",
  }),
  DYNAMOS_PROVIDER_ACCEPT_MS: Type.Integer({
    default: 10_000,
    minimum: 100,
    description: "how long a third party waits for a data provider to accept, or to come back when it went offline",
  }),
  DYNAMOS_CREDITS: Type.Integer({ default: 16, minimum: 2, maximum: 1024, description: "chunks in flight per stream" }),
  DYNAMOS_STALL_TIMEOUT_MS: Type.Integer({
    default: 120_000,
    minimum: 1000,
    description: "a reader that takes nothing for this long is given up",
  }),
  DYNAMOS_KEPT_ANSWER_BYTES: Type.Integer({
    default: 16 * 1024 * 1024,
    minimum: 0,
    description: "largest answer that is kept for repeating it",
  }),
  DYNAMOS_KEPT_ANSWER_MS: Type.Integer({
    default: 600_000,
    minimum: 0,
    description: "how long an answer is kept for repeating it",
  }),
  DYNAMOS_MAX_KEPT_ANSWERS: Type.Integer({
    default: 1_000,
    minimum: 1,
    description: "most answers under way and kept; more get 429",
  }),
  DYNAMOS_MAX_KEPT_BYTES: Type.Integer({
    default: 1024 * 1024 * 1024,
    minimum: 0,
    description: "most bytes of all kept answers together",
  }),
  DYNAMOS_ANSWER_LINGER_MS: Type.Integer({
    default: 15_000,
    minimum: 0,
    description: "how long a run whose caller left goes on, for one who asks again under its Idempotency-Key",
  }),
  DYNAMOS_JOB_LEASE_MS: Type.Integer({
    default: 600_000,
    minimum: 1000,
    description: "how long an approval lives without use",
  }),
  DYNAMOS_ONLINE_LEASE_MS: Type.Integer({
    default: 5_000,
    minimum: 1000,
    description: "how soon a dead agent counts as offline",
  }),
  DYNAMOS_MEMORY_LIMIT_MIB: Type.Integer({
    default: 300,
    minimum: 32,
    description: "memory of a chain's process, unless its metadata say otherwise",
  }),
  DYNAMOS_CHAIN_LIFETIME: Type.Optional({
    ...ChainLifetime,
    description:
      "chains that requests run in, where the agreement does not say: perRequest or persistent; absent: as the request type says",
  }),
  DYNAMOS_PERSISTENT_CHAINS_MAX: Type.Integer({
    default: 2,
    minimum: 1,
    maximum: 1000,
    description: "most persistent chains of one shape, all instances of this party together",
  }),
  DYNAMOS_CHAIN_CONCURRENCY: Type.Integer({
    default: 4,
    minimum: 2,
    maximum: 1000,
    description: "runs that one persistent chain serves at once; its memory limits are so many times those of one run",
  }),
  DYNAMOS_CHAIN_IDLE_MS: Type.Integer({
    default: 60_000,
    minimum: 100,
    maximum: 86_400_000,
    description: "a persistent chain ends after so long without a run",
  }),
  DYNAMOS_CHAIN_MAX_AGE_MS: Type.Integer({
    default: 3_600_000,
    minimum: 1000,
    maximum: 86_400_000,
    description: "a persistent chain so old takes nothing new, and ends",
  }),
  DYNAMOS_WARM_CHAINS: Type.Integer({
    default: 0,
    minimum: 0,
    description: "most chains that wait, started, for requests to come; 0: each starts with its request",
  }),
  DYNAMOS_WARM_CHAIN_AGE_MS: Type.Integer({
    default: 600_000,
    minimum: 1000,
    maximum: 86_400_000,
    description: "how long such a chain waits before it is replaced",
  }),
  DYNAMOS_QUERY_TIME_LIMIT_MS: Type.Integer({
    default: 300_000,
    minimum: 100,
    description: "longest time for one query",
  }),
  DYNAMOS_QUERY_MAX_ROWS: Type.Integer({ default: 50_000_000, minimum: 1, description: "most rows of one query" }),
  DYNAMOS_QUERY_MAX_BYTES: Type.Integer({
    default: 20_000_000_000,
    minimum: 1,
    description: "most bytes of one query's result",
  }),
  DYNAMOS_QUERY_MEMORY_BYTES: Type.Integer({
    default: 200 * 1024 * 1024,
    minimum: 1,
    description: "memory of one query's process",
  }),
  DYNAMOS_PUSHDOWN: Type.Boolean({
    default: true,
    description: "let queries aggregate where the answer is the same as over their rows",
  }),
  DYNAMOS_QUERY_TEMP_BYTES: Type.Integer({
    default: 4_000_000_000,
    minimum: 0,
    description: "most disk that one query may use for sorting",
  }),
  DYNAMOS_MEDIAN_TEMP_BYTES: Type.Integer({
    default: DEFAULT_SPILLED_BYTES,
    minimum: 0,
    description: "most disk that the values of one answer's medians may use",
  }),
  DYNAMOS_WORLDS_MAX_BYTES: Type.Integer({
    default: DEFAULT_WORLDS_BYTES,
    minimum: 0,
    description: "disk for copies of what grants allow of the data; beyond it, copies unused for a minute go",
  }),
  DYNAMOS_LOAD_MAX_BYTES: Type.Integer({
    default: DEFAULT_LOAD_BYTES,
    minimum: 0,
    description: "most bytes of one data set's files that are loaded: what is made of them takes about as much disk",
  }),
  DYNAMOS_LOAD_TEMP_BYTES: Type.Integer({
    default: DEFAULT_LOAD_TEMPORARY_BYTES,
    minimum: 0,
    description: "most disk that DuckDB may use beside a file that it makes of the data",
  }),
  DYNAMOS_DRAIN_MS: Type.Integer({
    default: 10_000,
    minimum: 0,
    description: "how long runs may go on after the agent was told to stop",
  }),
  DYNAMOS_METRICS: MetricsSetting,
  DYNAMOS_LOG_LEVEL: Type.String({ default: "info", description: "fatal, error, warn, info, debug or trace" }),
  DYNAMOS_EXIT_WITH_PARENT: Type.Boolean({ default: false, description: "stop when standard input closes" }),
  OTEL_EXPORTER_OTLP_ENDPOINT: Type.Optional(Type.String({ description: "OpenTelemetry collector; absent: no spans" })),
});
export type AgentSettings = Static<typeof AgentSettings>;

/** The base URLs of the orchestrator's replicas, each without a slash at its end. */
export function orchestratorUrls({ DYNAMOS_ORCHESTRATOR_URL: urls }: AgentSettings): readonly string[] {
  return urls.split(",").map((url) => url.trim().replace(/\/+$/, ""));
}
